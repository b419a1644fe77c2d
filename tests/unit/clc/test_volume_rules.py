"""The states of volumes and attachments, over everything that can be said of them."""

from __future__ import annotations

from itertools import product

from mallee.clc.v1 import record_pb2
from mallee.sc.v1 import volume_pb2 as sc
from services.clc.volume import rules
from services.clc.volume.rules import Do, Granted, Heard, Made, Place

STATES = [state for state in record_pb2.VolumeState.values() if state]
ATTACHMENTS = [state for state in record_pb2.AttachmentState.values() if state]
MADE = [None, *(Made(state, in_force) for state in sc.VolumeState.values() if state for in_force in (True, False))]
ALL = list(product(ATTACHMENTS, Place, Heard, Granted, (False, True)))


def test_a_volumes_states_follow_each_other_and_silence_moves_none() -> None:
    for state, made, attached, granted in product(STATES, MADE, (False, True), (False, True)):
        step = rules.next_step(state, made, attached=attached, granted=granted)
        if step is not None and not isinstance(step, Do):
            assert step in rules.NEXT[state]
            assert made is not None


def test_only_a_volume_that_is_to_go_is_deleted_and_only_once_nobody_may_use_it() -> None:
    for state, made, attached, granted in product(STATES, MADE, (False, True), (False, True)):
        if rules.next_step(state, made, attached=attached, granted=granted) is Do.DELETE:
            assert state == rules.DELETING
            assert attached or not granted


def test_a_volume_is_in_use_from_its_making_on_if_it_was_made_for_an_instance() -> None:
    made = Made(sc.VOLUME_STATE_AVAILABLE, True)
    assert rules.next_step(rules.CREATING, made, attached=True, granted=False) == rules.IN_USE
    assert rules.next_step(rules.CREATING, made, attached=False, granted=False) == rules.AVAILABLE


def test_a_change_that_is_not_in_force_is_ordered_again() -> None:
    behind = Made(sc.VOLUME_STATE_AVAILABLE, False)
    for state in (rules.AVAILABLE, rules.IN_USE):
        assert rules.next_step(state, behind, attached=state == rules.IN_USE, granted=False) is Do.ENSURE
        there = Made(sc.VOLUME_STATE_AVAILABLE, True)
        assert rules.next_step(state, there, attached=state == rules.IN_USE, granted=False) is None


def test_an_attachments_states_follow_each_other() -> None:
    for state, place, heard, granted, forced in ALL:
        step = rules.next_of_attachment(state, place, heard, granted, forced=forced)
        if step is not None and not isinstance(step, Do):
            assert step in rules.NEXT_ATTACHMENT[state]
            assert heard is not Heard.NOTHING or place is Place.STOPPED


def test_a_volume_is_granted_to_the_node_of_its_instance_alone_and_when_nobody_has_it() -> None:
    for state, place, heard, granted, forced in ALL:
        if rules.next_of_attachment(state, place, heard, granted, forced=forced) is Do.GRANT:
            assert place is Place.NODE
            assert granted is Granted.NONE
            assert state in (rules.ATTACHING, rules.ATTACHED)


def test_an_attachment_is_over_when_its_node_let_go_or_cannot_have_it_or_was_not_to_be_waited_for() -> None:
    for state, place, heard, granted, forced in ALL:
        leaving = state in (rules.DETACHING, rules.BUSY)
        over = rules.next_of_attachment(state, place, heard, granted, forced=forced) is Do.RELEASE
        may = leaving and (forced or heard is Heard.ABSENT or place is Place.STOPPED)
        assert over == (may or place is Place.ENDED)


def test_a_disk_is_attached_when_the_guest_has_it_by_a_grant_that_stands() -> None:
    for place, heard, granted in product(Place, Heard, Granted):
        step = rules.next_of_attachment(rules.ATTACHING, place, heard, granted, forced=False)
        here = place is Place.NODE and heard is Heard.PLUGGED and granted is Granted.OURS
        at_rest = place is Place.STOPPED and granted in (Granted.NONE, Granted.UNKNOWN)
        assert (step == rules.ATTACHED) == (here or at_rest)


def test_a_grant_for_a_node_that_the_instance_is_not_on_gives_way() -> None:
    for state in (rules.ATTACHING, rules.ATTACHED):
        for place in (Place.NODE, Place.STOPPED):
            step = rules.next_of_attachment(state, place, Heard.NOTHING, Granted.ELSEWHERE, forced=False)
            assert step is Do.RENEW
            step = rules.next_of_attachment(state, place, Heard.NOTHING, Granted.OLD, forced=False)
            assert step is Do.REVOKE
        step = rules.next_of_attachment(state, Place.COMING, Heard.NOTHING, Granted.OURS, forced=False)
        assert step is None


def test_what_was_made_for_an_instance_goes_with_it_unless_its_owner_takes_it_off() -> None:
    for state, attachment, ended, goes in product(STATES, ATTACHMENTS, (False, True), (False, True)):
        after = rules.after_release(state, attachment, ended=ended, delete_on_termination=goes)
        taken_off = attachment in (rules.DETACHING, rules.BUSY)
        if ended and goes and not taken_off:
            assert after == rules.DELETING
        else:
            assert after == (rules.AVAILABLE if state == rules.IN_USE else state)


def test_a_modification_is_over_when_guest_and_storage_have_it() -> None:
    modifying, optimizing = record_pb2.MODIFICATION_STATE_MODIFYING, record_pb2.MODIFICATION_STATE_OPTIMIZING
    for state, in_force, seen in product(record_pb2.ModificationState.values(), (False, True), (False, True)):
        after = rules.next_of_modification(state, in_force=in_force, seen=seen)
        match after:
            case record_pb2.MODIFICATION_STATE_OPTIMIZING:
                assert state == modifying
                assert in_force
            case record_pb2.MODIFICATION_STATE_COMPLETED:
                assert state == optimizing
                assert seen
            case _:
                assert after is None
                assert not (state == modifying and in_force)
                assert not (state == optimizing and seen)
