"""Device names: which place of a guest's disks each stands for. Pure.

The letters decide where the disk is plugged in, whatever its name is written like, so /dev/sdf and xvdf are one place.
(EC2 User Guide, "Device names for volumes on Amazon EC2 instances".)
"""

from __future__ import annotations

import re
from typing import Final

from common.disk_names import letters_of, slot_of_letters
from common.errors import InvalidArgument

# Names of two letters are those of xvd alone.
_NAME: Final = re.compile(r"(?:/dev/)?(?:(?:sd|vd)(?P<one>[a-z])|xvd(?P<two>[a-z]{1,2}))(?P<part>1?)")


def slot_of(name: str, parameter: str = "device") -> int:
    """0 for the letter a. Raises InvalidArgument for a name that EC2 does not take."""
    found = _NAME.fullmatch(name)
    letters = (found["one"] or found["two"]) if found is not None else ""
    slot = slot_of_letters(letters)
    # A root's name may be that of its first partition.
    if found is None or slot is None or (found["part"] and letters != "a"):
        raise InvalidArgument(
            f"Value ({name}) for parameter {parameter} is invalid. {name} is not a valid EBS device name."
        )
    return slot


def device_claim(instance_id: str, slot: int) -> str:
    """Held by the volume that the instance has, or is to have, there."""
    return f"device/{instance_id}/{letters_of(slot)}"


def taken(name: str) -> InvalidArgument:
    return InvalidArgument(f"Invalid value '{name}' for unixDevice. Attachment point {name} is already in use")
