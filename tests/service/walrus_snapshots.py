"""The words to make and read snapshots over gRPC, for tests."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from common.blocks import BLOCK_BYTES, compressed, decoded
from common.rpc.channel import cloud_errors
from mallee.walrus.v1 import service_pb2

ACCOUNT = "1" * 12


def block_of(content: bytes) -> service_pb2.Block:
    stored, smaller = compressed(content)
    return service_pb2.Block(digest=hashlib.sha256(content).digest(), content=bytes(stored), compressed=smaller)


async def missing(walrus: Any, snapshot_id: str, digests: Iterable[bytes]) -> list[bytes]:
    request = service_pb2.FindBlocksRequest(snapshot_id=snapshot_id, digests=list(digests))
    return list((await walrus.FindBlocks(request)).missing)


async def store(walrus: Any, snapshot_id: str, *messages: Iterable[service_pb2.Block]) -> int:
    async def stream() -> AsyncIterator[service_pb2.StoreBlocksRequest]:
        for blocks in messages:
            yield service_pb2.StoreBlocksRequest(snapshot_id=snapshot_id, blocks=blocks)

    with cloud_errors():
        return int((await walrus.StoreBlocks(stream())).stored_bytes)


async def seal(
    walrus: Any,
    snapshot_id: str,
    entries: Mapping[int, bytes],
    *,
    base: str = "",
    size: int = 1 << 30,
    complete: bool = True,
) -> int:
    async def stream() -> AsyncIterator[service_pb2.SealSnapshotRequest]:
        yield service_pb2.SealSnapshotRequest(
            snapshot_id=snapshot_id, account_id=ACCOUNT, base_snapshot_id=base, size_bytes=size
        )
        for index, digest in entries.items():
            entry = service_pb2.BlockEntry(index=index, digest=digest)
            yield service_pb2.SealSnapshotRequest(entries=[entry])
        if complete:
            yield service_pb2.SealSnapshotRequest(complete=True)

    with cloud_errors():
        return int((await walrus.SealSnapshot(stream())).full_bytes)


async def manifest(walrus: Any, snapshot_id: str) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    with cloud_errors():
        async for answer in walrus.ReadSnapshot(service_pb2.ReadSnapshotRequest(snapshot_id=snapshot_id)):
            found |= {entry.index: entry.digest for entry in answer.entries}
    return found


async def fetch(walrus: Any, snapshot_id: str, digests: Iterable[bytes]) -> list[bytes]:
    request = service_pb2.FetchBlocksRequest(snapshot_id=snapshot_id, digests=list(digests))
    with cloud_errors():
        blocks = [answer.block async for answer in walrus.FetchBlocks(request)]
    return [decoded(block.digest, block.content, compressed=block.compressed) for block in blocks]


async def upload(walrus: Any, snapshot_id: str, blocks: Mapping[int, bytes], *, base: str = "") -> None:
    """Blocks by index; an empty one is zero."""
    made = {index: block_of(content) for index, content in blocks.items() if content}
    wanted = set(await missing(walrus, snapshot_id, (block.digest for block in made.values())))
    # One to a message: several are soon too large for one.
    await store(walrus, snapshot_id, *([block] for block in made.values() if block.digest in wanted))
    entries = {index: made[index].digest if index in made else b"" for index in blocks}
    await seal(walrus, snapshot_id, entries, base=base)


async def download(walrus: Any, snapshot_id: str) -> dict[int, bytes]:
    """Blocks by index, zero ones left out."""
    places = await manifest(walrus, snapshot_id)
    return dict(zip(places, await fetch(walrus, snapshot_id, places.values()), strict=True))


def a_block(seed: int, size: int = BLOCK_BYTES) -> bytes:
    """Half of it compresses."""
    return (random.Random(seed).randbytes(size // 2) + bytes([seed % 251]) * size)[:size]
