"""The metadata service, IMDSv1 and v2: one listening socket per VPC; the VPC is known by the socket, the instance by
its source address. It answers from the node's own records, whatever else is down.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import time
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web

from common.errors import NotFound
from common.ids import VpcId
from common.log import get_logger
from common.metrics import counter
from mallee.nc.v1 import instance_pb2
from services.nc import metadata_token, metadata_tree
from services.nc.drivers.base import Network
from services.nc.identity_document import DocumentSigner
from services.nc.metadata_tree import Subject

_log = get_logger(__name__)

_REQUESTS: Final = counter("mallee_nc_metadata_requests", "Answers of the metadata service, by status", ("status",))

# Per VPC; what comes beyond is closed at once.
MOST_CONNECTIONS: Final = 512
# A connection that has asked nothing by then is closed.
FIRST_REQUEST_S: Final = 10.0
KEEPALIVE_S: Final = 15.0
_TOKEN_PATH: Final = "/latest/api/token"
_TOKEN: Final = "X-aws-ec2-metadata-token"
_TOKEN_TTL: Final = "X-aws-ec2-metadata-token-ttl-seconds"
_PAGE: Final = """\
<?xml version="1.0" encoding="iso-8859-1"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN"
\t"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="en" lang="en">
 <head>
  <title>{status} - {words}</title>
 </head>
 <body>
  <h1>{status} - {words}</h1>
 </body>
</html>
"""
_WORDS: Final = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
}


FindSubject = Callable[[VpcId, str], Subject | None]


class MetadataServer:
    """`find` tells the instance by VPC and private address; it must not block."""

    def __init__(
        self,
        network: Network,
        find: FindSubject,
        *,
        signer: DocumentSigner,
        token_key: bytes,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._network = network
        self._answerer = _Answerer(find, signer=signer, token_key=token_key, now_s=now_s)
        self._sites: dict[VpcId, _Site] = {}
        self._lock = asyncio.Lock()

    async def serve(self, vpc_id: VpcId) -> None:
        """From now on guests of the VPC are answered. Raises NotFound if the VPC is not on this node."""
        async with self._lock:
            if vpc_id not in self._sites:
                listening = await self._network.metadata_socket(vpc_id)
                self._sites[vpc_id] = await _Site.start(listening, functools.partial(self._answerer.answer, vpc_id))

    async def serve_all(self, vpcs: set[VpcId]) -> None:
        for vpc_id in vpcs:
            with contextlib.suppress(NotFound):
                await self.serve(vpc_id)

    async def stop(self, vpc_id: VpcId) -> None:
        async with self._lock:
            if (site := self._sites.pop(vpc_id, None)) is not None:
                await site.close()

    async def close(self) -> None:
        for vpc_id in list(self._sites):
            await self.stop(vpc_id)


class _Site:
    """One listening socket, its connections counted and timed."""

    def __init__(self, answer: Callable[[web.BaseRequest], Any]) -> None:
        self._loop = asyncio.get_running_loop()
        self._asked: set[Any] = set()
        self._server = web.Server(
            functools.partial(self._answer, answer), keepalive_timeout=KEEPALIVE_S, access_log=None, lingering_time=1.0
        )
        self._listener: asyncio.Server

    @classmethod
    async def start(cls, listening: socket.socket, answer: Callable[[web.BaseRequest], Any]) -> _Site:
        site = cls(answer)
        site._listener = await site._loop.create_server(site._connection, sock=listening)
        return site

    async def close(self) -> None:
        self._listener.close()
        await self._server.shutdown(0.5)

    def _connection(self) -> asyncio.BaseProtocol:
        if len(self._server.connections) >= MOST_CONNECTIONS:
            return _Refusal()
        connection = self._server()
        self._loop.call_later(FIRST_REQUEST_S, self._close_silent, connection)
        return connection

    def _close_silent(self, connection: Any) -> None:
        if connection in self._asked:
            self._asked.discard(connection)
        elif connection.transport is not None:
            connection.force_close()

    async def _answer(self, answer: Callable[[web.BaseRequest], Any], request: web.BaseRequest) -> web.StreamResponse:
        self._asked.add(request.protocol)
        response: web.StreamResponse = answer(request)
        _REQUESTS.labels(str(response.status)).inc()
        return response


class _Refusal(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class _Answerer:
    """From a request to its response; nothing here waits for anything."""

    def __init__(
        self, find: FindSubject, *, signer: DocumentSigner, token_key: bytes, now_s: Callable[[], float]
    ) -> None:
        self._find = find
        self._signer = signer
        self._token_key = token_key
        self._now_s = now_s

    def answer(self, vpc_id: VpcId, request: web.BaseRequest) -> web.Response:
        subject = self._find(vpc_id, request.remote or "")
        if subject is None:
            return _page(404)
        if subject.options.endpoint_disabled:
            return _page(403)
        match request.method:
            case "PUT" if request.path == _TOKEN_PATH:
                return self._token(request, subject)
            case "PUT":
                return _page(404)
            case _ if request.path == _TOKEN_PATH:
                return _page(405)
            case "GET" | "HEAD":
                return self._read(request, subject)
            case _:
                return _page(405)

    def _token(self, request: web.BaseRequest, subject: Subject) -> web.Response:
        if "X-Forwarded-For" in request.headers:
            return _page(403)
        ttl_s = metadata_token.ttl_of(request.headers.get(_TOKEN_TTL))
        if ttl_s is None:
            return _page(400)
        token = metadata_token.mint(
            self._token_key, instance_id=subject.spec.instance_id, expires_s=self._now_s() + ttl_s
        )
        _limit_hops(request, subject.options.hop_limit or 1)
        return _text(token, **{_TOKEN_TTL: str(ttl_s)})

    def _read(self, request: web.BaseRequest, subject: Subject) -> web.Response:
        token = request.headers.get(_TOKEN)
        instance_id = subject.spec.instance_id
        if token is None and subject.options.tokens_required:
            return _page(401)
        if token is not None and not metadata_token.is_valid(
            token, self._token_key, instance_id=instance_id, now_s=self._now_s()
        ):
            return _page(401)
        version, _, path = request.path.lstrip("/").partition("/")
        if not version:
            return _text("\n".join(metadata_tree.VERSIONS))
        if version not in metadata_tree.VERSIONS:
            return _page(404)
        return self._leaf_or_listing(subject, path.rstrip("/"))

    def _leaf_or_listing(self, subject: Subject, path: str) -> web.Response:
        leaves = metadata_tree.leaves(subject)
        if path in leaves:
            return self._leaf(subject.spec, path, leaves)
        if path == "meta-data/public-keys" and subject.spec.public_keys:
            return _text("\n".join(metadata_tree.key_listing(subject.spec)))
        if names := metadata_tree.listing(leaves, path):
            return _text("\n".join(names))
        return _page(404)

    def _leaf(self, spec: instance_pb2.InstanceSpec, path: str, leaves: dict[str, str]) -> web.Response:
        match path:
            case metadata_tree.USER_DATA:
                return web.Response(body=spec.user_data, headers=_headers("application/octet-stream"))
            case metadata_tree.SIGNATURE:
                return _text(self._signer.signature(leaves[metadata_tree.DOCUMENT]))
            case metadata_tree.PKCS7 | metadata_tree.RSA2048:
                return _text(self._signer.pkcs7(leaves[metadata_tree.DOCUMENT]))
            case _:
                return _text(leaves[path])


def _limit_hops(request: web.BaseRequest, hops: int) -> None:
    """What is sent from now on dies after so many hops: a container or a proxy beyond them gets no token.

    For the rest of the connection: were a later answer allowed further, the lost token would be sent again with it.
    """
    connection = request.transport.get_extra_info("socket") if request.transport is not None else None
    if connection is not None and connection.family == socket.AF_INET:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)


def _text(text: str, **headers: str) -> web.Response:
    return web.Response(body=text.encode(), headers=_headers("text/plain") | headers)


def _page(status: int) -> web.Response:
    page = _PAGE.format(status=status, words=_WORDS[status])
    return web.Response(status=status, body=page.encode(), headers=_headers("text/html"))


def _headers(content_type: str) -> dict[str, str]:
    return {"Content-Type": content_type, "Server": "EC2ws", "Accept-Ranges": "none"}
