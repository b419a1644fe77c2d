"""The end of an account: every bucket and object of it. Repeating it is safe."""

from __future__ import annotations

from typing import Final

from common.errors import WrongState
from services.walrus.drivers.base import Bucket, Scan, Summary
from services.walrus.store import Store

_PAGE: Final = 1000


async def delete_account_data(store: Store, account_id: str) -> None:
    while found := await store.index.list_buckets(account_id, prefix="", after="", limit=_PAGE):
        for bucket in found:
            await _delete(store, bucket)
            store.reclaim()


async def _delete(store: Store, bucket: Bucket) -> None:
    while True:
        page = await store.index.list_objects(bucket, Scan(limit=_PAGE))
        await store.index.delete_objects(bucket, [entry.key for entry in page.entries if isinstance(entry, Summary)])
        if page.truncated:
            continue
        try:
            await store.index.delete_bucket(bucket)
        except WrongState:
            # An upload that was under way has ended since.
            continue
        return
