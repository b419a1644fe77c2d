"""What guests do with their volumes, as the engine counts it, for Prometheus: rates are IOPS, bytes and latency."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from common.errors import CloudError
from common.log import get_logger
from services.nc.drivers.base import DiskUse, Hypervisor
from services.nc.store import InstanceStore

_log = get_logger(__name__)

PERIOD_S: Final = 5.0
_LABELS: Final = ("volume", "kind")


class DiskMetrics(Collector):
    """A counter begins anew with each start of its guest. `run` reads, without end."""

    def __init__(self, store: InstanceStore, hypervisor: Hypervisor) -> None:
        self._store = store
        self._hypervisor = hypervisor
        self._uses: Sequence[DiskUse] = ()
        REGISTRY.register(self)

    def close(self) -> None:
        REGISTRY.unregister(self)

    async def run(self) -> None:
        was_there = True
        while True:
            try:
                self._uses = await self._hypervisor.disk_uses()
                was_there = True
            except CloudError as error:
                # Shown are the last ones; its restart is told by those who act on it.
                if was_there:
                    _log.info("the engine does not say what disks do", error=error.message)
                was_there = False
            await asyncio.sleep(PERIOD_S)

    def describe(self) -> Iterable[CounterMetricFamily]:
        return self._families()

    def collect(self) -> Iterable[CounterMetricFamily]:
        families = operations, moved, took = self._families()
        for use in self._uses:
            if volume_id := self._volume_of(use):
                for kind, count, size, seconds in (
                    ("read", use.reads, use.read_bytes, use.read_s),
                    ("write", use.writes, use.written_bytes, use.write_s),
                ):
                    operations.add_metric((volume_id, kind), count)
                    moved.add_metric((volume_id, kind), size)
                    took.add_metric((volume_id, kind), seconds)
        return families

    def _volume_of(self, use: DiskUse) -> str:
        record = self._store.get(use.instance_id)
        disks = record.spec.disks.disks if record is not None else ()
        return next((disk.volume_id for disk in disks if disk.slot == use.slot), "")

    @staticmethod
    def _families() -> tuple[CounterMetricFamily, CounterMetricFamily, CounterMetricFamily]:
        return (
            CounterMetricFamily("mallee_nc_volume_operations", "Reads and writes of guests", labels=_LABELS),
            CounterMetricFamily("mallee_nc_volume_bytes", "Bytes that guests read and wrote", labels=_LABELS),
            CounterMetricFamily("mallee_nc_volume_seconds", "Time that guests' reads and writes took", labels=_LABELS),
        )
