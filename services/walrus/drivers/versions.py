"""Versions of a key, and what the engine checks in the step that replaces or deletes one.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/versioning-workflows.html
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from services.walrus import errors
from services.walrus.drivers.events import NO_EVENTS, Event

Extended = TypeVar("Extended", bound="Extras")

# A version id as engines keep it. On the wire it is `null`.
NULL: Final = ""
NULL_SHOWN: Final = "null"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What must hold for the object now under a key, checked by the engine in the step that replaces or deletes it."""

    # Entity tag without quotes, or `*` for any object.
    if_match: str | None = None
    # Nothing may stand there (If-None-Match: *).
    absent: bool = False
    # Its size in bytes, and the second it was last modified in.
    size: int | None = None
    modified_s: int | None = None
    # What a condition speaks of was there when the upload began: nobody may have written or deleted it since.
    since_ms: int | None = None

    def check(self, key: bytes, etag: str | None, size: int = 0, modified_ms: int = 0) -> None:
        """`etag` None: there is no object; `modified_ms` is of the delete marker in its place, if there is one.

        Raises NotFound (NoSuchKey) or WrongState (PreconditionFailed, ConditionalRequestConflict).
        """
        changed = self.since_ms is not None and modified_ms > self.since_ms
        if self.absent and etag is not None:
            raise errors.precondition_failed("If-None-Match")
        if self.absent and changed:
            raise errors.conditional_conflict(key, "If-None-Match")
        if self.if_match is None and self.size is None and self.modified_s is None:
            return
        if etag is None:
            raise errors.no_such_key(key)
        if self.if_match not in (None, "*", etag):
            raise errors.precondition_failed("If-Match")
        if changed:
            raise errors.conditional_conflict(key, "If-Match")
        if self.size not in (None, size):
            raise errors.precondition_failed("x-amz-if-match-size")
        if self.modified_s not in (None, modified_ms // 1000):
            raise errors.precondition_failed("x-amz-if-match-last-modified-time")


ANYTHING: Final = Expectation()


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Until when a version may not be deleted."""

    # GOVERNANCE or COMPLIANCE
    mode: str
    until_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What stands beside the bytes of one version; all but owner and encryption may change while it stays."""

    # Canonical user id of who wrote it; empty: the bucket's owner.
    owner_id: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    # A serialized mallee.s3.v1 AccessControlPolicy; empty: private.
    acl: bytes = b""
    retention: Retention | None = None
    # None: nobody ever said.
    legal_hold: bool | None = None
    # Empty: not encrypted.
    encryption: bytes = b""

    def onto(self, one: Extended) -> Extended:
        """It with these extras."""
        return replace(
            one,
            owner_id=self.owner_id,
            tags=self.tags,
            acl=self.acl,
            retention=self.retention,
            legal_hold=self.legal_hold,
            encryption=self.encryption,
        )


class Bypass(enum.IntEnum):
    """Which locks a deletion may break."""

    NONE = 0
    GOVERNANCE = 1
    # Also legal holds: the operator ends the account.
    ALL = 2


def check_unlocked(retention: Retention | None, legal_hold: bool | None, now_ms: int, bypass: Bypass) -> None:
    """Raises Denied (AccessDenied)."""
    if bypass is Bypass.ALL:
        return
    if legal_hold:
        raise errors.locked()
    if retention is None or retention.until_ms <= now_ms:
        return
    if retention.mode == "COMPLIANCE" or bypass is Bypass.NONE:
        raise errors.locked()


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """A delete marker: a version that says that there is no object."""

    key: bytes
    version_id: str
    modified_ms: int
    # Canonical user id of who deleted; empty: the bucket's owner.
    owner_id: str = ""
    # Set in listings.
    latest: bool = False


class Still(enum.Enum):
    """What a version must be that is removed, else it stays: who chose it has looked a while ago."""

    ANYTHING = enum.auto()
    # There is a newer one.
    NONCURRENT = enum.auto()
    MARKER = enum.auto()

    def check(self, *, newest: bool, marker: bool) -> None:
        """Raises WrongState (PreconditionFailed)."""
        if (self is Still.NONCURRENT and newest) or (self is Still.MARKER and not marker):
            raise errors.precondition_failed("version")


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """Takes out one version for good; where it was the newest, the next one is the newest."""

    key: bytes
    version_id: str = NULL
    bypass: Bypass = Bypass.NONE
    still: Still = Still.ANYTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletion:
    """One deletion of several: of a version, or by putting a marker before all versions."""

    what: Removal | Marker
    # Of a removal: about the version that goes; of a marker: about the newest one.
    expect: Expectation = ANYTHING
    # To be told if it takes place.
    events: Sequence[Event] = NO_EVENTS


class Gone(enum.Enum):
    """What a deletion took out or put."""

    NOTHING = enum.auto()
    OBJECT = enum.auto()
    # One was put, or removed.
    MARKER = enum.auto()
