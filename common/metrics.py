"""What a process counts, and the small HTTP server on its management port that shows it to Prometheus.

Names: mallee_<noun>_<unit>. A metric is made once per process by name, so a second server in one process shares it.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import accumulate
from typing import Final, TypeVar

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

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


class Times:
    """How often something of one kind took how long."""

    __slots__ = ("buckets", "total_s")

    def __init__(self) -> None:
        # The last one: longer than all bounds.
        self.buckets = [0] * (len(_LATENCY_BUCKETS) + 1)
        self.total_s = 0.0

    def add(self, took_s: float) -> None:
        self.buckets[bisect_left(_LATENCY_BUCKETS, took_s)] += 1
        self.total_s += took_s


class Requests(Collector):
    """Two metrics of what is answered: a counter by all labels, and a histogram by the first `timed` of them.

    Each request is counted on the event loop, in plain numbers: Prometheus's own would take a lock and a dozen calls
    for it. They get their form when they are asked for.
    """

    def __init__(
        self, name: str, help_: str, labels: Sequence[str], *, seconds: str, seconds_help: str, timed: int
    ) -> None:
        self._counter = name, help_
        self._histogram = seconds, seconds_help
        self._labels = tuple(labels)
        self._timed = timed
        self._known: dict[tuple[str, ...], Times] = {}
        REGISTRY.register(self)

    def of(self, *labels: str) -> Times:
        """To add to."""
        if (known := self._known.get(labels)) is None:
            known = self._known[labels] = Times()
        return known

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(*self._counter, labels=self._labels)
        timed: dict[tuple[str, ...], Times] = {}
        for labels, times in self._known.items():
            requests.add_metric(labels, sum(times.buckets))
            together = timed.setdefault(labels[: self._timed], Times())
            together.buckets = [one + other for one, other in zip(together.buckets, times.buckets, strict=True)]
            together.total_s += times.total_s
        yield requests
        seconds = HistogramMetricFamily(*self._histogram, labels=self._labels[: self._timed])
        bounds = [*map(str, _LATENCY_BUCKETS), "+Inf"]
        for labels, times in timed.items():
            seconds.add_metric(labels, list(zip(bounds, accumulate(times.buckets), strict=True)), times.total_s)
        yield seconds


RPCS: Final = Requests(
    "mallee_rpc_requests",
    "RPCs answered, by method and outcome: OK, an AWS error code or CANCELLED",
    ("method", "code"),
    seconds="mallee_rpc_seconds",
    seconds_help="Time to answer an RPC; a stream until its end",
    timed=2,
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
