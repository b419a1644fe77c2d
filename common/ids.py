"""Typed ids: strings that check themselves. AWS's own prefixes, which tools match on, and 17 hex digits.

The ids that end in the same 8 digits as another thing (MAC of an interface) are derived here, and nowhere else.
"""

from __future__ import annotations

import os
import re
import secrets
from typing import ClassVar, Self


class ResourceId(str):
    """`prefix-` and 17 lower-case hex digits. Construction from a malformed string raises ValueError."""

    prefix: ClassVar[str] = ""
    _pattern: ClassVar[re.Pattern[str]]

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        cls._pattern = re.compile(rf"{cls.prefix}-[0-9a-f]{{17}}\Z")

    def __new__(cls, value: str) -> Self:
        if not cls._pattern.match(value):
            raise ValueError(f"not a {cls.__name__}: {value!r}")
        return super().__new__(cls, value)

    @classmethod
    def new(cls) -> Self:
        """A random one: 68 bits, leading zero as AWS's own ids have."""
        return cls(f"{cls.prefix}-0{secrets.token_hex(8)}")

    @classmethod
    def matches(cls, value: str) -> bool:
        return cls._pattern.match(value) is not None


class InstanceId(ResourceId):
    prefix = "i"


class ReservationId(ResourceId):
    prefix = "r"


class MachineImageId(ResourceId):
    prefix = "ami"


class KernelImageId(ResourceId):
    prefix = "aki"


class RamdiskImageId(ResourceId):
    prefix = "ari"


class SecurityGroupId(ResourceId):
    prefix = "sg"


class SecurityGroupRuleId(ResourceId):
    prefix = "sgr"


class VpcId(ResourceId):
    prefix = "vpc"


class SubnetId(ResourceId):
    prefix = "subnet"


class InterfaceId(ResourceId):
    prefix = "eni"


class InterfaceAttachmentId(ResourceId):
    prefix = "eni-attach"


class KeyPairId(ResourceId):
    prefix = "key"


class VolumeId(ResourceId):
    prefix = "vol"


class SnapshotId(ResourceId):
    prefix = "snap"


class ImportSnapshotTaskId(ResourceId):
    prefix = "import-snap"


class ImportImageTaskId(ResourceId):
    prefix = "import-ami"


class ExportImageTaskId(ResourceId):
    prefix = "export-ami"


class BundleTaskId(ResourceId):
    prefix = "bun"


class AllocationId(ResourceId):
    prefix = "eipalloc"


class AddressAssociationId(ResourceId):
    prefix = "eipassoc"


class DhcpOptionsId(ResourceId):
    prefix = "dopt"


_ACCOUNT = re.compile(r"[0-9]{12}\Z")


class AccountId(str):
    """Twelve digits."""

    __slots__ = ()

    def __new__(cls, value: str) -> Self:
        if not _ACCOUNT.match(value):
            raise ValueError(f"not an account id: {value!r}")
        return super().__new__(cls, value)

    @classmethod
    def new(cls) -> Self:
        return cls(f"{secrets.randbelow(9 * 10**11) + 10**11}")


def mac_of(interface: InterfaceId) -> str:
    """`d0:0d:` and the last 8 hex digits of the interface id: locally unique and told from the id alone."""
    tail = interface[-8:]
    return "d0:0d:" + ":".join(tail[i : i + 2] for i in range(0, 8, 2))


def new_request_id() -> str:
    """A UUID4 as AWS prints it."""
    h = os.urandom(16).hex()
    return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-{'89ab'[int(h[16], 16) % 4]}{h[17:20]}-{h[20:]}"
