"""A sealed blob, and the step of the index that names it: it is kept exactly if the step took place."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress

from services.walrus.drivers.base import BlobId
from services.walrus.drivers.blobs import Staged
from services.walrus.store import Store


async def settled(store: Store, staged: Staged, step: Awaitable[bool | None]) -> None:
    """`step`: one that answers False has named nothing."""
    try:
        named = await step
    except asyncio.CancelledError:
        # Whether it took place is known to the index alone.
        if await _may_be_named(store, staged.blob):
            staged.keep()
        raise
    if named is not False:
        staged.keep()


async def _may_be_named(store: Store, blob: BlobId) -> bool:
    """Where the answer does not come it may: a blob too many is reclaimed, one too few is lost."""
    asking = asyncio.ensure_future(store.index.named([blob]))
    while not asking.done():
        # A second cancellation changes nothing: the first one is already on its way up.
        with suppress(asyncio.CancelledError):
            await asyncio.wait([asking])
    return asking.cancelled() or asking.exception() is not None or bool(asking.result())
