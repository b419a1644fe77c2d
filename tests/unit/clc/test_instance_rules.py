"""The life of an instance, over every state and everything a node may say."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from mallee.clc.v1 import record_pb2
from mallee.nc.v1 import instance_pb2
from services.clc.instance import rules

STATES = [s for s in record_pb2.InstanceState.values() if s in rules.NEXT]
HEARD = [None, *(v for v in instance_pb2.VmState.values() if v != instance_pb2.VM_STATE_UNSPECIFIED)]


@pytest.mark.parametrize(("state", "heard"), list(itertools.product(STATES, HEARD)))
def test_steps_are_legal_and_silence_moves_nothing(state: Any, heard: Any) -> None:
    step = rules.next_step(state, heard)
    if isinstance(step, int):
        assert step in rules.NEXT[state]
        assert heard is not None


@pytest.mark.parametrize("state", STATES)
def test_every_state_but_the_last_has_a_way_out(state: Any) -> None:
    outcomes = {rules.next_step(state, heard) for heard in HEARD}
    assert state == rules.TERMINATED or any(isinstance(o, int) for o in outcomes)


@pytest.mark.parametrize("heard", HEARD)
def test_what_shuts_down_is_ordered_away_until_it_is_gone(heard: Any) -> None:
    step = rules.next_step(rules.SHUTTING_DOWN, heard)
    assert step == (rules.TERMINATED if heard == instance_pb2.VM_STATE_GONE else rules.Do.TERMINATE)


def test_a_vm_of_a_terminated_instance_is_removed() -> None:
    assert rules.next_step(rules.TERMINATED, instance_pb2.VM_STATE_RUNNING) is rules.Do.TERMINATE
    assert rules.next_step(rules.TERMINATED, None) is None


def test_a_pending_launch_that_nobody_speaks_of_is_ordered_again() -> None:
    assert rules.next_step(rules.PENDING, None) is rules.Do.ENSURE


def test_a_running_instance_is_never_moved_by_silence_or_a_restart_of_its_host() -> None:
    assert rules.next_step(rules.RUNNING, None) is None
    assert rules.next_step(rules.RUNNING, instance_pb2.VM_STATE_PREPARING) is None


@pytest.mark.parametrize(
    "heard", [instance_pb2.VM_STATE_POWERED_OFF, instance_pb2.VM_STATE_FAILED, instance_pb2.VM_STATE_GONE]
)
def test_every_end_has_a_reason_in_words(heard: Any) -> None:
    code, message = rules.REASONS[heard]
    assert message.startswith(f"{code}: ")
