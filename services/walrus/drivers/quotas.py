"""What buckets and accounts may hold, and what they do. Part of drivers/base.py Index.

Versions that are not the newest and delete markers count as objects, parts of open uploads as bytes: all that is kept
for the owner. Each step of the index that makes more of it is checked in that step itself, so a quota is exact; one
that makes less, or only a marker, is never refused. What an account holds in other stores counts as they said last.
Implementations pass tests/contract/test_walrus_quotas.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from services.walrus.drivers.base import Bucket


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """None: as much as there is room for."""

    size: int | None = None
    objects: int | None = None

    def exceeded(self, held: Held, *, size: int, objects: int) -> str:
        """What there would be too much of, if so much more came; empty: nothing."""
        if self.size is not None and size > 0 and held.size + held.part_bytes + size > self.size:
            return f"{self.size} bytes"
        if self.objects is not None and objects > 0 and held.objects + objects > self.objects:
            return f"{self.objects} objects"
        return ""


UNLIMITED = Quota()


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """What an account holds in other stores than this one."""

    objects: int = 0
    # With those of open uploads.
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    account_id: str
    # Empty: all of the account.
    bucket: str
    objects: int
    size: int
    # Of open uploads.
    part_bytes: int
    quota: Quota

    def with_elsewhere(self, more: Elsewhere | None) -> Held:
        if more is None:
            return self
        return replace(self, objects=self.objects + more.objects, size=self.size + more.size)


class Quotas(Protocol):
    async def put_account(self, account_id: str, quota: Quota) -> None:
        """What stands there already stays, be it more."""

    async def put_bucket(self, name: str, quota: Quota) -> None:
        """Raises NotFound (NoSuchBucket)."""

    async def check(self, bucket: Bucket, *, size: int, objects: int) -> None:
        """Whether a step that makes so much more would be refused now: what counts is that step itself.

        Raises Denied (QuotaExceeded).
        """

    async def limited(self) -> list[str]:
        """The accounts that have a quota."""

    async def elsewhere(self) -> Mapping[str, Elsewhere]: ...

    async def put_elsewhere(self, held: Mapping[str, Elsewhere]) -> None:
        """What counts with what is here when an account's quota is checked, in place of what was said before."""

    async def accounts(self) -> list[Held]:
        """All that have a bucket or a quota."""

    async def buckets(self, account_id: str) -> list[Held]: ...
