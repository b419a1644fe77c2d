"""One request and its answer: the wire form of the one, sending the other, and what was counted on the way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from functools import lru_cache

from aiohttp import HttpVersion11, hdrs, web
from multidict import CIMultiDict

from common.rpc.uploads import RawExtent
from ec2_facade.answer import WRITTEN, is_everyday, rendered
from ec2_facade.body import BodyReader, HeldBytes
from ec2_facade.limits import Limits
from ec2_facade.protocol import Response
from ec2_facade.proxies import Origin, Proxies
from ec2_facade.sendfile import flushed, send_file
from ec2_facade.wire import WireRequest, split_target, to_text
from mallee.common.v1.caller_pb2 import Caller

# What AWS's own front ends call themselves.
_SERVERS = {"s3": "AmazonS3", "ec2": "AmazonEC2"}


class Exchange:
    def __init__(
        self, request: web.BaseRequest, request_id: str, limits: Limits, held: HeldBytes, proxies: Proxies
    ) -> None:
        self._request = request
        self._limits = limits
        self.request_id = request_id
        self.wire = wire_request(request, proxies)
        self.body = BodyReader(request.content, limits, held, announced=request.content_length)
        # Known as the pipeline goes; for the access log and the metrics.
        self.service = ""
        self.action = ""
        self.code = ""
        self.status = 0
        self.account_id = ""
        self.caller: Caller | None = None
        # Of S3: what the request is about.
        self.bucket = ""
        self.key: str | None = None
        self.answer_headers: Sequence[tuple[str, str]] = ()
        # Until the answer began.
        self.turnaround_s = 0.0
        self._began = time.monotonic()
        self.sent_bytes = 0
        # Of the answer, whatever it will be.
        self.headers: list[tuple[str, str]] = []
        # A browser's request to a website: what is refused is shown as a page.
        self.wants_page = False
        self._invited = False

    @property
    def expects_continue(self) -> bool:
        return (self.wire.header("expect") or "").lower() == "100-continue"

    async def invite_body(self) -> None:
        """Tells a client that waits for leave that it may send its body. Only for who has proved who he is."""
        if self.expects_continue and not self._invited and self._request.version == HttpVersion11:
            self._invited = True
            await self._request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            # Not part of the answer: aiohttp takes what was written for a begun one.
            self._request.writer.output_size = 0

    async def send(self, answer: Response) -> web.StreamResponse:
        """A whole answer. A HEAD has the headers alone; its Content-Length is the answer's own header if it has one."""
        bodiless = self.wire.method == "HEAD" or answer.status in (204, 304)
        body = b"" if bodiless else answer.body
        if self._can_write_at_once(answer, body):
            return self._write_at_once(answer, None if bodiless else body)
        response = self._begin(answer)
        if not bodiless:
            response.content_length = len(body)
        await response.prepare(self._request)
        await self._write(response, body)
        return response

    async def send_stream(self, answer: Response, chunks: AsyncIterator[bytes | RawExtent]) -> web.StreamResponse:
        """An answer whose body streams; its Content-Length is among the headers."""
        response = self._begin(answer)
        await response.prepare(self._request)
        async for chunk in chunks:
            if isinstance(chunk, RawExtent):
                await self._send_file(response, chunk)
            else:
                await self._write(response, chunk, last=False)
        await self._write(response, b"")
        return response

    def abort(self) -> None:
        """For an answer that cannot be finished: the client must not take it for whole."""
        if self._request.transport is not None:
            self._request.transport.abort()

    def _can_write_at_once(self, answer: Response, body: bytes) -> bool:
        """It is small, there is room for it, and the connection goes on after it."""
        request = self._request
        return (
            len(body) <= _SMALL_BYTES
            and is_everyday(answer.status, answer.headers, body)
            and request.content.is_eof()
            and request.keep_alive
            and request.version == HttpVersion11
            and self._has_sent_all()
        )

    def _write_at_once(self, answer: Response, body: bytes | None) -> web.StreamResponse:
        self._note_begun(answer)
        whole = rendered(answer.status, [*answer.headers, *self.headers], self._server, body)
        transport = self._request.transport
        if transport is None:
            raise ConnectionResetError("the client is gone")
        transport.write(whole)
        self._request.writer.output_size += len(whole)
        self.sent_bytes += len(body or b"")
        return WRITTEN

    def _note_begun(self, answer: Response) -> None:
        self.status = answer.status
        self.answer_headers = answer.headers
        self.turnaround_s = time.monotonic() - self._began

    @property
    def _server(self) -> str:
        return _SERVERS.get(self.service, "Mallee")

    def _begin(self, answer: Response) -> web.StreamResponse:
        self._note_begun(answer)
        headers: CIMultiDict[str] = CIMultiDict([*answer.headers, *self.headers])
        headers.setdefault(hdrs.SERVER, self._server)
        response = web.StreamResponse(status=answer.status, headers=headers)
        if not self._request.content.is_eof() and not self._rest_is_short():
            # What is left of the body is in doubt: it must not be taken for the next request.
            response.force_close()
        return response

    def _rest_is_short(self) -> bool:
        """It is on its way, and soon read and thrown away by aiohttp, which closes the connection if it does not come.

        A client that still waits for leave to send it will not.
        """
        length = self._request.content_length
        return length is not None and length <= _SHORT_BODY_BYTES and (self._invited or not self.expects_continue)

    async def _write(self, response: web.StreamResponse, data: bytes, *, last: bool = True) -> None:
        """A client that has stopped reading is cut off."""
        if last and len(data) <= _SMALL_BYTES and self._has_sent_all():
            # There is room for it: nobody waits.
            await response.write_eof(data)
            self.sent_bytes += len(data)
            return
        view = memoryview(data)
        whole = len(view) - len(view) % _WRITE_BYTES if last else len(view)
        try:
            for at in range(0, whole, _WRITE_BYTES):
                async with asyncio.timeout(self._limits.idle_s):
                    await response.write(view[at : at + _WRITE_BYTES])
            if last:
                async with asyncio.timeout(self._limits.idle_s):
                    await response.write_eof(bytes(view[whole:]))
        except TimeoutError:
            self.abort()
            raise ConnectionResetError("the client does not read its answer") from None
        self.sent_bytes += len(data)

    def _has_sent_all(self) -> bool:
        transport = self._request.transport
        return transport is not None and not transport.is_closing() and not transport.get_write_buffer_size()

    async def _send_file(self, response: web.StreamResponse, extent: RawExtent) -> None:
        """By the kernel alone. A client that has stopped reading is cut off."""
        transport = self._request.transport
        if transport is None:
            raise ConnectionResetError("the client is gone")
        try:
            # Headers, and what was written before, go first.
            self._request.writer.send_headers()
            async with asyncio.timeout(self._limits.idle_s):
                await flushed(transport)
            await send_file(transport, extent, self._limits.idle_s)
        except TimeoutError:
            self.abort()
            raise ConnectionResetError("the client does not read its answer") from None
        self.sent_bytes += extent.end - extent.start


# With its head less than what a transport buffers (64 KiB) before a writer has to wait.
_SMALL_BYTES = 32 << 10
# Large enough to be cheap, small enough that a slow but living reader makes one within the idle limit.
_WRITE_BYTES = 128 << 10


# A refused body of this size is no reason to hang up: less than a new connection costs.
_SHORT_BODY_BYTES = 16 << 10


def wire_request(request: web.BaseRequest, proxies: Proxies) -> WireRequest:
    path, query = split_target(request.raw_path)
    # Itself the facade speaks plain HTTP.
    address, secure = request.remote or "", False
    if proxies:
        forwarded_for = request.headers.getall("X-Forwarded-For", ())
        forwarded_proto = request.headers.getall("X-Forwarded-Proto", ())
        origin = proxies.origin(Origin(address=address, secure=secure), forwarded_for, forwarded_proto)
        address, secure = origin.address, origin.secure
    return WireRequest(
        method=request.method,
        raw_path=path,
        raw_query=query,
        headers=tuple([(_header_name(name), to_text(value)) for name, value in request.raw_headers]),
        source_ip=address,
        secure=secure,
    )


def _header_name(raw: bytes) -> str:
    """There are few; what is longer than any of them is not kept."""
    return _usual_name(raw) if len(raw) <= _USUAL_BYTES else to_text(raw).lower()


@lru_cache(maxsize=1024)
def _usual_name(raw: bytes) -> str:
    return to_text(raw).lower()


_USUAL_BYTES = 64
