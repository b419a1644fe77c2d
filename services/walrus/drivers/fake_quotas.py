"""The fake index's part that counts: anew each time, by looking at all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from services.walrus import errors
from services.walrus.drivers.base import Bucket, Object
from services.walrus.drivers.quotas import UNLIMITED, Elsewhere, Held, Quota

if TYPE_CHECKING:
    from services.walrus.drivers.fake import Storage


class FakeQuotas:
    def __init__(self, step: Callable[[], AbstractContextManager[Storage]], storage: Callable[[], Storage]) -> None:
        self._step = step
        self._storage = storage

    async def put_account(self, account_id: str, quota: Quota) -> None:
        with self._step() as s:
            s.quotas[account_id, 0] = quota

    async def put_bucket(self, name: str, quota: Quota) -> None:
        with self._step() as s:
            if (bucket := s.buckets.get(name)) is None:
                raise errors.no_such_bucket(name)
            s.quotas[bucket.account_id, bucket.id] = quota

    async def check(self, bucket: Bucket, *, size: int, objects: int) -> None:
        s = self._storage()
        if bucket.name not in s.buckets:
            return
        account = of_account(s, bucket.account_id).with_elsewhere(s.elsewhere.get(bucket.account_id))
        for scope, held in (("account", account), ("bucket", of_bucket(s, bucket.name))):
            if too_much := held.quota.exceeded(held, size=size, objects=objects):
                raise errors.quota_exceeded(scope, too_much)

    async def limited(self) -> list[str]:
        return [account for (account, of), quota in self._storage().quotas.items() if not of and quota != UNLIMITED]

    async def elsewhere(self) -> dict[str, Elsewhere]:
        return dict(self._storage().elsewhere)

    async def put_elsewhere(self, held: Mapping[str, Elsewhere]) -> None:
        with self._step() as s:
            s.elsewhere = dict(held)

    async def accounts(self) -> list[Held]:
        s = self._storage()
        limited = {account for (account, bucket), quota in s.quotas.items() if not bucket and quota != UNLIMITED}
        return [of_account(s, account) for account in sorted({one.account_id for one in s.buckets.values()} | limited)]

    async def buckets(self, account_id: str) -> list[Held]:
        s = self._storage()
        return [of_bucket(s, name) for name, one in sorted(s.buckets.items()) if one.account_id == account_id]


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
    for scope, old, new in (
        ("account", of_account(before, account), of_account(after, account)),
        ("bucket", of_bucket(before, name), of_bucket(after, name)),
    ):
        size = new.size + new.part_bytes - old.size - old.part_bytes
        there = before.elsewhere.get(account) if scope == "account" else None
        if too_much := new.quota.exceeded(old.with_elsewhere(there), size=size, objects=new.objects - old.objects):
            raise errors.quota_exceeded(scope, too_much)
