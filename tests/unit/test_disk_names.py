from __future__ import annotations

import pytest

from common.disk_names import SLOTS, letters_of, slot_of_letters
from common.errors import InvalidArgument
from services.clc.volume.device import slot_of


def test_every_place_has_a_name_of_its_own() -> None:
    names = [letters_of(slot) for slot in range(SLOTS)]
    assert [slot_of_letters(name) for name in names] == list(range(SLOTS))
    assert (names[0], names[25], names[26], names[-1]) == ("a", "z", "aa", "dx")


@pytest.mark.parametrize("name", ["", "ay", "ea", "aaa", "A", "1"])
def test_other_letters_name_no_disk(name: str) -> None:
    assert slot_of_letters(name) is None


def test_a_device_may_be_named_as_ec2_has_it() -> None:
    assert slot_of("/dev/sdf") == slot_of("xvdf") == slot_of("sdf") == 5
    assert slot_of("/dev/sda1") == slot_of("/dev/xvda") == 0
    assert slot_of("/dev/xvdba") == slot_of_letters("ba")


@pytest.mark.parametrize("name", ["/dev/sdba", "/dev/xvdaz", "/dev/xvdea", "/dev/sdf1", "/dev/xvdba1", "/dev/hda", "f"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="is not a valid EBS device name"):
        slot_of(name)
