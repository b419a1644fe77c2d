"""A volume that its source comes into: used from the first moment, filled in the background, then without its source.

While it fills, a qcow2 knows which of its bytes count; once it is full, its data file is the volume and the qcow2 goes.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import subprocess
import tempfile
import time
from dataclasses import replace
from functools import partial
from typing import Any, Final

from common.errors import Unavailable
from common.threads import to_the_end
from services.sc.drivers import sparse
from services.sc.drivers.qsd import graph
from services.sc.drivers.qsd.engine import VolumeEngine
from services.sc.drivers.qsd.graph import PointName
from services.sc.drivers.qsd.layout import VolumePlace

_JOB: Final = "fill"
# The volume's client goes first.
_BYTES_PER_S: Final = 128 << 20
_LOOK_S: Final = 0.2
_TURN_S: Final = 0.005
_GONE_S: Final = 10.0
_CLUSTER_BYTES: Final = 64 << 10
# qemu-io takes less than 2 GiB at a time.
_ZEROS_BYTES: Final = 1 << 30
# Of any volume, however it grows.
_LARGEST_BYTES: Final = 64 << 40
# fallocate(2): FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
_PUNCH: Final = 3
# A line of what `qemu-img map` tells.
_PART: Final = re.compile(
    rb'"start": (\d+), "length": (\d+), "depth": \d+, '
    rb'"present": (true|false), "zero": (true|false), "data": (true|false)'
)


async def make(place: VolumePlace, size_bytes: int, *, source_bytes: int) -> None:
    """The files of a volume whose source has not come yet. That nothing follows it is noted in its map at once."""
    sparse.make(place.data, size_bytes)
    options = f"data_file={place.data},cluster_size={_CLUSTER_BYTES}"
    create = ("qemu-img", "create", "-q", "-f", "qcow2", "-o")
    await _run(*create, options, str(place.map), str(size_bytes))
    await _run(*create, "cluster_size=2M", str(place.pad), str(_LARGEST_BYTES))
    behind = range(-(-source_bytes // _CLUSTER_BYTES) * _CLUSTER_BYTES, size_bytes, _ZEROS_BYTES)
    zeros = [f"write -z -u {start} {min(_ZEROS_BYTES, size_bytes - start)}" for start in behind]
    if zeros:
        await _run("qemu-io", "-f", "qcow2", *(word for one in zeros for word in ("-c", one)), str(place.map))


async def missing_bytes(engine: VolumeEngine) -> int:
    """Some, until the volume has nothing to do with its source any more."""
    record = engine.record()
    if engine.filled or engine.finishing:
        return 1
    if record.source is None:
        return 0
    job = await _job(engine)
    if job is None:
        return record.source.size_bytes
    return max(1, int(job["total-progress"]) - int(job["current-progress"]))


async def rest(engine: VolumeEngine) -> None:
    """The nodes stay as they are until the next `step`; what has come stays."""
    job = await _job(engine)
    if job is not None:
        if job["status"] != "concluded":
            await engine.daemon.ask("job-cancel", id=_JOB)
        deadline = time.monotonic() + _GONE_S
        while (job := await _job(engine)) is not None and job["status"] != "concluded":
            if time.monotonic() > deadline:
                raise Unavailable(f"the filling of {engine.place.volume_id} does not end")
            await asyncio.sleep(_TURN_S)
        if job is not None:
            await _concluded(engine, job)
    if engine.filled:
        await _finish(engine)


async def marks(engine: VolumeEngine) -> list[PointName]:
    """None is told while its source comes: asking would end its daemon."""
    return [] if engine.place.load() is None or engine.record().source else await engine.marks()


async def step(engine: VolumeEngine) -> float | None:
    """The next thing to do; seconds until there may be another."""
    record = engine.place.load()
    if record is None or record.source is None:
        return None
    if await engine.points():
        # A point holds the nodes as they are.
        return _LOOK_S
    if engine.filled:
        await _finish(engine)
        return None if engine.record().source is None else _LOOK_S
    job = await _job(engine)
    if engine.paused and (job is None or job["status"] != "concluded"):
        # What is left of the disk is the host's: it goes on when there is more.
        if job is not None and job["status"] == "running":
            await engine.daemon.ask("job-pause", id=_JOB)
        return _LOOK_S
    if job is None:
        await engine.daemon.ask(
            "block-stream", job_id=_JOB, device=graph.MAP, speed=_BYTES_PER_S, auto_dismiss=False, on_error="stop"
        )
    elif job["status"] == "concluded":
        await _concluded(engine, job)
        return 0.0 if engine.filled else _LOOK_S
    elif job["status"] == "paused" or job["status"] == "standby":
        await engine.daemon.ask("job-resume", id=_JOB)
    elif job["current-progress"] >= record.source.size_bytes:
        # Only zeros follow, of what it has grown by since: they are noted and not written.
        await engine.daemon.ask("block-job-set-speed", device=_JOB, speed=0)
    return _LOOK_S


async def _concluded(engine: VolumeEngine, job: dict[str, Any]) -> None:
    engine.filled = "error" not in job and job["current-progress"] == job["total-progress"]
    await engine.daemon.ask("job-dismiss", id=_JOB)


async def _finish(engine: VolumeEngine) -> None:
    """Its daemon starts once more, on the data file alone. The client waits as long as that takes.

    A daemon that was killed on its way may have taken along which bytes count: then the source comes once more.
    """
    record, place = engine.record(), engine.place
    assert record.source is not None, "a volume that fills has a source"
    engine.filled, engine.finishing = False, True
    await engine.daemon.end(gently=True)
    try:
        if await to_the_end(partial(clear, place, record.source.size_bytes)):
            await place.save(replace(record, source=None))
            for file in (place.map, place.pad):
                file.unlink(missing_ok=True)
    finally:
        try:
            await engine.look_after()
        finally:
            engine.finishing = False


def clear(place: VolumePlace, source_bytes: int) -> bool:
    """What the qcow2 says are zeros becomes zeros, durably when it returns; whether all of its source has come.

    Blocks. A guest decides of how many parts the volume is: they are never in memory together.
    """
    whole = True
    command = ["qemu-img", "map", "--output=json", str(place.map)]
    with (
        place.data.open("r+b") as file,
        tempfile.TemporaryFile() as words,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=words) as telling,
    ):
        assert telling.stdout is not None
        end = 0
        for line in telling.stdout:
            if (part := _PART.search(line)) is None:
                raise Unavailable(f"qemu-img map tells what is not understood: {line[:200]!r}")
            start, length = int(part[1]), int(part[2])
            end = start + length
            if part[3] == b"false" and start < source_bytes:
                whole = False
            if part[4] == b"true" or part[5] == b"false":
                _punch(file.fileno(), start, length)
        if telling.wait() != 0 or end != os.fstat(file.fileno()).st_size:
            words.seek(0)
            raise Unavailable(f"qemu-img map, up to {end}: {words.read().decode(errors='replace').strip()[-300:]}")
        os.fsync(file.fileno())
    return whole


def _punch(descriptor: int, start: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(descriptor, _PUNCH, ctypes.c_int64(start), ctypes.c_int64(length)) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


async def _job(engine: VolumeEngine) -> dict[str, Any] | None:
    if not engine.daemon.runs:
        return None
    jobs: list[dict[str, Any]] = await engine.daemon.ask("query-jobs")
    return next((job for job in jobs if job["id"] == _JOB), None)


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, error = await process.communicate()
    if process.returncode != 0:
        raise Unavailable(f"{command[0]}: {error.decode(errors='replace').strip()[-300:]}")
