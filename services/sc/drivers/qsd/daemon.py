"""One qemu-storage-daemon: started, adopted, spoken to by QMP, watched and ended. It outlives its controller.

https://www.qemu.org/docs/master/tools/qemu-storage-daemon.html
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Final

from qemu.qmp import ConnectError, ExecuteError, QMPClient, QMPError

from common.errors import CloudError, NoCapacity, Unavailable
from common.threads import to_the_end

_START_S: Final = 10.0
_ANSWER_S: Final = 10.0
_END_S: Final = 2.0
_AGAIN_S: Final = 0.05
_LOCKED: Final = "lock pid file"
# Every request has a buffer of its own: in huge pages the kernel finds and pins it in one step instead of page by page.
# https://www.gnu.org/software/libc/manual/html_node/Memory-Allocation-Tunables.html
_MEMORY: Final = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


class Refused(CloudError):
    """QEMU said no, in its own words."""


class _Taken(Unavailable):
    """Another process has this pid file."""


class _Deaf(Unavailable):
    """It runs, and nobody listens at its monitor."""


class Daemon:
    """The one process of this pid file. `died` is called once for each that ends by itself."""

    def __init__(self, *, pid_file: Path, monitor: Path, died: Callable[[], None]) -> None:
        self._pid_file = pid_file
        self._monitor = monitor
        self._died = died
        self._client: QMPClient | None = None
        self._watched: int | None = None
        self._one_at_a_time = asyncio.Lock()
        self._started = -math.inf

    @property
    def runs(self) -> bool:
        """As far as is known: adopted or started by this object, and not ended since."""
        return self._watched is not None

    @property
    def age_s(self) -> float:
        """Of one that this object started; an adopted one is old."""
        return time.monotonic() - self._started

    async def start(self) -> None:
        """It runs and answers on return. Raises Unavailable."""
        deadline = time.monotonic() + _START_S
        while True:
            await self.end()
            self._monitor.unlink(missing_ok=True)
            self._started = time.monotonic()
            try:
                # A caller who goes leaves none behind that comes up later, beside the next one.
                await to_the_end(self._launch)
                break
            except _Taken:
                # A controller was killed while it started one, which comes up only now: it is ended as soon as its pid
                # is known.
                if self._started > deadline:
                    raise
            await asyncio.sleep(_AGAIN_S)
        if not await self.adopt():
            raise Unavailable("the storage daemon ended at once")

    def _launch(self) -> None:
        """In a thread: uvloop's processes hand a copy of the pipe on to what they leave behind."""
        monitor = ("--chardev", f"socket,id=qmp,path={self._monitor},server=on,wait=off", "--monitor", "chardev=qmp")
        try:
            started = subprocess.run(
                ["qemu-storage-daemon", "--daemonize", "--pidfile", str(self._pid_file), *monitor],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                # What is sent to a controller's process group does not concern the volumes.
                start_new_session=True,
                env={**os.environ, **_MEMORY},
                timeout=_START_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Unavailable("the storage daemon did not start in time") from None
        if started.returncode != 0:
            said = started.stderr.decode(errors="replace").strip()[-300:]
            raise (_Taken if _LOCKED in said else Unavailable)(f"the storage daemon did not start: {said}")

    async def adopt(self) -> bool:
        """Whether one runs that somebody started before. Raises Unavailable if it runs and does not answer."""
        if self._watched is None:
            pid = self._pid()
            if not pid:
                return False
            try:
                watched = os.pidfd_open(pid)
            except ProcessLookupError:
                return False
            # Looked at again: between the first look and this descriptor the pid may have become another's.
            if self._pid() != pid:
                os.close(watched)
                return False
            self._watched = watched
            asyncio.get_running_loop().add_reader(watched, self._ended)
        try:
            await self._connected()
        except _Deaf:
            # One that came up late, of a controller that was killed, has taken its socket's name and ended.
            await self.end()
            return False
        return True

    def run_on(self, cores: AbstractSet[int]) -> None:
        """All its threads; what they start goes by them. Raises OSError if the host does not let it."""
        # 0 would be this process.
        if pid := self._pid():
            for thread in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(int(thread.name), cores)

    async def ask(self, command: str, **arguments: Any) -> Any:
        """`_` in names is QMP's `-`. Raises Refused, NoCapacity, Unavailable."""
        client = await self._connected()
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await client.execute(command, {key.replace("_", "-"): arguments[key] for key in arguments})
        except ExecuteError as error:
            raise _refusal(command, error) from error
        except (QMPError, OSError, EOFError, TimeoutError) as error:
            await self._hang_up()
            raise Unavailable(f"the storage daemon does not answer {command}: {error!r}") from error

    async def end(self, *, gently: bool = False) -> None:
        """Nothing of it runs on return; `gently`: it writes down what it holds first. Raises Unavailable if the kernel
        does not let it go."""
        watched = self._forget()
        pid = self._pid()
        if watched is None and pid:
            with contextlib.suppress(ProcessLookupError):
                watched = os.pidfd_open(pid)
        try:
            await self._hang_up()
            if watched is None or not pid:
                return
            if gently and await _ends(watched, signal.SIGTERM, within_s=_START_S):
                return
            if not await _ends(watched, signal.SIGKILL, within_s=_END_S):
                raise Unavailable(f"storage daemon {pid} cannot be ended")
        finally:
            if watched is not None:
                os.close(watched)
            if not self._pid():
                self._monitor.unlink(missing_ok=True)
                self._pid_file.unlink(missing_ok=True)

    async def let_go(self) -> None:
        """It goes on without this controller."""
        if (watched := self._forget()) is not None:
            os.close(watched)
        await self._hang_up()

    def _forget(self) -> int | None:
        watched, self._watched = self._watched, None
        if watched is not None:
            asyncio.get_running_loop().remove_reader(watched)
        return watched

    def _ended(self) -> None:
        if (watched := self._forget()) is not None:
            os.close(watched)
            self._died()

    async def _connected(self) -> QMPClient:
        async with self._one_at_a_time:
            if self._client is None:
                client = QMPClient()
                client.logger.disabled = True
                try:
                    async with asyncio.timeout(_ANSWER_S):
                        await client.connect(str(self._monitor))
                # The library asserts that the other side has not gone again at once.
                except (QMPError, OSError, EOFError, TimeoutError, AssertionError) as error:
                    cause = error.exc if isinstance(error, ConnectError) else None
                    deaf = isinstance(cause, (ConnectionRefusedError, FileNotFoundError))
                    raise (_Deaf if deaf else Unavailable)(f"the storage daemon does not answer: {error!r}") from error
                self._client = client
            return self._client

    async def _hang_up(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(QMPError, OSError, EOFError, TimeoutError):
                async with asyncio.timeout(_END_S):
                    await client.disconnect()

    def _pid(self) -> int:
        """0 if none runs: pids are used again, so its command line must name this pid file."""
        try:
            pid = int(self._pid_file.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return 0
        return pid if str(self._pid_file).encode() in command else 0


def _refusal(command: str, error: ExecuteError) -> CloudError:
    words = str(error)
    if os.strerror(errno.ENOSPC) in words:
        return NoCapacity(f"the volumes' disk is full: {command}: {words}")
    return Refused(f"{command}: {words}")


async def _ends(watched: int, signal_number: int, *, within_s: float) -> bool:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(watched, ended.set)
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(watched, signal_number)
        async with asyncio.timeout(within_s):
            await ended.wait()
        return True
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(watched)
