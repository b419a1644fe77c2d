"""What Walrus shows Prometheus beside its RPCs."""

from __future__ import annotations

import asyncio
from typing import Final

from common.metrics import counter, gauge, histogram
from services.walrus.store import Store

_PERIOD_S: Final = 5.0

_BUCKETS = gauge("mallee_walrus_buckets", "Buckets")
_OBJECTS = gauge("mallee_walrus_objects", "Objects")
_BYTES = gauge("mallee_walrus_object_bytes", "Bytes of all objects")
_PINS = gauge("mallee_walrus_pinned_images", "Pinned images")
_SNAPSHOTS = gauge("mallee_walrus_snapshots", "Snapshots of volumes")
_UPLOADS = gauge("mallee_walrus_snapshot_uploads", "Snapshots that are being uploaded")
_BLOCK_BYTES = gauge("mallee_walrus_block_bytes", "Bytes that blocks of snapshots take")
_WASTE_BYTES = gauge("mallee_walrus_block_waste_bytes", "Bytes of packs that hold no block any more")
_ACCOUNT_BYTES = gauge(
    "mallee_walrus_account_bytes",
    "Bytes of an account's objects and open uploads, as its quota counts them",
    ("account",),
)
_ACCOUNT_OBJECTS = gauge(
    "mallee_walrus_account_objects", "An account's objects, all versions and markers", ("account",)
)
_GARBAGE = gauge("mallee_walrus_garbage_blobs", "Blobs that were let go and are not deleted yet")
_EVENTS = gauge("mallee_walrus_events_waiting", "Events that wait for a target", ("target",))
_FREE = gauge("mallee_walrus_free_bytes", "Bytes that may still be written, the reserve included")
_COMMITS = counter("mallee_walrus_commits", "Transactions of the index")
_BATCHES = histogram(
    "mallee_walrus_commit_steps", "Steps that shared one transaction", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
)


def committed(steps: int) -> None:
    _COMMITS.inc()
    _BATCHES.observe(steps)


async def follow(store: Store) -> None:
    while True:
        usage = await store.index.usage()
        _BUCKETS.set(usage.buckets)
        _OBJECTS.set(usage.objects)
        _BYTES.set(usage.size)
        _PINS.set(usage.pins)
        kept = await store.index.blocks.block_usage()
        _SNAPSHOTS.set(kept.snapshots)
        _UPLOADS.set(kept.uploads)
        _BLOCK_BYTES.set(kept.block_bytes)
        _WASTE_BYTES.set(kept.pack_bytes - kept.block_bytes)
        accounts = await store.index.quotas.accounts()
        # Also of accounts that are no more.
        _ACCOUNT_BYTES.clear()
        _ACCOUNT_OBJECTS.clear()
        for held in accounts:
            _ACCOUNT_BYTES.labels(held.account_id).set(held.size + held.part_bytes)
            _ACCOUNT_OBJECTS.labels(held.account_id).set(held.objects)
        _GARBAGE.set(await store.index.inspection.garbage_count())
        _EVENTS.clear()
        for target, waiting in (await store.index.events.lengths()).items():
            _EVENTS.labels(target).set(waiting)
        _FREE.set(await store.blobs.free_bytes())
        await asyncio.sleep(_PERIOD_S)
