"""Runs a program that reads hostile bytes in a process that can do next to nothing.

Unprivileged user, no new privileges, no network where the kernel allows that, bounded time, memory and descriptors; it
gets files as open descriptors (/dev/fd/N).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from common.errors import CloudError
from common.log import get_logger

# It may be made to say something of every part of its input: what it says is never kept whole.
_ANSWER_BYTES: Final = 1 << 20
_CHUNK_BYTES: Final = 1 << 16
# nobody and nogroup.
_USER: Final = 65534

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    cpu_s: int
    wall_s: float
    memory_bytes: int = 1 << 30
    # Of any file it writes.
    file_bytes: int = 1 << 16
    descriptors: int = 64


@contextlib.contextmanager
def lent(*descriptors: int) -> Iterator[None]:
    """The confined process may open these files by their descriptors, meanwhile."""
    owners = [(one, os.fstat(one)) for one in descriptors] if os.geteuid() == 0 else []
    for descriptor, _ in owners:
        os.fchown(descriptor, _USER, -1)
    try:
        yield
    finally:
        for descriptor, before in owners:
            os.fchown(descriptor, before.st_uid, -1)


class TookTooLong(Exception):
    """It did not end in time."""


class Refused(Exception):
    """It ended with an error; its last line says which."""


async def run_confined(
    command: Sequence[str], limits: Limits, *, pass_fds: Sequence[int], fine: Collection[int] = (0,)
) -> bytes:
    """What it wrote to its standard output. `fine`: exit statuses of a program that is content.

    Raises TookTooLong, Refused, and CloudError if it does not run at all.
    """
    prlimit = (
        "prlimit", f"--cpu={limits.cpu_s}", f"--as={limits.memory_bytes}", f"--nofile={limits.descriptors}",
        f"--fsize={limits.file_bytes}", "--core=0",
    )  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *await _confinement(),
        *prlimit,
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        pass_fds=pass_fds,
        env={"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "LC_ALL": "C"},
        cwd="/",
    )
    try:
        async with asyncio.timeout(limits.wall_s):
            assert process.stdout is not None
            assert process.stderr is not None
            out, error = await asyncio.gather(_beginning(process.stdout), _end(process.stderr))
            await process.wait()
    except TimeoutError:
        raise TookTooLong(command[0]) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode not in fine:
        reason = error.decode("utf-8", "replace").strip().splitlines()[-1:] or [f"{command[0]} ended without a word"]
        if process.returncode in (126, 127):
            raise CloudError(f"{command[0]} does not run: {reason[0]}")
        raise Refused(reason[0])
    if len(out) > _ANSWER_BYTES:
        raise Refused(f"{command[0]} has more to say than anybody wants to know")
    return out


async def _beginning(stream: asyncio.StreamReader) -> bytes:
    """Somewhat more than may be said, if it is; the rest is read and dropped, so that it comes to its end."""
    kept = b""
    while chunk := await stream.read(_CHUNK_BYTES):
        if len(kept) <= _ANSWER_BYTES:
            kept += chunk
    return kept


async def _end(stream: asyncio.StreamReader) -> bytes:
    kept = b""
    while chunk := await stream.read(_CHUNK_BYTES):
        kept = (kept + chunk)[-_CHUNK_BYTES:]
    return kept


async def _confinement() -> list[str]:
    user = (
        [f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
        if os.geteuid() == 0
        else []
    )
    confined = ["setpriv", *user, "--no-new-privs", "--pdeathsig=KILL"]
    apart = ["unshare", "--user", "--net"]
    trial = await asyncio.create_subprocess_exec(
        *confined, *apart, "true", stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, cwd="/"
    )
    if await trial.wait() != 0:
        _log.warning("this kernel gives no namespaces to ordinary users: images are read without one")
        apart = []
    return [*confined, *apart]
