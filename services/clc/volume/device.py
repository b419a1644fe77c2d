"""Device names: which letter of a guest's disks each stands for. Pure.

The letter decides where the disk is plugged in, whatever its name is written like, so /dev/sdf and xvdf are one place.
(EC2 User Guide, "Device names for volumes on Amazon EC2 instances".)
"""

from __future__ import annotations

import re
from typing import Final

from common.errors import InvalidArgument

_NAME: Final = re.compile(r"(?:/dev/)?(?:sd|xvd|vd)([a-z])(1?)")


def slot_of(name: str, parameter: str = "device") -> int:
    """0 for the letter a. Raises InvalidArgument for a name that EC2 does not take."""
    found = _NAME.fullmatch(name)
    # A root's name may be that of its first partition.
    if found is None or (found[2] and found[1] != "a"):
        raise InvalidArgument(
            f"Value ({name}) for parameter {parameter} is invalid. {name} is not a valid EBS device name."
        )
    return ord(found[1]) - ord("a")


def device_claim(instance_id: str, slot: int) -> str:
    """Held by the volume that the instance has, or is to have, there."""
    return f"device/{instance_id}/{chr(ord('a') + slot)}"


def taken(name: str) -> InvalidArgument:
    return InvalidArgument(f"Invalid value '{name}' for unixDevice. Attachment point {name} is already in use")
