"""Structured logs: one JSON object per line on stderr, each with the request id of the work it tells about.

A process never waits for its log: while nobody takes the lines, as on a full disk, they are counted and dropped.
"""

from __future__ import annotations

import array
import asyncio
import atexit
import fcntl
import io
import json
import logging
import os
import select
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from types import TracebackType
from typing import Any, Final, TextIO

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from common.rpc.context import current_request_id


def get_logger(name: str) -> FilteringBoundLogger:
    logger: FilteringBoundLogger = structlog.get_logger(module=name)
    return logger


def teller(name: str) -> Callable[..., None]:
    """`get_logger(name).info` for what every request tells: the same line in a third of the time.

    It goes out a moment later, together with others: to wake the log's reader costs as much as to make a line. A
    process that is killed takes those of that moment with it.
    """
    logger = get_logger(name)

    def tell(event: str, **fields: Any) -> None:
        if _lines is None:
            logger.info(event, **fields)
        else:
            fields["event"], fields["module"] = event, name
            _lines(fields)

    return tell


# Takes what a line of level INFO says; None: as structlog is configured.
_lines: Callable[[EventDict], None] | None = None


def configure(*, role: str, member: str, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Once per process. Libraries that log through `logging` (asyncio, grpc, aiohttp) come out the same way."""
    out = stream or _unblocked(sys.stderr)

    def complete(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """As structlog's own processors would, one by one: each request has a line or two."""
        event["level"] = _LEVELS.get(method, method)
        event["timestamp"] = _now()
        event["role"] = role
        event["member"] = member
        if request_id := current_request_id():
            event.setdefault("request_id", request_id)
        # Without local variables: they hold secrets.
        return structlog.processors.format_exc_info(logger, method, event) if "exc_info" in event else event

    put = out.gather if isinstance(out, _Unblocked) else lambda raw: out.write(raw.decode())

    def line(event: EventDict) -> None:
        put(_encode(complete(None, "info", event)) + b"\n")

    global _lines
    _lines = line if level <= logging.INFO else None
    render = structlog.processors.JSONRenderer(serializer=_to_json)
    structlog.configure(
        processors=[complete, lambda _, __, event: _to_json(event)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=stream is None,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_add_module, complete],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)
    sys.excepthook = _log_crash


def _now() -> str:
    """2026-01-31T12:00:00.000000Z"""
    second, below = divmod(time.time_ns(), 1_000_000_000)
    return f"{_second(second)}.{below // 1000:06d}Z"


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


# As structlog calls them.
_LEVELS: Final = {"warn": "warning", "exception": "error"}


_GATHER_S: Final = 0.02
# Lines that waited for others go out when they are so many,
_ENOUGH_BYTES: Final = 16 << 10
# and so many at once if their reader has read all before: a pipe has room for 64 KiB (pipe(7)).
_AT_ONCE_BYTES: Final = 48 << 10


class _Unblocked(io.TextIOBase):
    """Lines for a pipe. Others hold its end as well, so it is asked for room instead of being made non-blocking.

    Those of one turn of the event loop go out together: whoever reads them is woken once, not once for each.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._room = select.poll()
        self._room.register(descriptor, select.POLLOUT)
        self._lost = 0
        # The last line that came through lacks its end.
        self._torn = False
        self._waiting: list[bytes] = []
        self._bytes = 0
        # The loops that will send what waits: at the end of their turn, and in a moment.
        self._sender: asyncio.AbstractEventLoop | None = None
        self._gatherer: asyncio.AbstractEventLoop | None = None
        atexit.register(self._send)

    def write(self, text: str) -> int:
        self._add(text.encode(errors="backslashreplace"))
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._send()
        else:
            self._send_soon(loop)
        return len(text)

    def gather(self, line: bytes) -> None:
        """As `write`, but it may wait a moment for others."""
        self._add(line)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._send()
            return
        if self._bytes > _ENOUGH_BYTES:
            self._send_soon(loop)
        elif self._gatherer is not loop:
            self._gatherer = loop
            loop.call_later(_GATHER_S, self._send_gathered)

    def _add(self, line: bytes) -> None:
        self._waiting.append(line)
        self._bytes += len(line)

    def _send_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._sender is not loop:
            self._sender = loop
            loop.call_soon(self._send)

    def _send_gathered(self) -> None:
        self._gatherer = None
        self._send()

    def _send(self) -> None:
        self._sender = None
        waiting, self._waiting = self._waiting, []
        size, self._bytes = self._bytes, 0
        if size <= _AT_ONCE_BYTES and self._is_empty():
            self._write(waiting, _AT_ONCE_BYTES)
            return
        for lines in _together(waiting):
            self._write(lines, select.PIPE_BUF)

    def _is_empty(self) -> bool:
        """It is a pipe, and all that was in it is read."""
        unread = array.array("i", [0])
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_GETPIPE_SZ)
            fcntl.ioctl(self._descriptor, termios.FIONREAD, unread)
        except OSError:
            return False
        return not unread[0]

    def _write(self, lines: Sequence[bytes], room_bytes: int) -> None:
        """`room_bytes`: what a pipe with room takes at once."""
        if self._lost:
            told = "\n" * self._torn + json.dumps({"event": "lines were lost", "lines": self._lost}) + "\n"
            if self._put(told.encode(), room_bytes):
                self._lost, self._torn = 0, False
        if self._lost or not self._put(b"".join(lines), room_bytes):
            self._lost += len(lines)

    def _put(self, lines: bytes, room_bytes: int) -> bool:
        """False: there was no room for the end of it."""
        for start in range(0, len(lines), room_bytes):
            if not self._room.poll(0):
                self._torn = self._torn or start > 0
                return False
            os.write(self._descriptor, lines[start : start + room_bytes])
        return True


def _together(lines: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """As many at a time as a pipe with room takes whole; a longer one alone."""
    taken: list[bytes] = []
    room = select.PIPE_BUF
    for line in lines:
        if taken and len(line) > room:
            yield taken
            taken, room = [], select.PIPE_BUF
        taken.append(line)
        room -= len(line)
    if taken:
        yield taken


def _unblocked(stream: TextIO) -> Any:
    try:
        return _Unblocked(stream.fileno())
    except OSError:
        return stream  # Of a test, in memory.


# What it would look into by itself is shown as its repr, which keeps secrets.
_OPTIONS: Final = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
_encode_anything = json.JSONEncoder(ensure_ascii=False, default=repr, separators=(",", ":")).encode


def _encode(event: EventDict) -> bytes:
    try:
        return orjson.dumps(event, repr, _OPTIONS)
    except TypeError:
        # Bytes of a client that are no UTF-8, or a number beyond 64 bits.
        return _encode_anything(event).encode(errors="backslashreplace")


def _to_json(event: EventDict, **_: Any) -> str:
    return _encode(event).decode()


def _add_module(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    record = event.get("_record")
    if record is not None:
        event["module"] = record.name
    return event


def _log_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    get_logger("process").error("the process ends by an error", exc_info=(kind, error, trace))
