"""CORS: the answer to a browser that asks before it sends, and what every answer to one says.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/cors.html and https://fetch.spec.whatwg.org/#http-cors-protocol.
The rules are the bucket's, kept by Walrus, and asked for with every request of a browser: nothing is kept here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aiohttp import web

from common.errors import CloudError, NotFound
from ec2_facade.backends import Backends
from ec2_facade.errors import Refused
from ec2_facade.exchange import Exchange
from ec2_facade.protocol import Response
from ec2_facade.protocol.errors import s3_ids
from ec2_facade.s3.address import Address
from ec2_facade.wire import WireRequest
from mallee.s3.v1.cors_pb2 import CORSConfiguration, CORSRule

_METHODS: Final = frozenset({"GET", "PUT", "POST", "DELETE", "HEAD"})
_VARY: Final = ("Vary", "Origin, Access-Control-Request-Headers, Access-Control-Request-Method")

Headers = list[tuple[str, str]]


class Cors:
    def __init__(self, backends: Backends) -> None:
        self._backends = backends

    async def preflight(self, exchange: Exchange, address: Address) -> web.StreamResponse:
        """Needs no credentials, browsers send none. Raises Refused."""
        exchange.action = "PreflightRequest"
        wire = exchange.wire
        origin, method = wire.header("origin"), wire.header("access-control-request-method")
        if origin is None:
            message = "Insufficient information. Origin request header needed."
            raise Refused("BadRequest", message, status=400)
        try:
            rules = await self._rules(address)
        except NotFound:
            raise _forbidden("Bucket not found", method, "BUCKET") from None
        if rules is None:
            raise _forbidden("CORS is not enabled for this bucket.", method, _kind(address))
        if method not in _METHODS:
            message = f"Invalid Access-Control-Request-Method: {(method or 'null')[:64]}"
            raise Refused("BadRequest", message, status=400)
        headers = allowed(rules, origin=origin, method=method, asked=_asked(wire))
        if headers is None:
            raise _forbidden(
                "This CORS request is not allowed. This is usually because the evalution of Origin, request method / "
                "Access-Control-Request-Method or Access-Control-Request-Headers are not whitelisted by the "
                "resource's CORS spec.",
                method,
                _kind(address),
            )
        return await exchange.send(Response(status=200, headers=[*s3_ids(exchange.request_id), *headers]))

    async def tell(self, exchange: Exchange, address: Address) -> None:
        """Adds to the answer, whatever it will be, what lets the browser show it to the page that asked."""
        origin = exchange.wire.header("origin")
        if origin is None or address.bucket is None:
            return
        try:
            rules = await self._rules(address)
        except CloudError:
            # The request itself will say what is wrong.
            return
        if rules is not None:
            # Also of what is not a preflight, it is the method that the page says to use.
            method = exchange.wire.header("access-control-request-method") or exchange.wire.method
            exchange.headers += allowed(rules, origin=origin, method=method, asked=_asked(exchange.wire)) or []

    async def _rules(self, address: Address) -> CORSConfiguration | None:
        if address.bucket is None:
            return None
        found = await self._backends.web_configuration(address.bucket)
        return found.cors if found.HasField("cors") else None


def allowed(config: CORSConfiguration, *, origin: str, method: str, asked: Sequence[str]) -> Headers | None:
    """By the first rule that holds; None: no rule allows it. `asked`: names of headers in lower case."""
    for rule in config.cors_rules:
        pattern = next((pattern for pattern in rule.allowed_origins if _matches(pattern, origin)), None)
        patterns = [header.lower() for header in rule.allowed_headers]
        known = all(any(_matches(header, name) for header in patterns) for name in asked)
        if pattern is not None and method in rule.allowed_methods and known:
            return _headers(rule, "*" if pattern == "*" else origin, asked)
    return None


def _headers(rule: CORSRule, origin: str, asked: Sequence[str]) -> Headers:
    headers = [
        ("Access-Control-Allow-Origin", origin),
        ("Access-Control-Allow-Methods", ", ".join(rule.allowed_methods)),
    ]
    if asked:
        headers.append(("Access-Control-Allow-Headers", ", ".join(asked)))
    if rule.expose_headers:
        headers.append(("Access-Control-Expose-Headers", ", ".join(rule.expose_headers)))
    if rule.HasField("max_age_seconds"):
        headers.append(("Access-Control-Max-Age", str(rule.max_age_seconds)))
    if origin != "*":
        headers.append(("Access-Control-Allow-Credentials", "true"))
    return [*headers, _VARY]


def _asked(wire: WireRequest) -> list[str]:
    values = wire.header_values("access-control-request-headers")
    return [name.strip().lower() for value in values for name in value.split(",") if name.strip()]


def _matches(pattern: str, text: str) -> bool:
    """One star stands for any text."""
    before, star, after = pattern.partition("*")
    if not star:
        return text == pattern
    return len(text) >= len(before) + len(after) and text.startswith(before) and text.endswith(after)


def _kind(address: Address) -> str:
    return "SERVICE" if address.bucket is None else "BUCKET" if address.key is None else "OBJECT"


def _forbidden(message: str, method: str | None, kind: str) -> Refused:
    details = {"Method": (method or "OPTIONS")[:64], "ResourceType": kind}
    return Refused("AccessForbidden", f"CORSResponse: {message}", status=403, details=details)
