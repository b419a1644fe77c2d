"""The everyday answer: its head and its small body go to the connection in one piece.

aiohttp's own response does the same by way of a dictionary of headers and a writer; it is there for all other answers:
those that stream, that end a connection, and what HTTP/1.0 is told.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from email.utils import formatdate
from functools import lru_cache
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

_REASONS: Final = {200: "OK", 206: "Partial Content"}


class _Written(web.StreamResponse):
    """Stands for a response of aiohttp's all of which was written."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        pass

    @property
    def keep_alive(self) -> bool | None:
        return True


# It says nothing of the answer, so one does for all.
WRITTEN: Final = _Written()


def is_everyday(status: int, headers: Iterable[tuple[str, str]], body: bytes) -> bool:
    """`rendered` says all there is to say. A body without a type would be given one."""
    return status in _REASONS and (not body or "Content-Type" in dict(headers))


def rendered(status: int, headers: Iterable[tuple[str, str]], server: str, body: bytes | None) -> bytes:
    """`body`: None where only its head is asked for, whose Content-Length is among the headers."""
    if body is not None:
        headers = [(name, value) for name, value in headers if name != "Content-Length"]
        headers.append(("Content-Length", str(len(body))))
    lines = [f"{name}: {value}" for name, value in headers]
    head = "\r\n".join(
        (
            f"HTTP/1.1 {status} {_REASONS[status]}",
            *lines,
            f"Date: {_date(int(time.time()))}",
            f"Server: {server}",
            "\r\n",
        )
    )
    # Nobody ends a header and begins another of his own.
    if not head.count("\n") == head.count("\r") == len(lines) + 4:
        raise ValueError("a header of an answer has a line break in it")
    return head.encode() + (body or b"")


@lru_cache(maxsize=2)
def _date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)
