"""The steps of a Query request (EC2, STS): head proved, body invited, signature proved, parsed, called, rendered."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from aiohttp import web

from common.rpc import context as rpc_context
from ec2_facade.auth.legacy_query import is_legacy_query
from ec2_facade.auth.mechanisms import Authentication
from ec2_facade.backends import Backends
from ec2_facade.errors import Refused
from ec2_facade.exchange import Exchange
from ec2_facade.limits import Limits
from ec2_facade.protocol import QueryProtocol
from ec2_facade.wire import WireRequest, decode_query, to_text
from mallee.common.v1.caller_pb2 import Caller

_FORM = "application/x-www-form-urlencoded"


class QueryPipeline:
    def __init__(
        self,
        protocols: Mapping[str, QueryProtocol],
        authentication: Authentication,
        backends: Backends,
        limits: Limits,
    ) -> None:
        self._protocols = protocols
        self._authentication = authentication
        self._backends = backends
        self._limits = limits

    async def answer(self, exchange: Exchange) -> web.StreamResponse:
        wire, service = exchange.wire, exchange.service
        caller, body = await self._admit(exchange)
        exchange.account_id = caller.account_id
        operation, message = self._protocols[service].parse(parameters(wire, body))
        exchange.action = operation.name
        with rpc_context.bind(caller=caller):
            answer = await self._backends.call(operation, message, timeout_s=self._limits.call_s)
        return await exchange.send(self._protocols[service].render(operation, answer, exchange.request_id))

    async def _admit(self, exchange: Exchange) -> tuple[Caller, bytes]:
        """Who asks, and the body; of an older signature, which leaves the body out, nothing of it is taken."""
        wire = exchange.wire
        if is_legacy_query(wire):
            return await self._authentication.legacy_query.authenticate(wire), b""
        identified = await self._authentication.current.identify(wire, exchange.service)
        await exchange.invite_body()
        body = await exchange.body.whole(self._limits.form_bytes)
        self._authentication.current.verify(wire, identified, payload_hash=hashlib.sha256(body).hexdigest())
        return identified.caller(wire.source_ip), body


def parameters(wire: WireRequest, body: bytes) -> dict[str, str]:
    """Of the query and the form, decoded. Raises Refused for one given twice with different values, or not in UTF-8."""
    pairs: list[tuple[bytes, bytes]] = list(wire.query)
    content_type = (wire.header("content-type") or _FORM).split(";", 1)[0].strip().lower()
    if body and content_type == _FORM:
        pairs.extend(decode_query(to_text(body)))
    return _unique(pairs)


def _unique(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for raw_name, raw_value in pairs:
        try:
            name, value = raw_name.decode(), raw_value.decode()
        except UnicodeDecodeError:
            message = "The query string contains bytes that are not UTF-8"
            raise Refused("MalformedQueryString", message, status=400) from None
        if found.setdefault(name, value) != value:
            message = f"The parameter {name[:256]} is given more than once"
            raise Refused("MalformedQueryString", message, status=400)
    return found
