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


KINDS = list(itertools.product(["", "instance-store", "ebs"], ["stop", "terminate"], [1, 2]))


@pytest.mark.parametrize(("state", "heard", "kind"), list(itertools.product(STATES, HEARD, KINDS)))
def test_steps_are_legal_and_silence_moves_nothing(state: Any, heard: Any, kind: tuple[str, str, int]) -> None:
    root, behavior, generation = kind
    record = record_pb2.InstanceRecord(
        state=state, root_device_type=root, shutdown_behavior=behavior, generation=generation
    )
    step = rules.next_step(state, heard, way_out=rules.way_out(record, heard))
    if isinstance(step, int):
        assert step in rules.NEXT[state]
        assert heard is not None
    if root != rules.EBS:
        assert step not in (rules.STOPPING, rules.STOPPED) or state == rules.STOPPING


@pytest.mark.parametrize("state", STATES)
def test_every_state_but_the_resting_ones_has_a_way_out(state: Any) -> None:
    outcomes = {rules.next_step(state, heard) for heard in HEARD}
    assert state in (rules.STOPPED, rules.TERMINATED) or any(isinstance(o, int) for o in outcomes)


@pytest.mark.parametrize(("going", "gone"), [(rules.SHUTTING_DOWN, rules.TERMINATED), (rules.STOPPING, rules.STOPPED)])
@pytest.mark.parametrize("heard", HEARD)
def test_what_goes_is_ordered_away_until_it_is_gone(going: Any, gone: Any, heard: Any) -> None:
    step = rules.next_step(going, heard)
    assert step == (gone if heard == instance_pb2.VM_STATE_GONE else rules.Do.TERMINATE)


@pytest.mark.parametrize("state", [rules.TERMINATED, rules.STOPPED])
def test_a_vm_that_is_to_be_no_more_is_removed(state: Any) -> None:
    assert rules.next_step(state, instance_pb2.VM_STATE_RUNNING) is rules.Do.TERMINATE
    assert rules.next_step(state, None) is None


@pytest.mark.parametrize(
    ("state", "generation", "behavior", "heard", "goes"),
    [
        (rules.RUNNING, 1, "stop", instance_pb2.VM_STATE_POWERED_OFF, rules.STOPPING),
        (rules.RUNNING, 1, "terminate", instance_pb2.VM_STATE_POWERED_OFF, rules.SHUTTING_DOWN),
        (rules.RUNNING, 1, "terminate", instance_pb2.VM_STATE_FAILED, rules.STOPPING),
        (rules.PENDING, 1, "stop", instance_pb2.VM_STATE_FAILED, rules.SHUTTING_DOWN),
        (rules.PENDING, 2, "terminate", instance_pb2.VM_STATE_FAILED, rules.STOPPING),
    ],
)
def test_an_instance_on_volumes_goes_where_they_outlive_its_vm(
    state: Any, generation: int, behavior: str, heard: Any, goes: Any
) -> None:
    record = record_pb2.InstanceRecord(
        state=state, root_device_type=rules.EBS, shutdown_behavior=behavior, generation=generation
    )
    assert rules.next_step(state, heard, way_out=rules.way_out(record, heard)) == goes


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
