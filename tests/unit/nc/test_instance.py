from __future__ import annotations

import itertools

import pytest

from common.errors import CloudError, Denied, InvalidArgument, NoCapacity, NotFound, Unavailable
from mallee.nc.v1 import instance_pb2, record_pb2
from services.nc.drivers.base import Power
from services.nc.instance import (
    AFTER,
    NEXT,
    Do,
    Goal,
    Patience,
    Phase,
    Rest,
    give_up,
    next_step,
    observation_of,
    rest_of,
)

POWERS = (None, *Power)
OFF = (None, Power.OFF_BY_HOST, Power.CRASHED, Power.OFF_UNKNOWN)
ALL = list(itertools.product(Phase, POWERS, (False, True)))


@pytest.mark.parametrize(("phase", "power", "held"), ALL)
def test_steps_are_legal(phase: Phase, power: Power | None, held: bool) -> None:
    step = next_step(Goal.RUN, phase, power, held=held)
    if isinstance(step, Phase):
        assert step in NEXT[phase]
    elif step in AFTER:
        assert AFTER[step] in NEXT[phase] or AFTER[step] is phase


@pytest.mark.parametrize(("phase", "power", "held"), ALL)
def test_what_is_to_be_gone_is_removed_whatever_it_does(phase: Phase, power: Power | None, held: bool) -> None:
    assert next_step(Goal.GONE, phase, power, held=held) is Do.REMOVE


@pytest.mark.parametrize(("phase", "power", "held"), ALL)
def test_a_guest_with_time_left_is_asked_as_long_as_it_runs(phase: Phase, power: Power | None, held: bool) -> None:
    step = next_step(Goal.GONE, phase, power, held=held, has_grace=True)
    assert step is (Do.SHUT_DOWN if power is Power.RUNNING else Do.REMOVE)
    assert next_step(Goal.RUN, phase, power, held=held, has_grace=True) is not Do.SHUT_DOWN


@pytest.mark.parametrize(("phase", "power", "held"), ALL)
def test_nothing_is_started_that_runs_or_is_over(phase: Phase, power: Power | None, held: bool) -> None:
    step = next_step(Goal.RUN, phase, power, held=held)
    if step in (Do.LAUNCH, Do.PLUG, Do.RESUME):
        assert power is not Power.RUNNING
        assert phase in (Phase.PREPARING, Phase.RUNNING)


@pytest.mark.parametrize("power", POWERS)
def test_only_its_guest_ends_a_vm_for_good(power: Power | None) -> None:
    ends = next_step(Goal.RUN, Phase.RUNNING, power) is Phase.POWERED_OFF
    assert ends == (power is Power.OFF_BY_GUEST)


@pytest.mark.parametrize("power", [*OFF, Power.OFF_BY_GUEST])
def test_what_was_held_with_the_host_is_started_again_however_it_went_off(power: Power | None) -> None:
    assert next_step(Goal.RUN, Phase.RUNNING, power, held=True) is Do.LAUNCH


def test_held_is_forgotten_once_it_runs() -> None:
    assert next_step(Goal.RUN, Phase.RUNNING, Power.RUNNING, held=True) is Phase.RUNNING
    assert next_step(Goal.RUN, Phase.RUNNING, Power.RUNNING) is None


@pytest.mark.parametrize(("phase", "power", "rest"), list(itertools.product(Phase, POWERS, Rest)))
def test_what_is_to_rest_is_off_before_it_is_started_again(phase: Phase, power: Power | None, rest: Rest) -> None:
    """A guest that was asked may go off any moment: a rest that is over is not, while it runs."""
    step = next_step(Goal.RUN, phase, power, held=True, rest=rest)
    if phase is not Phase.RUNNING:
        assert step == next_step(Goal.RUN, phase, power, held=True)
    elif power in (Power.RUNNING, Power.PAUSED, Power.STALLED):
        assert step is Do.PULL_THE_PLUG
        asked = next_step(Goal.RUN, phase, power, held=True, has_grace=True, rest=rest)
        assert asked is (Do.SHUT_DOWN if power is Power.RUNNING else Do.PULL_THE_PLUG)
    else:
        assert step is {Rest.DUE: Do.NOTE_REST, Rest.REACHED: None, Rest.OVER: Do.WAKE}[rest]
    assert next_step(Goal.GONE, phase, power, held=True, rest=rest) is Do.REMOVE


@pytest.mark.parametrize(
    ("until_ms", "at_rest", "rest"),
    [(0, False, None), (1, True, Rest.OVER), (5_000, False, Rest.DUE), (5_000, True, Rest.REACHED)],
)
def test_a_rest_has_its_time(until_ms: int, at_rest: bool, rest: Rest | None) -> None:
    record = record_pb2.InstanceRecord(rest_until_ms=until_ms, at_rest=at_rest)
    assert rest_of(record, now_s=4.0) is rest


@pytest.mark.parametrize(("phase", "power"), list(itertools.product(Phase, POWERS)))
def test_every_way_ends(phase: Phase, power: Power | None) -> None:
    """Acts that succeed and a guest that stays on lead to a rest within a few steps."""
    effect = {Do.LAUNCH: Power.PAUSED, Do.PLUG: Power.RUNNING, Do.RESUME: Power.RUNNING, Do.CLEAR: None, Do.CLEAN: None}
    for _ in range(6):
        step = next_step(Goal.RUN, phase, power)
        if step is None:
            assert phase in (Phase.RUNNING, Phase.FAILED, Phase.POWERED_OFF)
            return
        if isinstance(step, Phase):
            phase = step
        else:
            power, phase = effect[step], AFTER.get(step, phase)
    raise AssertionError("it goes round and round")


@pytest.mark.parametrize("phase", Phase)
def test_failed_is_told_only_when_nothing_is_left(phase: Phase) -> None:
    record = record_pb2.InstanceRecord(phase=phase.value)
    assert (observation_of(record).state == instance_pb2.VM_STATE_FAILED) == (phase is Phase.FAILED)


PATIENCE = Patience(tries=3, wait_s=100, room_s=60, fault_s=10)


@pytest.mark.parametrize(
    ("error", "tries", "failing_s", "code"),
    [
        (InvalidArgument("hostile"), 1, 0, "Client.InvalidParameterValue"),
        (InvalidArgument("big", code="InvalidParameterCombination"), 1, 0, "Client.InvalidParameterCombination"),
        (NotFound("no pin", code="InvalidAMIID.NotFound"), 1, 0, "Client.InvalidAMIID.NotFound"),
        (Unavailable("walrus"), 50, 99, None),
        (Unavailable("walrus"), 1, 101, "Server.InternalError"),
        (Denied("ticket"), 9, 99, None),
        (Denied("ticket"), 1, 101, "Server.InternalError"),
        (NoCapacity("memory"), 2, 61, None),
        (NoCapacity("memory"), 9, 59, None),
        (NoCapacity("memory"), 3, 61, "Server.InsufficientInstanceCapacity"),
        (CloudError("qemu"), 2, 999, None),
        (CloudError("qemu"), 9, 9, None),
        (CloudError("qemu"), 3, 10, "Server.InternalError"),
    ],
)
def test_a_launch_is_given_up_with_a_reason(error: CloudError, tries: int, failing_s: float, code: str | None) -> None:
    verdict = give_up(error, tries=tries, failing_s=failing_s, patience=PATIENCE)
    assert verdict == (None if code is None else (code, f"{code}: {error.message}"))
