"""What a controller has served of snapshots, while Walrus comes and goes and volumes begin and end at one moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from common.errors import Unavailable
from common.ids import SnapshotId
from mallee.walrus.v1 import service_pb2
from services.sc.manifest_file import Manifest
from services.sc.nbd.server import NbdServer
from services.sc.source import WalrusSources

if TYPE_CHECKING:
    from services.sc.block_source import SnapshotExport

ONE = SnapshotId("snap-00000000000000001")


class Walrus:
    """Has one snapshot, which is all zero."""

    def __init__(self) -> None:
        self.away = False
        self.held: set[str] = set()
        # A call to forget waits here.
        self.forgetting = asyncio.Event()
        self.may_forget = asyncio.Event()
        self.may_forget.set()

    async def CopySnapshot(self, request: service_pb2.CopySnapshotRequest) -> service_pb2.CopySnapshotResponse:
        if self.away:
            raise Unavailable("it is away")
        self.held.add(request.snapshot_id)
        return service_pb2.CopySnapshotResponse(size_bytes=1 << 20)

    async def ReadSnapshot(self, request: object) -> AsyncIterator[service_pb2.ReadSnapshotResponse]:
        yield service_pb2.ReadSnapshotResponse(size_bytes=1 << 20)

    async def ForgetSnapshot(self, request: service_pb2.ForgetSnapshotRequest) -> None:
        self.forgetting.set()
        await self.may_forget.wait()
        self.held.discard(request.snapshot_id)


class Zeros:
    def __init__(self, manifest: Manifest) -> None:
        self.size_bytes = manifest.size_bytes


@pytest.fixture
async def walrus() -> Walrus:
    return Walrus()


@pytest.fixture
async def sources(tmp_path: Path, walrus: Walrus) -> AsyncIterator[WalrusSources]:
    """Its server is in this process."""
    folder, socket = tmp_path / "sources", tmp_path / "socket"

    async def opened(name: str) -> SnapshotExport:
        return cast("SnapshotExport", Zeros(Manifest(folder / "served" / name)))

    async with AsyncExitStack() as stack:
        sources = WalrusSources(folder, socket, command=["true"], holder="sc-a", walrus=cast("Any", lambda: walrus))
        await sources.open()
        stack.push_async_callback(sources.close)
        await stack.enter_async_context(NbdServer(socket, opened))
        yield sources


async def test_walrus_being_away_once_keeps_no_volume_from_its_snapshot_for_good(
    sources: WalrusSources, walrus: Walrus
) -> None:
    walrus.away = True
    with pytest.raises(Unavailable):
        await sources.serve(ONE)
    walrus.away = False
    assert (await sources.serve(ONE)).size_bytes == 1 << 20


async def test_a_snapshot_that_is_let_go_is_there_for_a_volume_that_asks_meanwhile(
    sources: WalrusSources, walrus: Walrus
) -> None:
    await sources.serve(ONE)
    walrus.may_forget.clear()
    letting_go = asyncio.ensure_future(sources.stop(ONE, unless=lambda: False))
    await walrus.forgetting.wait()
    serving = asyncio.ensure_future(sources.serve(ONE))
    # As far as it comes.
    await asyncio.wait([serving], timeout=0.2)
    walrus.may_forget.set()
    await letting_go
    await serving
    assert await sources.serving() == {ONE}
    assert walrus.held == {f"{ONE} for sc-a"}


async def test_a_snapshot_that_is_needed_again_is_not_let_go(sources: WalrusSources, walrus: Walrus) -> None:
    await sources.serve(ONE)
    await sources.stop(ONE, unless=lambda: True)
    assert await sources.serving() == {ONE}
    await sources.stop(ONE, unless=lambda: False)
    assert (await sources.serving(), walrus.held) == (frozenset(), set())
