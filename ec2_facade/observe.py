"""What the facade tells about itself: a line per request in the log, and metrics by service, action and code."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache

from common import metrics
from common.log import teller
from ec2_facade.exchange import Exchange

_tell = teller("access")

REQUESTS = metrics.Requests(
    "mallee_http_requests",
    "Requests answered, by service, action and AWS error code",
    ("service", "action", "code"),
    seconds="mallee_http_seconds",
    seconds_help="Time to answer a request, its body included",
    timed=2,
)
BYTES = metrics.counter("mallee_http_bytes", "Bytes of bodies", ("service", "direction"))
_in_flight: set[object] = set()
metrics.gauge("mallee_http_in_flight", "Requests being answered now", read=lambda: len(_in_flight))


class Observed:
    """Around the answering of one request; what is known of it then is counted, logged and noted, however it ends."""

    __slots__ = ("_began", "_exchange", "_note")

    def __init__(self, exchange: Exchange, note: Callable[[Exchange, float], None]) -> None:
        self._exchange = exchange
        self._note = note
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = time.monotonic()
        _in_flight.add(self)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        _in_flight.discard(self)
        ended, took_s = "Aborted" if kind else self._exchange.code or "OK", time.monotonic() - self._began
        _record(self._exchange, ended, took_s)
        self._note(self._exchange, took_s)


def _record(exchange: Exchange, ended: str, took_s: float) -> None:
    service, action = exchange.service or "none", exchange.action or "none"
    REQUESTS.of(service, action, ended).add(took_s)
    if exchange.body.received:
        _bytes(service, "in").inc(exchange.body.received)
    if exchange.sent_bytes:
        _bytes(service, "out").inc(exchange.sent_bytes)
    _tell(
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
_bytes = lru_cache(maxsize=16)(BYTES.labels)
