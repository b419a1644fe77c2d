"""The end of an account: every bucket and object of it, whatever locks it. Repeating it is safe."""

from __future__ import annotations

from typing import Final

from common.errors import WrongState
from services.walrus.drivers.base import Bucket, Scan
from services.walrus.drivers.quotas import UNLIMITED
from services.walrus.drivers.versions import Bypass, Deletion, Removal
from services.walrus.store import Store

_PAGE: Final = 1000


async def delete_account_data(store: Store, account_id: str) -> None:
    while found := await store.index.list_buckets(account_id, prefix="", after="", limit=_PAGE):
        for bucket in found:
            await _delete(store, bucket)
            store.reclaim()
    await store.index.quotas.put_account(account_id, UNLIMITED)


async def _delete(store: Store, bucket: Bucket) -> None:
    while True:
        page = await store.index.list_versions(bucket, Scan(limit=_PAGE))
        removals = [
            Removal(key=one.key, version_id=one.version_id, bypass=Bypass.ALL)
            for one in page.entries
            if not isinstance(one, bytes)
        ]
        deletions = [Deletion(what=one) for one in removals]
        await store.index.delete(bucket, deletions, now_ms=store.now_ms())
        if page.truncated:
            continue
        try:
            await store.index.delete_bucket(bucket)
        except WrongState:
            # An upload that was under way has ended since.
            continue
        return
