"""One volume: its daemon, and that what its record says is served. The caller gives one order at a time.

Data is served from a raw file: QEMU keeps a qcow2's tables in memory until the next flush, so that a daemon which dies
would take writes along that its client believes are with the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Final

from common.cores import core_of
from common.errors import NotFound, Unavailable, WrongState
from common.log import get_logger
from services.sc.drivers.base import ExportGrant, ExportPlace, Limits
from services.sc.drivers.qsd import graph
from services.sc.drivers.qsd.daemon import Daemon, Refused
from services.sc.drivers.qsd.door import Door, DoorKeys
from services.sc.drivers.qsd.graph import PointName
from services.sc.drivers.qsd.layout import Record, VolumePlace

# The group of guests' engines may connect, the world may not. A daemon has a umask of its own, 027.
_SOCKET_MODE: Final = 0o660
_GONE_S: Final = 2.0
# Nobody waits longer than this for a daemon that is asked to cut its client off.
_FENCE_S: Final = 2.5
_LOOK_S: Final = 0.002
GUEST: Final = "guest"

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What holds for all volumes of a controller."""

    keys: DoorKeys
    # Whether the file system lets a file be read and written past the page cache.
    direct: bool


class VolumeEngine:
    def __init__(self, place: VolumePlace, around: Around, *, died: Callable[[], None]) -> None:
        self.place = place
        self.daemon = Daemon(pid_file=place.private("pid"), monitor=place.private("qmp"), died=died)
        self.door = Door(place, around.keys, died=died)
        self.lock = asyncio.Lock()
        self.paused = False
        # All of its source has come, as this daemon has it.
        self.filled = False
        # Its daemon changes from its source to its own data alone.
        self.finishing = False
        self._around = around

    # What is there.

    def record(self) -> Record:
        """Raises NotFound."""
        if (record := self.place.load()) is None:
            raise NotFound(f"There is no volume {self.place.volume_id} here.", code="InvalidVolume.NotFound")
        return record

    @property
    def size_bytes(self) -> int:
        return self.place.data.stat().st_size

    async def points(self) -> list[PointName]:
        """Those that stand, the oldest first: the others wait for later ones to go, or were never finished."""
        if not (filters := await self.filters()):
            return []
        names = await self.node_names()
        return [one for one in filters if one.access in names and self.place.point(one.snapshot_id).exists()]

    async def filters(self) -> list[PointName]:
        """Of all points, those that were let go too while a later one stands on them; the oldest first."""
        if not self.daemon.runs:
            return []
        return sorted(point for name in await self.node_names() if (point := _filter_point(name)))

    async def marks(self) -> list[PointName]:
        """Those from which on changes are known, the oldest first."""
        if not self.daemon.runs:
            return []
        found = (PointName.parse(name) for name in await self.bitmaps())
        return sorted(point for point in found if point)

    async def bitmaps(self) -> list[str]:
        # QEMU 7.2 crashes in this command when a stream has ended: `hydrate` sees to it that it is not asked then.
        nodes = await self.daemon.ask("query-named-block-nodes", flat=True)
        top = next(node for node in nodes if node["node-name"] == graph.TOP)
        return [bitmap["name"] for bitmap in top.get("dirty-bitmaps", ())]

    def base(self) -> str:
        """The node that holds what is the volume now, below all points."""
        return graph.MAP if self.record().source else graph.DATA

    async def served(self) -> bool:
        """Whether the client of the grant can reach it."""
        record = self.record()
        if not self.daemon.runs or record.grant is None or GUEST not in await self.exports():
            return False
        return record.grant.local or self.door.runs

    # What should be.

    async def bring_up(self) -> None:
        """The daemon serves what the record says, whatever was there. Raises Unavailable."""
        record = self.record()
        if not await self._adopted():
            for file in self.place.points():
                file.unlink()
            self.filled = False
            # Of a daemon that is gone: no sign that the next one is whole.
            self.place.private("nbd").unlink(missing_ok=True)
            await self.daemon.start()
            await self._configure(record)
        await self._serve(record)

    async def look_after(self) -> None:
        """Brings it up if it is needed, lets its daemon go if it is not."""
        record = self.record()
        if record.grant or record.source:
            await self.bring_up()
        elif await self._adopted():
            await self._serve(record)
            if not await self.marks() and not await self.points():
                # It holds nothing that its file has not.
                await self.daemon.end()
                self.place.private("nbd").unlink(missing_ok=True)

    async def export(self, grant: ExportGrant) -> ExportPlace:
        record = self.record()
        if record.grant is not None and record.grant != grant:
            raise WrongState(f"{self.place.volume_id} is exported to {record.grant.node}", code="VolumeInUse")
        if record.grant is None:
            port = 0 if grant.local else self.door.free_port()
            record = replace(record, grant=grant, port=port)
            await self.place.save(record)
        await self.bring_up()
        name = _export_name(self.place, grant)
        if grant.local:
            return ExportPlace(name=name, size_bytes=self.size_bytes, socket=self.place.guest_socket(grant))
        return ExportPlace(name=name, size_bytes=self.size_bytes, address=self._around.keys.address, port=record.port)

    async def unexport(self) -> None:
        """Nothing of the grant reaches the volume on return, even if its daemon does not answer any more."""
        if (record := self.place.load()) is None:
            return
        if record.grant is not None:
            await self.place.save(replace(record, grant=None, port=0))
        await self.cut_off()

    async def cut_off(self) -> None:
        """The client is out; its grant stands as it was. Raises Unavailable if the kernel does not let go."""
        await self.door.end()
        for socket in self.place.guest_sockets():
            socket.unlink(missing_ok=True)
        try:
            async with asyncio.timeout(_FENCE_S):
                if await self._adopted():
                    await self.drop_export(GUEST)
        except (Unavailable, Refused, TimeoutError):
            await self.daemon.end()

    async def limit(self, limits: Limits) -> None:
        await self.place.save(replace(self.record(), limits=limits))
        if self.daemon.runs:
            await self._throttle(limits)

    async def pause(self, paused: bool) -> None:
        """Writes wait while `paused`."""
        self.paused = paused
        if self.daemon.runs:
            await self._throttle(self.record().limits)

    async def resize(self, size_bytes: int) -> None:
        record = self.record()
        if size_bytes <= self.size_bytes:
            return
        if not await self._adopted():
            if record.source is None:
                os.truncate(self.place.data, size_bytes)
                return
            await self.bring_up()
        if await self.points():
            raise WrongState(f"{self.place.volume_id} has a snapshot on its way and cannot grow now")
        # An export keeps the size that it began with, and its node from changing.
        await self.door.end()
        await self.drop_export(GUEST)
        try:
            await self.daemon.ask("block_resize", node_name=graph.TOP, size=size_bytes)
        finally:
            await self._serve(record)

    async def end(self) -> None:
        await self.door.end()
        await self.daemon.end()

    async def let_go(self) -> None:
        await self.door.let_go()
        await self.daemon.let_go()

    # How.

    async def _adopted(self) -> bool:
        """Whether a daemon runs that has all that it needs; one that its controller left half made is ended."""
        if not await self.daemon.adopt():
            return False
        if self.place.private("nbd").exists():
            return True
        await self.daemon.end()
        return False

    async def _configure(self, record: Record) -> None:
        """The server last: from its socket one sees that all is there."""
        ask = self.daemon.ask
        limits = graph.throttle(record.limits, paused=self.paused)
        await ask("object-add", qom_type="throttle-group", id=graph.GROUP, limits=limits)
        for node in graph.base_nodes(self.place, record.source, direct=self._around.direct):
            try:
                await ask("blockdev-add", **node)
            except Refused:
                # The kernel's asynchronous requests are a number for the whole host.
                if node.get("aio") != "native":
                    raise
                await ask("blockdev-add", **{**node, "aio": "threads"})
        await ask("blockdev-add", **graph.top_node(graph.MAP if record.source else graph.DATA))
        await ask("nbd-server-start", addr={"type": "unix", "data": {"path": str(self.place.private("nbd"))}})

    async def _serve(self, record: Record) -> None:
        exports = await self.exports()
        if record.grant is None:
            await self.door.end()
            for socket in self.place.guest_sockets():
                socket.unlink(missing_ok=True)
            if GUEST in exports:
                await self.drop_export(GUEST)
            return
        if GUEST not in exports:
            await self.daemon.ask(
                "block-export-add",
                type="nbd",
                id=GUEST,
                node_name=graph.TOP,
                name=_export_name(self.place, record.grant),
                writable=True,
                # A qcow2 that still fetches its source has tables in memory, which no acknowledged write may depend on.
                writethrough=record.source is not None,
            )
        if record.grant.local:
            self._link(record.grant)
            self._run_on({core_of(self.place.volume_id, os.sched_getaffinity(0))})
        else:
            self._run_on(os.sched_getaffinity(0))
            await self.door.open(record.grant, _export_name(self.place, record.grant), record.port)

    def _run_on(self, cores: AbstractSet[int]) -> None:
        """Beside the thread of its guest's QEMU that it works for, if that is of this host."""
        try:
            self.daemon.run_on(cores)
        except OSError as error:
            _say_once(str(error))

    def _link(self, grant: ExportGrant) -> None:
        """The guest's way is another name of the daemon's socket: taking the name away closes it."""
        private, way = self.place.private("nbd"), self.place.guest_socket(grant)
        with contextlib.suppress(FileNotFoundError):
            if way.stat().st_ino == private.stat().st_ino:
                return
        private.chmod(_SOCKET_MODE)
        new = way.with_suffix(".new")
        new.unlink(missing_ok=True)
        os.link(private, new)
        os.replace(new, way)

    async def drop_export(self, export_id: str) -> None:
        """It is gone on return, and with it every request of its clients."""
        if export_id not in await self.exports():
            return
        await self.daemon.ask("block-export-del", id=export_id, mode="hard")
        deadline = time.monotonic() + _GONE_S
        while export_id in await self.exports():
            if time.monotonic() > deadline:
                raise Unavailable(f"an export of {self.place.volume_id} does not end")
            await asyncio.sleep(_LOOK_S)

    async def exports(self) -> set[str]:
        return {export["id"] for export in await self.daemon.ask("query-block-exports")}

    async def node_names(self) -> set[str]:
        told = await self.daemon.ask("query-blockstats", query_nodes=True)
        return {node["node-name"] for node in told if "node-name" in node}

    async def _throttle(self, limits: Limits) -> None:
        value = graph.throttle(limits, paused=self.paused)
        await self.daemon.ask("qom-set", path=f"/objects/{graph.GROUP}", property="limits", value=value)
        if not self.paused:
            # Requests that wait go by the old limits until their nodes are drained.
            filters = await self.filters()
            below = filters[-1].filter if filters else self.base()
            await self.daemon.ask("blockdev-reopen", options=[graph.top_node(below)])


@functools.cache
def _say_once(words: str) -> None:
    """It works without, slower."""
    _log.warning("storage daemons cannot be kept on one core", error=words)


def _export_name(place: VolumePlace, grant: ExportGrant) -> str:
    """Another one for each grant: who knows an old one knows nothing."""
    return f"{place.volume_id}-{grant.generation}"


def _filter_point(node_name: str) -> PointName | None:
    return PointName.parse(node_name) if node_name.startswith("c") else None
