"""What buckets and accounts may hold, and what they do. Part of drivers/base.py Index.

Versions that are not the newest and delete markers count as objects, parts of open uploads as bytes: all that is kept
for the owner. Each step of the index that makes more of it is checked in that step itself, so a quota is exact; one
that makes less, or only a marker, is never refused. Of stores that share an account's quota each has an
allowance: what is not its own counts as held elsewhere, and before a step is refused for it, more is asked for.
Implementations pass tests/contract/test_walrus_quotas.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from common.errors import Denied

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
    """What an account holds, or may, in other stores than this one; or in this one, as they count it."""

    objects: int = 0
    # With those of open uploads.
    size: int = 0

    def __add__(self, more: Elsewhere) -> Elsewhere:
        return Elsewhere(objects=self.objects + more.objects, size=self.size + more.size)

    def __sub__(self, less: Elsewhere) -> Elsewhere:
        return Elsewhere(objects=self.objects - less.objects, size=self.size - less.size)


NOTHING: Final = Elsewhere()
# More than there is, and no sum of it is too large for an engine.
ALL: Final = Elsewhere(objects=1 << 60, size=1 << 60)
# Of what is left when somebody asks for some of it, so much more is granted at once: an eighth.
_SHARE_BITS: Final = 3
# How often a step may be tried again as others took what was asked for.
_TRIES: Final = 100

Result = TypeVar("Result")


class AccountFull(Denied):
    """A step that makes so much more would pass the account's quota."""

    def __init__(self, message: str, account_id: str, need: Elsewhere) -> None:
        super().__init__(message, code="QuotaExceeded")
        self.account_id = account_id
        self.need = need


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

    @property
    def total(self) -> Elsewhere:
        return Elsewhere(objects=self.objects, size=self.size + self.part_bytes)

    def with_elsewhere(self, more: Elsewhere | None) -> Held:
        if more is None:
            return self
        return replace(self, objects=self.objects + more.objects, size=self.size + more.size)


def allowed_elsewhere(quota: Quota, allowance: Elsewhere) -> Elsewhere:
    """What counts as held elsewhere, so that no more than the allowance is held here."""
    whole = Elsewhere(objects=quota.objects or 0, size=quota.size or 0)
    return whole - allowance


def share_of(held: Held, need: Elsewhere) -> Elsewhere | None:
    """What another store is granted that needs so much. None: there is not that much left. `held`: with elsewhere."""
    total, quota = held.total, held.quota
    if quota.exceeded(held, size=need.size, objects=need.objects):
        return None
    left = Elsewhere(objects=(quota.objects or 0) - total.objects, size=(quota.size or 0) - total.size) - need
    extra = Elsewhere(objects=max(left.objects, 0) >> _SHARE_BITS, size=max(left.size, 0) >> _SHARE_BITS)
    return need + extra


async def within(quotas: Quotas, attempt: Callable[[], Awaitable[Result]]) -> Result:
    """What the attempt gives, tried again while there is more of the account's quota for this store."""
    for _ in range(_TRIES):
        try:
            return await attempt()
        except AccountFull as full:
            if not await quotas.more(full.account_id, full.need):
                raise
    return await attempt()


async def no_more(account_id: str, need: Elsewhere) -> bool:
    return False


class Quotas(Protocol):
    # Whether a step that needs so much more may fit if it is tried again.
    more: Callable[[str, Elsewhere], Awaitable[bool]]

    async def put_account(self, account_id: str, quota: Quota, elsewhere: Elsewhere = NOTHING) -> None:
        """What stands there already stays, be it more. `elsewhere`: counts from then on, in the same step."""

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
        """What counts with what is here when the quota of these accounts is checked, in place of what did before."""

    async def grant(self, account_id: str, need: Elsewhere) -> Elsewhere | None:
        """What `share_of` gives counts as held elsewhere, in one step. None: it gives nothing, and nothing changes."""

    async def allow(self, account_id: str, allowance: Elsewhere) -> None:
        """So much may be held here, with what is; all else of the account's quota counts as held elsewhere."""

    async def give_back(self, account_id: str, quota: Quota) -> Elsewhere:
        """What is held here, which is all that may be from this step on. `quota`: if none is known here."""

    async def counted(self, account_id: str) -> Held:
        """What counts when the account's quota is checked: with what is held elsewhere."""

    async def accounts(self) -> list[Held]:
        """All that have a bucket or a quota."""

    async def buckets(self, account_id: str) -> list[Held]: ...
