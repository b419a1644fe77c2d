"""A load generator for any S3 endpoint: one epoll loop, URLs presigned beforehand: it takes little of the machine.

Each client sends its next request when the answer to its last one is whole (a closed loop).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import select
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote, urlsplit

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_READ_BYTES: Final = 1 << 20
_SILENCE_S: Final = 60.0


class Signer:
    """Signature Version 4 in the query; good for a day."""

    def __init__(self, endpoint: str, access_key: str, secret_key: str, region: str) -> None:
        self.host = urlsplit(endpoint).netloc
        self._moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        self._scope = f"{self._moment[:8]}/{region}/s3/aws4_request"
        self._credential = f"{access_key}/{self._scope}"
        self._key = b"AWS4" + secret_key.encode()
        for part in self._scope.split("/"):
            self._key = hmac.digest(self._key, part.encode(), "sha256")

    def request(self, method: str, path: str, length: int | None = None, **query: str) -> bytes:
        """A request's head. `path` has no characters that need encoding; `_` in a name of `query` stands for `-`."""
        told = {name.replace("_", "-"): value for name, value in query.items()} | {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": self._credential,
            "X-Amz-Date": self._moment,
            "X-Amz-Expires": "86400",
            "X-Amz-SignedHeaders": "host",
        }
        text = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in sorted(told.items()))
        canonical = f"{method}\n{path}\n{text}\nhost:{self.host}\n\nhost\nUNSIGNED-PAYLOAD"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        to_sign = f"AWS4-HMAC-SHA256\n{self._moment}\n{self._scope}\n{digest}"
        signature = hmac.digest(self._key, to_sign.encode(), "sha256").hex()
        head = f"{method} {path}?{text}&X-Amz-Signature={signature} HTTP/1.1\r\nHost: {self.host}\r\n"
        return (head + (f"Content-Length: {length}\r\n" if length is not None else "") + "\r\n").encode()


@dataclass(frozen=True, slots=True)
class Request:
    head: bytes
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    head: bytes
    body: bytes


@dataclass(slots=True)
class Outcome:
    requests: int = 0
    body_bytes: int = 0
    took_s: float = 0.0

    @property
    def per_s(self) -> float:
        return self.requests / self.took_s


@dataclass(slots=True, eq=False)
class _Client:
    sock: socket.socket
    request: Request = Request(b"")
    unsent: list[memoryview] = field(default_factory=list)
    head: bytes = b""
    # Of the answer's body; None: it is chunked.
    left: int | None = 0
    parts: list[bytes] = field(default_factory=list)


class Failed(Exception):
    """An answer that is no success, or none at all."""


class Load:
    def __init__(self, host: str) -> None:
        name, _, port = host.rpartition(":")
        self._address = (name, int(port))

    def run(
        self,
        clients: int,
        requests: Iterator[Request],
        seconds: float,
        told: Callable[[Request, Answer], None] | None = None,
    ) -> Outcome:
        """Until the time is over or there are no more requests. `told` is given each answer with its body."""
        run = _Run(self._address, requests, time.perf_counter() + seconds, told)
        return run.all(clients)

    def one(self, request: Request) -> Answer:
        found: list[Answer] = []
        self.run(1, iter([request]), _SILENCE_S, lambda _, answer: found.append(answer))
        return found[0]


class _Run:
    def __init__(
        self,
        address: tuple[str, int],
        requests: Iterator[Request],
        ends: float,
        told: Callable[[Request, Answer], None] | None,
    ) -> None:
        self._address = address
        self._requests = requests
        self._ends = ends
        self._told = told
        self._epoll = select.epoll()
        self._clients: dict[int, _Client] = {}
        self._outcome = Outcome()
        self._buffer = memoryview(bytearray(_READ_BYTES))

    def all(self, clients: int) -> Outcome:
        began = time.perf_counter()
        for _ in range(clients):
            sock = socket.create_connection(self._address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            client = self._clients[sock.fileno()] = _Client(sock)
            self._epoll.register(sock, select.EPOLLIN)
            self._next(client)
        while self._clients:
            ready = self._epoll.poll(_SILENCE_S)
            if not ready:
                raise Failed("no answer")
            for descriptor, events in ready:
                client = self._clients[descriptor]
                if events & select.EPOLLOUT:
                    self._send(client)
                if events & ~select.EPOLLOUT:
                    self._receive(client)
        self._epoll.close()
        self._outcome.took_s = time.perf_counter() - began
        return self._outcome

    def _next(self, client: _Client) -> None:
        request = next(self._requests, None) if time.perf_counter() < self._ends else None
        if request is None:
            self._epoll.unregister(client.sock)
            del self._clients[client.sock.fileno()]
            client.sock.close()
            return
        client.request, client.head, client.parts = request, b"", []
        small = len(request.body) <= 1 << 16
        client.unsent = [memoryview(part) for part in ([request.head + request.body] if small else [*_parts(request)])]
        self._send(client)

    def _send(self, client: _Client) -> None:
        try:
            while client.unsent:
                sent = client.sock.send(client.unsent[0][:_READ_BYTES])
                client.unsent[0] = client.unsent[0][sent:]
                if not client.unsent[0]:
                    client.unsent.pop(0)
        except BlockingIOError:
            pass
        self._epoll.modify(client.sock, select.EPOLLIN | (select.EPOLLOUT if client.unsent else 0))

    def _receive(self, client: _Client) -> None:
        try:
            count = client.sock.recv_into(self._buffer)
        except BlockingIOError:
            return
        if not count:
            raise Failed("the server closed a connection")
        if not client.head.endswith(b"\r\n\r\n"):
            whole = client.head + bytes(self._buffer[:count])
            head, separator, rest = whole.partition(b"\r\n\r\n")
            client.head = head + separator
            if not separator:
                return
            length = _LENGTH.search(head)
            without = client.request.head.startswith(b"HEAD") or head[9:12] in (b"204", b"304")
            client.left = None if _CHUNKED.search(head) else 0 if without or not length else int(length[1])
            self._take(client, rest)
        else:
            self._take(client, self._buffer[:count])

    def _take(self, client: _Client, piece: bytes | memoryview) -> None:
        self._outcome.body_bytes += len(piece)
        if self._told is not None or client.left is None:
            client.parts.append(bytes(piece))
        if client.left is not None:
            client.left -= len(piece)
        ended = client.left == 0 if client.left is not None else b"".join(client.parts).endswith(b"0\r\n\r\n")
        if ended:
            self._end(client)

    def _end(self, client: _Client) -> None:
        status = int(client.head[9:12])
        if not 200 <= status < 300:
            raise Failed(f"{client.request.head[:60]!r}: {client.head[:300]!r} {b''.join(client.parts)[:300]!r}")
        self._outcome.requests += 1
        if self._told is not None:
            self._told(client.request, Answer(status, client.head, b"".join(client.parts)))
        self._next(client)


def _parts(request: Request) -> Iterator[bytes]:
    yield request.head
    yield request.body
