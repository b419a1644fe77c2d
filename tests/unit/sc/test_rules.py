"""The rules of a storage controller, over the whole product of what they are asked."""

from __future__ import annotations

import itertools

import pytest

from common.errors import CloudError, Denied, Stale, WrongState
from services.sc import grants, snapshot, volume
from services.sc.clients import Progress
from services.sc.grants import Grants, Holder
from services.sc.volume import Do, EngineView, State, Wanted

GENERATIONS = range(4)
NODES = ("nc-1", "nc-2")


def _holder(generation: int, node: str = "nc-1") -> Holder:
    return Holder(generation=generation, node=node, instance_id="i-1")


def _every_grants() -> list[Grants]:
    """Everything that the rules themselves can bring about."""
    found = {Grants()}
    while True:
        more = set(found)
        for now in found:
            for generation, node in itertools.product(GENERATIONS[1:], NODES):
                more.add(grants.begin_revoke(now, generation))
                if now.revoking:
                    more.add(grants.end_revoke(now, generation))
                try:
                    more.add(grants.grant(now, _holder(generation, node)))
                except CloudError:
                    continue
        if more == found:
            return sorted(found, key=repr)
        found = more


EVERY = _every_grants()
EVERY_ASK = [(now, generation, node) for now in EVERY for generation in GENERATIONS[1:] for node in NODES]


def test_the_rules_lead_somewhere() -> None:
    assert len(EVERY) > 20


@pytest.mark.parametrize("now", EVERY, ids=repr)
def test_the_newest_is_never_behind_what_stands(now: Grants) -> None:
    assert now.standing is None or now.standing.generation <= now.newest
    assert now.standing is not None or not now.revoking


def test_a_second_grant_needs_the_first_to_be_revoked() -> None:
    for now, generation, node in EVERY_ASK:
        try:
            after = grants.grant(now, _holder(generation, node))
        except WrongState:
            assert now.standing is not None
            assert generation > now.standing.generation
            continue
        except Stale:
            assert generation <= now.newest
            continue
        if now.standing is None:
            assert generation > now.newest
        else:
            assert after == now
            assert not now.revoking
        assert after.standing == _holder(generation, node)


def test_granting_again_changes_nothing() -> None:
    for now, generation, node in EVERY_ASK:
        try:
            after = grants.grant(now, _holder(generation, node))
        except CloudError:
            continue
        assert grants.grant(after, _holder(generation, node)) == after


def test_a_revoked_generation_and_those_before_it_are_over() -> None:
    for now, generation in itertools.product(EVERY, GENERATIONS[1:]):
        begun = grants.begin_revoke(now, generation)
        ended = grants.end_revoke(begun, generation)
        assert begun.standing == now.standing
        assert ended.standing is None or ended.standing.generation > generation
        assert grants.end_revoke(grants.begin_revoke(ended, generation), generation) == ended
        for old, node in itertools.product(range(1, generation + 1), NODES):
            for state in (begun, ended):
                with pytest.raises(Denied):
                    grants.redeem(state, old, node)
                with pytest.raises((Stale, WrongState)):
                    grants.grant(state, _holder(old, node))


def test_a_newer_grant_outlives_the_revocation_of_an_older_one() -> None:
    now = Grants(standing=_holder(3), newest=3)
    assert grants.end_revoke(grants.begin_revoke(now, 2), 2) == now


def test_only_the_holder_redeems_and_only_what_was_not_heard_of_is_waited_for() -> None:
    for now, generation, node in EVERY_ASK:
        try:
            held = grants.redeem(now, generation, node)
        except Denied:
            assert generation <= now.newest
            continue
        if held is None:
            assert generation > now.newest
        else:
            assert now.standing == held == _holder(generation, node)
            assert not now.revoking


ENGINES = [None, *(EngineView(size_bytes=size, exported=exported) for size in (4, 8) for exported in (0, 1, 2))]
WANTED = [
    Wanted(size_bytes=size, granted=granted, limits_in_force=in_force, is_read=is_read)
    for size in (4, 8)
    for granted in (0, 1, 2)
    for in_force in (False, True)
    for is_read in (False, True)
]


@pytest.mark.parametrize("state", State)
def test_what_is_done_with_a_volume(state: State) -> None:
    for wanted, engine in itertools.product(WANTED, ENGINES):
        match volume.next_step(state, wanted, engine):
            case Do.CREATE:
                assert state is State.CREATING
            case Do.CUT_OFF:
                assert engine is not None
                assert engine.exported not in (0, wanted.granted)
            case Do.MISS:
                assert state is State.AVAILABLE
                assert engine is None
            case Do.RESIZE:
                assert state is State.AVAILABLE
                assert engine is not None
                assert engine.size_bytes < wanted.size_bytes
            case Do.LIMIT:
                assert state is State.AVAILABLE
                assert not wanted.limits_in_force
            case Do.REMOVE:
                assert state is State.DELETING
                assert not wanted.is_read
                assert engine is None or engine.exported in (0, wanted.granted)
            case None:
                assert state is not State.CREATING
                assert state is not State.DELETING or wanted.is_read


def test_states_lead_to_deletion_and_never_back() -> None:
    for state in State:
        assert state is State.DELETING or State.DELETING in volume.NEXT[state]
        assert State.CREATING not in volume.NEXT[state]
    for phase in snapshot.Phase:
        assert phase is snapshot.Phase.DELETING or snapshot.Phase.DELETING in snapshot.NEXT[phase]
        assert snapshot.Phase.FREEZING not in snapshot.NEXT[phase]


def test_what_is_done_with_a_snapshot() -> None:
    both = (False, True)
    for phase, first, stands, over in itertools.product(snapshot.Phase, both, both, both):
        match snapshot.next_step(phase, first=first, stands=stands, over=over):
            case snapshot.Do.UPLOAD:
                assert phase is snapshot.Phase.UPLOADING
                assert first
            case snapshot.Do.RELEASE:
                assert phase is snapshot.Phase.COMPLETED
                assert stands
            case snapshot.Do.CLEAN:
                assert phase in (snapshot.Phase.FAILING, snapshot.Phase.DELETING)
            case snapshot.Do.DROP:
                assert phase in (snapshot.Phase.COMPLETED, snapshot.Phase.FAILED)
                assert over
            case None:
                assert phase not in (snapshot.Phase.FAILING, snapshot.Phase.DELETING)
                assert not over or phase not in (snapshot.Phase.COMPLETED, snapshot.Phase.FAILED)


def test_progress_is_not_complete_before_the_end() -> None:
    assert snapshot.percent(Progress()) == 0
    assert snapshot.percent(Progress(looked_at_bytes=5, to_look_at_bytes=10)) == 50
    assert snapshot.percent(Progress(looked_at_bytes=10, to_look_at_bytes=10)) == 99
