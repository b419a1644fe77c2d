"""What the facade tells about itself: a line per request in the log, and metrics by service, action and code."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

from prometheus_client import Counter, Histogram

from common import metrics
from common.log import get_logger
from ec2_facade.exchange import Exchange

_log = get_logger("access")

REQUESTS = metrics.counter(
    "mallee_http_requests", "Requests answered, by service, action and AWS error code", ("service", "action", "code")
)
SECONDS = metrics.histogram("mallee_http_seconds", "Time to answer a request, its body included", ("service", "action"))
BYTES = metrics.counter("mallee_http_bytes", "Bytes of bodies", ("service", "direction"))
IN_FLIGHT = metrics.gauge("mallee_http_in_flight", "Requests being answered now")


@contextmanager
def observed(exchange: Exchange, note: Callable[[Exchange, float], None]) -> Iterator[None]:
    """Around the answering of one request; what is known of it then is counted, logged and noted, however it ends."""
    began = time.monotonic()
    IN_FLIGHT.inc()
    ended = "Aborted"
    try:
        yield
        ended = exchange.code or "OK"
    finally:
        IN_FLIGHT.dec()
        took_s = time.monotonic() - began
        _record(exchange, ended, took_s)
        note(exchange, took_s)


def _record(exchange: Exchange, ended: str, took_s: float) -> None:
    service, action = exchange.service or "none", exchange.action or "none"
    requests, seconds, received, sent = _counted(service, action, ended)
    requests.inc()
    seconds.observe(took_s)
    received.inc(exchange.body.received)
    sent.inc(exchange.sent_bytes)
    _log.info(
        "request",
        source_ip=exchange.wire.source_ip,
        method=exchange.wire.method,
        # Without the query: a presigned one is a credential.
        path=exchange.wire.raw_path[:1024],
        service=service,
        action=action,
        status=exchange.status,
        code=ended,
        account_id=exchange.account_id,
        bytes_in=exchange.body.received,
        bytes_out=exchange.sent_bytes,
        took_ms=round(took_s * 1000, 1),
        user_agent=(exchange.wire.header("user-agent") or "")[:256],
    )


# To look a metric up by its labels costs more than to count.
@lru_cache(maxsize=4096)
def _counted(service: str, action: str, ended: str) -> tuple[Counter, Histogram, Counter, Counter]:
    return (
        REQUESTS.labels(service, action, ended),
        SECONDS.labels(service, action),
        BYTES.labels(service, "in"),
        BYTES.labels(service, "out"),
    )
