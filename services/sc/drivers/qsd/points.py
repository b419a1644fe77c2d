"""Points in time of one volume: frozen, read beside its client, released; and what has changed between them.

A point is a copy-before-write filter below the throttle: what a client overwrites is kept in a file first. From each
point on a dirty bitmap records what changes, up to the next point: changes since a base are all bitmaps from it on.
Both live in the daemon's memory. With it they are lost, and are then told as lost, never as nothing.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from common.blocks import BLOCK_BYTES
from common.errors import CloudError, NotFound, WrongState
from common.ids import SnapshotId
from services.sc.drivers import sparse
from services.sc.drivers.base import Extent
from services.sc.drivers.extents import whole_blocks
from services.sc.drivers.qsd import graph
from services.sc.drivers.qsd.engine import VolumeEngine
from services.sc.drivers.qsd.graph import PointName
from services.sc.nbd import wire
from services.sc.nbd.client import NbdClient, connected

_READ_BYTES: Final = 4 << 20
# Begins the names of exports of points, and of bitmaps that are told along.
_EXPORT: Final = "p-"
# Closes a gate for more than an hour.
_GATE_BYTES: Final = 4096
_serial = itertools.count()


async def name(engine: VolumeEngine, snapshot_id: SnapshotId) -> PointName:
    """Of the next point of this volume."""
    await engine.bring_up()
    filters = await engine.filters()
    if any(point.snapshot_id == snapshot_id for point in filters):
        raise WrongState(f"{snapshot_id} was a point of {engine.place.volume_id} a moment ago")
    numbers = [point.number for point in (*filters, *await engine.marks())]
    return PointName(number=max(numbers, default=0) + 1, snapshot_id=snapshot_id)


async def prepare(engine: VolumeEngine, point: PointName, *, closed: bool) -> None:
    """All that can be done before the moment itself. Changes are recorded from here on: rather too much.

    `closed`: from the moment on no client is told of a write, until `let_on`.
    """
    target = engine.place.point(point.snapshot_id)
    sparse.make(target, engine.size_bytes)
    ask = engine.daemon.ask
    await ask("object-add", qom_type="throttle-group", id=point.gate, limits=graph.gate(closed=closed))
    for node in graph.target_nodes(point, str(target)):
        await ask("blockdev-add", **node)
    if closed:
        await _use_up(engine, point)
    before = await engine.filters()
    below = before[-1].filter if before else engine.base()
    await ask("blockdev-add", **graph.filter_node(point, below))
    await ask("block-dirty-bitmap-add", node=graph.TOP, name=point.bitmap, granularity=BLOCK_BYTES)


async def fix(engine: VolumeEngine, point: PointName) -> None:
    """This is the moment. What is overwritten from now on must be with the point first."""
    await engine.daemon.ask("blockdev-reopen", options=[graph.top_node(point.filter)])


async def let_on(engine: VolumeEngine, point: PointName) -> None:
    """What waits at its gate goes on, as waiting requests do when their nodes are drained."""
    ask = engine.daemon.ask
    limits = graph.gate(closed=False)
    await ask("qom-set", path=f"/objects/{point.gate}", property="limits", value=limits)
    await ask("blockdev-reopen", options=[graph.target_nodes(point, "")[-1]])


async def finish(engine: VolumeEngine, point: PointName) -> None:
    """It stands on return."""
    ask = engine.daemon.ask
    if earlier := [mark for mark in await engine.marks() if mark < point]:
        await ask("transaction", actions=[_bitmap_action("disable", mark) for mark in earlier])
    await ask("blockdev-add", **graph.access_node(point))


async def release(engine: VolumeEngine, snapshot_id: SnapshotId, *, keep_as_base: bool) -> None:
    """What is left half done by a crash is done by the next call."""
    await _keep_marks(engine, snapshot_id, keep_as_base=keep_as_base)
    await drop(engine, snapshot_id)


async def drop(engine: VolumeEngine, snapshot_id: SnapshotId) -> None:
    """The point is not there any more; what changes is recorded as before."""
    engine.place.point(snapshot_id).unlink(missing_ok=True)
    await _clear(engine)


async def tidy(engine: VolumeEngine) -> None:
    """What a controller that is gone had open or half done is not there any more."""
    for export_id in await engine.exports():
        if export_id.startswith(_EXPORT):
            await engine.drop_export(export_id)
    for name in await engine.bitmaps():
        if name.startswith(_EXPORT):
            await engine.daemon.ask("block-dirty-bitmap-remove", node=graph.TOP, name=name)
    standing = {point.snapshot_id for point in await engine.points()}
    for file in engine.place.points():
        if SnapshotId(file.stem) not in standing:
            file.unlink()
    await _clear(engine)


async def _clear(engine: VolumeEngine) -> None:
    """Takes out points that have no file any more.

    QEMU takes a filter out from the top alone: one that later points stand on stays until they are gone, and its file,
    which has no name any more, with it.
    """
    ask = engine.daemon.ask
    filters = await engine.filters()
    standing = {point.snapshot_id for point in filters if engine.place.point(point.snapshot_id).exists()}
    names = await engine.node_names()
    # Also of those that were not prepared to the end: they have no filter.
    read = tuple(map(_exports_of, standing))
    for export_id in await engine.exports():
        if export_id.startswith(_EXPORT) and not export_id.startswith(read):
            await engine.drop_export(export_id)
    for point in filters:
        if point.snapshot_id not in standing and point.access in names:
            await ask("blockdev-del", node_name=point.access)
    while filters and filters[-1].snapshot_id not in standing:
        gone = filters.pop()
        below = filters[-1].filter if filters else engine.base()
        await ask("blockdev-reopen", options=[graph.top_node(below)])
        await ask("blockdev-del", node_name=gone.filter)
    # What is of no filter, or not of one any more, each before what it stands on.
    held = {node for point in filters for node in (point.target, point.file, point.gate)}
    for node in sorted(names, reverse=True):
        if node.startswith(("t-", "f-")) and node not in held:
            await ask("blockdev-del", node_name=node)
    for one in await ask("qom-list", path="/objects"):
        if one["name"].startswith("gate-") and one["name"] not in held:
            await ask("object-del", id=one["name"])


async def _use_up(engine: VolumeEngine, point: PointName) -> None:
    """The one request that a closed gate lets through."""
    export = f"{_exports_of(point.snapshot_id)}{next(_serial)}"
    await _export(engine, export, point.target)
    async with connected(engine.place.private("nbd"), export) as nbd:
        await nbd.read(0, min(_GATE_BYTES, nbd.size_bytes))
    await engine.drop_export(export)


async def _export(engine: VolumeEngine, name: str, node: str, bitmaps: Sequence[Mapping[str, str]] = ()) -> None:
    await engine.daemon.ask(
        "block-export-add", type="nbd", id=name, node_name=node, name=name, writable=False, bitmaps=bitmaps
    )


async def undo(engine: VolumeEngine, point: PointName) -> None:
    """As if it had never been prepared."""
    await drop(engine, point.snapshot_id)
    marks = await engine.marks()
    if point in marks:
        await _fold(engine, point, marks)


async def _keep_marks(engine: VolumeEngine, snapshot_id: SnapshotId, *, keep_as_base: bool) -> None:
    marks = await engine.marks()
    mine = [mark for mark in marks if mark.snapshot_id == snapshot_id]
    if not mine:
        return
    if not keep_as_base:
        await _fold(engine, mine[0], marks)
        return
    needed = {point.number for point in await engine.points() if point.snapshot_id != snapshot_id}
    older = [mark for mark in marks if mark < mine[0] and mark.number not in needed]
    if older and min(needed, default=mine[0].number) >= mine[0].number:
        await engine.daemon.ask("transaction", actions=[_bitmap_action("remove", mark) for mark in older])


async def _fold(engine: VolumeEngine, mark: PointName, marks: Sequence[PointName]) -> None:
    """What changed from it on counts for the one before it, which may be a base still."""
    actions = [_bitmap_action("remove", mark)]
    if older := [other for other in marks if other < mark]:
        merge = {"node": graph.TOP, "target": older[-1].bitmap, "bitmaps": [mark.bitmap]}
        actions.insert(0, {"type": "block-dirty-bitmap-merge", "data": merge})
        if mark == marks[-1]:
            actions.insert(0, _bitmap_action("enable", older[-1]))
    await engine.daemon.ask("transaction", actions=actions)


def _bitmap_action(verb: str, mark: PointName) -> dict[str, Any]:
    return {"type": f"block-dirty-bitmap-{verb}", "data": {"node": graph.TOP, "name": mark.bitmap}}


class FrozenPoint:
    """services.sc.drivers.base.Frozen, over NBD."""

    def __init__(self, nbd: NbdClient, *, dirty: str, everything: bool) -> None:
        self.size_bytes = nbd.size_bytes
        self._nbd = nbd
        self._dirty = dirty
        self._everything = everything

    async def changed(self) -> Sequence[Extent]:
        if self._everything:
            return [Extent(start=0, length=self.size_bytes)]
        if self._dirty:
            told = [one async for one in self._nbd.status(self._dirty) if one.flags & wire.STATE_DIRTY]
        else:
            told = [one async for one in self._nbd.status(wire.ALLOCATION) if not one.flags & wire.STATE_ZERO]
        return whole_blocks(((one.start, one.length) for one in told), self.size_bytes)

    async def read(self, extent: Extent) -> bytes:
        end = extent.start + extent.length
        steps = range(extent.start, end, _READ_BYTES)
        return b"".join([await self._nbd.read(start, min(_READ_BYTES, end - start)) for start in steps])


@asynccontextmanager
async def opened(engine: VolumeEngine, snapshot_id: SnapshotId, base: SnapshotId | None) -> AsyncIterator[FrozenPoint]:
    """The volume's lock is not held while it is open: its client comes and goes meanwhile."""
    name = f"{_exports_of(snapshot_id)}{next(_serial)}"
    async with AsyncExitStack() as stack:
        async with engine.lock:
            point = next((one for one in await engine.points() if one.snapshot_id == snapshot_id), None)
            if point is None:
                raise NotFound(f"{snapshot_id} is no point in time of a volume here")
            dirty = await _since(engine, point, base, name)
            stack.push_async_callback(_closed, engine, name, dirty)
            bitmaps = [{"node": graph.TOP, "name": dirty}] if dirty else []
            await _export(engine, name, point.access, bitmaps)
        context = f"qemu:dirty-bitmap:{dirty}" if dirty else wire.ALLOCATION
        nbd = await stack.enter_async_context(connected(engine.place.private("nbd"), name, contexts=[context]))
        yield FrozenPoint(nbd, dirty=dirty and context, everything=base is not None and not dirty)


async def _closed(engine: VolumeEngine, name: str, dirty: str) -> None:
    """If its daemon is gone, so are both."""
    async with engine.lock:
        if not engine.daemon.runs:
            return
        with contextlib.suppress(CloudError):
            await engine.drop_export(name)
            if dirty:
                await engine.daemon.ask("block-dirty-bitmap-remove", node=graph.TOP, name=dirty)


async def _since(engine: VolumeEngine, point: PointName, base: SnapshotId | None, name: str) -> str:
    """A bitmap of what changed between the two; none if that is not known."""
    marks = await engine.marks()
    begin = next((mark.number for mark in marks if mark.snapshot_id == base), None)
    if begin is None or begin >= point.number:
        return ""
    between = [mark.bitmap for mark in marks if begin <= mark.number < point.number]
    add = {"node": graph.TOP, "name": name, "granularity": BLOCK_BYTES, "disabled": True}
    merge = {"node": graph.TOP, "target": name, "bitmaps": between}
    actions = [
        {"type": "block-dirty-bitmap-add", "data": add},
        {"type": "block-dirty-bitmap-merge", "data": merge},
    ]
    await engine.daemon.ask("transaction", actions=actions)
    return name


def _exports_of(snapshot_id: SnapshotId) -> str:
    return f"{_EXPORT}{snapshot_id}-"
