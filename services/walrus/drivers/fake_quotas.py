"""The fake index's part that counts: anew each time, by looking at all of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from services.walrus import errors
from services.walrus.drivers.base import Bucket, Object
from services.walrus.drivers.quotas import (
    NOTHING,
    UNLIMITED,
    AccountFull,
    Elsewhere,
    Held,
    Quota,
    allowed_elsewhere,
    no_more,
    share_of,
    within,
)

if TYPE_CHECKING:
    from services.walrus.drivers.fake import Storage


class FakeQuotas:
    def __init__(self, step: Callable[[], AbstractContextManager[Storage]], storage: Callable[[], Storage]) -> None:
        self._step = step
        self._storage = storage
        self.more: Callable[[str, Elsewhere], Awaitable[bool]] = no_more

    async def put_account(self, account_id: str, quota: Quota, elsewhere: Elsewhere = NOTHING) -> None:
        with self._step() as s:
            s.quotas[account_id, 0] = quota
            s.elsewhere[account_id] = elsewhere

    async def put_bucket(self, name: str, quota: Quota) -> None:
        with self._step() as s:
            if (bucket := s.buckets.get(name)) is None:
                raise errors.no_such_bucket(name)
            s.quotas[bucket.account_id, bucket.id] = quota

    async def check(self, bucket: Bucket, *, size: int, objects: int) -> None:
        async def look() -> None:
            s = self._storage()
            if bucket.name not in s.buckets:
                return
            for held in (counted(s, bucket.account_id), of_bucket(s, bucket.name)):
                _refuse(held, Elsewhere(objects=objects, size=size))

        await within(self, look)

    async def limited(self) -> list[str]:
        return [account for (account, of), quota in self._storage().quotas.items() if not of and quota != UNLIMITED]

    async def elsewhere(self) -> dict[str, Elsewhere]:
        return dict(self._storage().elsewhere)

    async def put_elsewhere(self, held: Mapping[str, Elsewhere]) -> None:
        with self._step() as s:
            s.elsewhere |= held

    async def grant(self, account_id: str, need: Elsewhere) -> Elsewhere | None:
        with self._step() as s:
            granted = share_of(counted(s, account_id), need)
            if granted is not None:
                s.elsewhere[account_id] = s.elsewhere.get(account_id, NOTHING) + granted
            return granted

    async def allow(self, account_id: str, allowance: Elsewhere) -> None:
        with self._step() as s:
            s.elsewhere[account_id] = allowed_elsewhere(of_account(s, account_id).quota, allowance)

    async def give_back(self, account_id: str, quota: Quota) -> Elsewhere:
        with self._step() as s:
            if of_account(s, account_id).quota == UNLIMITED:
                s.quotas[account_id, 0] = quota
            held = of_account(s, account_id)
            s.elsewhere[account_id] = allowed_elsewhere(held.quota, held.total)
            return held.total

    async def counted(self, account_id: str) -> Held:
        return counted(self._storage(), account_id)

    async def accounts(self) -> list[Held]:
        s = self._storage()
        limited = {account for (account, bucket), quota in s.quotas.items() if not bucket and quota != UNLIMITED}
        return [of_account(s, account) for account in sorted({one.account_id for one in s.buckets.values()} | limited)]

    async def buckets(self, account_id: str) -> list[Held]:
        s = self._storage()
        return [of_bucket(s, name) for name, one in sorted(s.buckets.items()) if one.account_id == account_id]


class HasQuotas(Protocol):
    quotas: FakeQuotas


Index = TypeVar("Index", bound=HasQuotas)
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def within_quota(
    step: Callable[Concatenate[Index, Arguments], Coroutine[Any, Any, Result]],
) -> Callable[Concatenate[Index, Arguments], Coroutine[Any, Any, Result]]:
    """Tried again while there is more of the account's quota for this store."""

    async def tried(index: Index, /, *args: Arguments.args, **named: Arguments.kwargs) -> Result:
        return await within(index.quotas, lambda: step(index, *args, **named))

    return tried


def of_bucket(s: Storage, name: str) -> Held:
    bucket = s.buckets[name]
    versions = [one for (owner, _), stack in s.versions.items() if owner == bucket.id for one in stack]
    parts = [part for key in s.uploads if key[0] == bucket.id for part in s.parts.get(key[2], {}).values()]
    return Held(
        account_id=bucket.account_id,
        bucket=name,
        objects=len(versions),
        size=sum(one.size for one in versions if isinstance(one, Object)),
        part_bytes=sum(part.size for part in parts),
        quota=s.quotas.get((bucket.account_id, bucket.id), UNLIMITED),
    )


def of_account(s: Storage, account_id: str) -> Held:
    held = [of_bucket(s, name) for name, one in s.buckets.items() if one.account_id == account_id]
    return Held(
        account_id=account_id,
        bucket="",
        objects=sum(one.objects for one in held),
        size=sum(one.size for one in held),
        part_bytes=sum(one.part_bytes for one in held),
        quota=s.quotas.get((account_id, 0), UNLIMITED),
    )


def check(before: Storage, after: Storage, bucket_id: int) -> None:
    """Of a step that would make one the other. Raises Denied (QuotaExceeded)."""
    name = next(name for name, one in before.buckets.items() if one.id == bucket_id)
    account = before.buckets[name].account_id
    for old, new in (
        (counted(before, account), counted(after, account)),
        (of_bucket(before, name), of_bucket(after, name)),
    ):
        _refuse(replace(old, quota=new.quota), new.total - old.total)


def counted(s: Storage, account_id: str) -> Held:
    """With what counts as held elsewhere."""
    return of_account(s, account_id).with_elsewhere(s.elsewhere.get(account_id))


def _refuse(held: Held, need: Elsewhere) -> None:
    """If it would be too much."""
    too_much = held.quota.exceeded(held, size=need.size, objects=need.objects)
    if too_much and held.bucket:
        raise errors.quota_exceeded("bucket", too_much)
    if too_much:
        need = Elsewhere(objects=max(need.objects, 0), size=max(need.size, 0))
        raise AccountFull(errors.over_quota("account", too_much), held.account_id, need)
