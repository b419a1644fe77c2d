"""Where a website sends a request: the bucket's redirects, as AWS reads them. Pure.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/how-to-page-redirect.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from ec2_facade.wire import WireRequest
from mallee.s3.v1.website_pb2 import Redirect, RoutingRule, WebsiteConfiguration

_MOVED: Final = 301


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    status: int
    location: str


def before(config: WebsiteConfiguration, wire: WireRequest, key: str) -> Elsewhere | None:
    """What is decided by the request alone."""
    if config.HasField("redirect_all_requests_to"):
        target = config.redirect_all_requests_to
        path = wire.raw_path + (f"?{wire.raw_query}" if wire.raw_query else "")
        return Elsewhere(status=_MOVED, location=f"{target.protocol or _scheme(wire)}://{target.host_name}{path}")
    return _first(config, wire, key, code=None)


def after(config: WebsiteConfiguration, wire: WireRequest, key: str, status: int) -> Elsewhere | None:
    """What the error decides that would be the answer."""
    return _first(config, wire, key, code=str(status))


def _first(config: WebsiteConfiguration, wire: WireRequest, key: str, *, code: str | None) -> Elsewhere | None:
    for rule in config.routing_rules:
        if rule.condition.http_error_code_returned_equals == (code or "") and key.startswith(
            rule.condition.key_prefix_equals
        ):
            return _elsewhere(rule, wire, key)
    return None


def _elsewhere(rule: RoutingRule, wire: WireRequest, key: str) -> Elsewhere:
    to = rule.redirect
    host = to.host_name or wire.host
    location = f"{to.protocol or _scheme(wire)}://{host}/{quote(_key(to, rule, key), safe=SAFE)}"
    return Elsewhere(status=int(to.http_redirect_code or _MOVED), location=location)


def _key(to: Redirect, rule: RoutingRule, key: str) -> str:
    if to.HasField("replace_key_with"):
        return to.replace_key_with
    if to.HasField("replace_key_prefix_with"):
        return to.replace_key_prefix_with + key.removeprefix(rule.condition.key_prefix_equals)
    return key


# What stands for itself in a path, and in what an owner writes as one: he may give a query, too.
SAFE: Final = "/-_.~!$&'()*+,;=:@?"


def _scheme(wire: WireRequest) -> str:
    return "https" if wire.secure else "http"
