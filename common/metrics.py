"""What a process counts, and the small HTTP server on its management port that shows it to Prometheus.

Names: mallee_<noun>_<unit>. A metric is made once per process by name, so a second server in one process shares it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, TypeVar

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Counter, Gauge, Histogram, generate_latest

_LATENCY_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

_Metric = TypeVar("_Metric", Counter, Gauge, Histogram)
_made: dict[str, Counter | Gauge | Histogram] = {}


def counter(name: str, help_: str, labels: Sequence[str] = ()) -> Counter:
    return _once(name, Counter, lambda: Counter(name, help_, labels))


def gauge(name: str, help_: str, labels: Sequence[str] = (), *, read: Callable[[], float] | None = None) -> Gauge:
    """With `read`, it is asked at each scrape, on the event loop; it must not block."""
    made = _once(name, Gauge, lambda: Gauge(name, help_, labels))
    if read is not None:
        made.set_function(read)
    return made


def histogram(
    name: str, help_: str, labels: Sequence[str] = (), *, buckets: Sequence[float] = _LATENCY_BUCKETS
) -> Histogram:
    return _once(name, Histogram, lambda: Histogram(name, help_, labels, buckets=buckets))


def _once(name: str, kind: type[_Metric], make: Callable[[], _Metric]) -> _Metric:
    found = _made.get(name)
    if found is None:
        found = _made[name] = make()
    if not isinstance(found, kind):
        raise ValueError(f"metric {name} is a {type(found).__name__} already")
    return found


RPC_REQUESTS: Final = counter(
    "mallee_rpc_requests",
    "RPCs answered, by method and outcome: OK, an AWS error code or CANCELLED",
    ("method", "code"),
)
RPC_SECONDS: Final = histogram(
    "mallee_rpc_seconds", "Time to answer an RPC; a stream until its end", ("method", "code")
)
RPC_IN_FLIGHT: Final = gauge("mallee_rpc_in_flight", "RPCs being answered now", ("method",))

RECONCILE_PASSES: Final = counter(
    "mallee_reconcile_passes", "Passes of a reconciler, by outcome: done, again, failed", ("reconciler", "outcome")
)
RECONCILE_SECONDS: Final = histogram("mallee_reconcile_seconds", "Time one pass took", ("reconciler",))
RECONCILE_WAITING: Final = gauge("mallee_reconcile_waiting", "Keys that wait for their pass", ("reconciler",))


@contextlib.asynccontextmanager
async def serve(address: str) -> AsyncIterator[int]:
    """Answers GET /metrics in Prometheus's text format on `host:port` (port 0: any); yields the port.

    Raises OSError when the address is taken.
    """
    host, _, port = address.rpartition(":")
    runner = web.ServerRunner(web.Server(_answer, access_log=None), shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def _answer(request: web.BaseRequest) -> web.StreamResponse:
    if request.method != "GET" or request.path != "/metrics":
        return web.Response(status=404, text="only GET /metrics is here\n")
    return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})
