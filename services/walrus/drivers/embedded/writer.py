"""The one thread that writes to the index: it puts all steps that wait into one transaction (group commit).

A commit costs one fsync however many steps it holds, so the busier the store the cheaper a step. A step is a function
of the connection; what it raises undoes that step alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import re
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from google.protobuf.message import DecodeError

from common.errors import CloudError
from common.threads import ended
from services.walrus import errors
from services.walrus.drivers.embedded import sums
from services.walrus.drivers.embedded.schema import migrate

Result = TypeVar("Result")
Step = Callable[[sqlite3.Connection], Result]

# Bounds how long the first step of a batch waits for the last one.
_BATCH_LIMIT = 512
# Pages of the write-ahead log between checkpoints (16 MiB): each checkpoint costs two more fsyncs.
_CHECKPOINT_PAGES = 4096
# What the log grows to: those pages, and what a large batch adds before the checkpoint comes. (A frame is 24 bytes and
# a page.)
LOG_BYTES: Final = (_CHECKPOINT_PAGES + 1024) * (4096 + 24)
# A bug in a step belongs to its caller, and must take neither the batch nor the thread with it.
_BUGS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError),
    *(MemoryError, OSError, DecodeError, re.error),
    # These undo their statement alone; what else SQLite raises may have ended the transaction.
    *(sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError),
)


@dataclass(slots=True)
class _Waiting:
    step: Step[Any]
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


class Writer:
    """`on_commit` is called in the writer's thread with the number of steps of each commit. `log_bytes`: how long the
    file of the write-ahead log is made at once (LOG_BYTES: so that it never grows).
    """

    def __init__(
        self, path: Path, *, on_commit: Callable[[int], None] = lambda steps: None, log_bytes: int = 0
    ) -> None:
        self._path = path
        self._log_bytes = log_bytes
        self._on_commit = on_commit
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ended = False

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        db = await asyncio.to_thread(self._connect)
        self._thread = threading.Thread(target=self._run, args=(db,), name="walrus-index-writer", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """What was submitted before is committed."""
        if self._thread is not None:
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)
            self._thread = None

    async def submit(self, step: Step[Result]) -> Result:
        """Returns when the step is on disk. A cancelled caller waits until the outcome is known."""
        if self._loop is None or self._thread is None:
            raise errors.store_failed("it is not open")
        future: asyncio.Future[Result] = self._loop.create_future()
        self._queue.put(_Waiting(step, future))
        if self._ended and not future.done():
            future.set_exception(_gone())
        return await ended(future)

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, cached_statements=256)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA busy_timeout = 10000")
        db.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        db.execute("PRAGMA cache_size = -32768")
        migrate(db)
        _lay_out(Path(f"{self._path}-wal"), self._log_bytes)
        return db

    def _run(self, db: sqlite3.Connection) -> None:
        ended, batch = False, list[_Waiting]()
        try:
            while not ended:
                batch, ended = self._take()
                if batch:
                    self._commit(db, batch)
                    self._tell(batch)
        finally:
            self._ended = True
            if not ended:
                # By what no step may raise: nobody is to wait for a thread that is gone.
                self._refuse(batch)
            db.close()

    def _refuse(self, batch: Sequence[_Waiting]) -> None:
        left = list(batch)
        with contextlib.suppress(queue.Empty):
            while True:
                if (item := self._queue.get_nowait()) is not None:
                    left.append(item)
        for waiting in left:
            waiting.error = _gone()
        self._tell(left)

    def _take(self) -> tuple[list[_Waiting], bool]:
        """Blocks for the first step, then takes what else is there. True: it was the last batch."""
        batch: list[_Waiting] = []
        item = self._queue.get()
        while item is not None:
            batch.append(item)
            if len(batch) >= _BATCH_LIMIT:
                return batch, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _commit(self, db: sqlite3.Connection, batch: Sequence[_Waiting]) -> None:
        try:
            db.execute("BEGIN IMMEDIATE")
            for waiting in batch:
                _take_step(db, waiting)
            db.execute("COMMIT")
        except sqlite3.Error as error:
            # If even that fails, what comes next fails, too: it is said, and nobody hangs.
            with contextlib.suppress(sqlite3.Error):
                if db.in_transaction:
                    db.execute("ROLLBACK")
            for waiting in batch:
                waiting.error = errors.store_failed(str(error))
        else:
            self._on_commit(len(batch))

    def _tell(self, batch: Sequence[_Waiting]) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_resolve, batch)


def _gone() -> CloudError:
    return errors.store_failed("its writer has ended: see the log, and start Walrus again")


def _lay_out(log: Path, size: int) -> None:
    """Makes the write-ahead log's file so long, with nothing in it: a commit that makes a file longer waits for the
    disk several times as long as one that writes over what is there. SQLite reads no further than it wrote.
    """
    # On a full disk it stays as it is, and grows as it is used.
    with contextlib.suppress(OSError), log.open("r+b", buffering=0) as file:
        there = file.seek(0, os.SEEK_END)
        while there < size:
            there += file.write(bytes(min(size - there, 1 << 20)))
        os.fsync(file.fileno())


def _take_step(db: sqlite3.Connection, waiting: _Waiting) -> None:
    db.execute("SAVEPOINT step")
    try:
        waiting.result = sums.told(db, waiting.step, again="ROLLBACK TO step")
    except (CloudError, *_BUGS) as error:
        waiting.error = error
        db.execute("ROLLBACK TO step")
    db.execute("RELEASE step")


def _resolve(batch: Sequence[_Waiting]) -> None:
    for waiting in batch:
        if waiting.future.done():
            continue
        if waiting.error is not None:
            waiting.future.set_exception(waiting.error)
        else:
            waiting.future.set_result(waiting.result)
