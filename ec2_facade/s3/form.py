"""A browser's form (multipart/form-data, RFC 7578), taken apart as it streams: its fields, then the bytes of its file.

Held are the fields, which S3 bounds, and one piece of the file. aiohttp's own reader would read the connection past the
limits of ours, so this reads what BodyReader lets through.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import unquote

from aiohttp import hdrs
from aiohttp.helpers import parse_mimetype

from ec2_facade.errors import Refused
from ec2_facade.wire import WireRequest

# All that stands before the file: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-HTTPPOSTForms.html
FIELDS_BYTES: Final = 20 << 10
_HEAD_BYTES: Final = 8 << 10
_FILE: Final = "file"
_PARAMETER: Final = re.compile(r'([\w*-]+)\s*=\s*(?:"((?:\\"|[^"])*)"|([^;\s]*))')


def boundary_of(request: WireRequest) -> bytes | None:
    """Of a form; None for a body of another type. Raises Refused."""
    content_type = request.header("content-type") or ""
    if content_type.split(";", 1)[0].strip().lower() != "multipart/form-data":
        return None
    boundary = parse_mimetype(content_type).parameters.get("boundary", "")
    if not 0 < len(boundary) <= 70 or not boundary.isascii():
        raise malformed()
    return boundary.encode()


class Form:
    """`await read_fields()`; then iterate `file()` to its end, which is the form's as well."""

    def __init__(self, pieces: AsyncIterator[bytes], boundary: bytes) -> None:
        self._pieces = pieces
        self._delimiter = b"\r\n--" + boundary
        # The first delimiter begins the body, where no line ends.
        self._buffer = b"\r\n"
        self._taken = 0
        self.fields: dict[str, str] = {}
        # What the client calls the file, without its folders; empty: it does not say.
        self.filename = ""

    async def read_fields(self) -> None:
        """By lower-case name, up to the file. Raises Refused for what is no form, or is one without a file."""
        await self._value()
        while await self._next_part():
            disposition, parameters = _disposition(await self._line_block())
            name = parameters.get("name", "").lower()
            if disposition != "form-data" or not name:
                raise malformed()
            if name == _FILE:
                self.filename = parameters.get("filename", "").replace("\\", "/").rpartition("/")[2]
                return
            value = await self._value()
            if name in self.fields:
                raise malformed()
            try:
                self.fields[name] = value.decode()
            except UnicodeDecodeError:
                raise malformed() from None
        raise Refused(
            "InvalidArgument",
            "POST requires exactly one file upload per request.",
            status=400,
            details={"ArgumentName": "file", "ArgumentValue": "0"},
        )

    async def file(self) -> AsyncIterator[bytes]:
        """What follows its end is ignored, as S3 does. Raises Refused when the body ends before it."""
        async for part in self._data():
            yield part

    async def read_rest(self) -> None:
        """So that the connection of a form that ended as it should is not closed for a few bytes."""
        rest = 0
        async for piece in self._pieces:
            rest += len(piece)
            if rest > FIELDS_BYTES:
                return

    async def _value(self) -> bytes:
        parts = []
        async for part in self._data():
            self._count(len(part))
            parts.append(part)
        return b"".join(parts)

    async def _data(self) -> AsyncIterator[bytes]:
        """Up to the next delimiter, which is taken away."""
        kept = len(self._delimiter) - 1
        while (at := self._buffer.find(self._delimiter)) < 0:
            if len(self._buffer) > kept:
                yield self._buffer[:-kept]
                self._buffer = self._buffer[-kept:]
            await self._more()
        if at:
            yield self._buffer[:at]
        self._buffer = self._buffer[at + len(self._delimiter) :]

    async def _next_part(self) -> bool:
        """Past the rest of the delimiter's line; False: it was the last one."""
        while len(self._buffer) < 2:
            await self._more()
        if self._buffer.startswith(b"--"):
            return False
        if (await self._line()).strip(b" \t"):
            raise malformed()
        return True

    async def _line_block(self) -> str:
        """The value of the part's Content-Disposition."""
        found = ""
        while line := await self._line():
            name, _, value = line.decode("utf-8", "replace").partition(":")
            if name.strip().title() == hdrs.CONTENT_DISPOSITION:
                found = value.strip()
        return found

    async def _line(self) -> bytes:
        while (at := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > _HEAD_BYTES:
                raise malformed()
            await self._more()
        line, self._buffer = self._buffer[:at], self._buffer[at + 2 :]
        self._count(len(line) + 2)
        return line

    async def _more(self) -> None:
        try:
            self._buffer += await anext(self._pieces)
        except StopAsyncIteration:
            raise malformed() from None

    def _count(self, size: int) -> None:
        self._taken += size
        if self._taken > FIELDS_BYTES:
            message = "Your POST request fields preceding the upload file were too large."
            raise Refused("MaxPostPreDataLengthExceeded", message, status=400)


def _disposition(value: str) -> tuple[str, dict[str, str]]:
    """Kind and parameters, as browsers write them: a backslash escapes a quote at most (old ones send whole paths)."""
    kind, _, rest = value.partition(";")
    found: dict[str, str] = {}
    for name, quoted, bare in _PARAMETER.findall(rest):
        found.setdefault(name.lower(), bare or quoted.replace('\\"', '"'))
    charset, _, encoded = found.get("filename*", "").partition("''")
    if charset.lower() == "utf-8":
        found["filename"] = unquote(encoded)
    return kind.strip().lower(), found


def malformed() -> Refused:
    message = "The body of your POST request is not well-formed multipart/form-data."
    return Refused("MalformedPOSTRequest", message, status=400)
