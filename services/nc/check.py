"""Whether guests answer on their network interface: asked when somebody wants to know, and only then."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from common.ids import InstanceId
from mallee.nc.v1 import service_pb2
from services.nc.drivers.base import Network
from services.nc.instance import Phase
from services.nc.store import InstanceStore

PASSED, FAILED, AWAITED = (
    service_pb2.CHECK_STATE_PASSED,
    service_pb2.CHECK_STATE_FAILED,
    service_pb2.CHECK_STATE_AWAITED,
)


class GuestCheck:
    def __init__(self, store: InstanceStore, network: Network, *, now_s: Callable[[], float]) -> None:
        self._store = store
        self._network = network
        self._now_s = now_s
        # Those that were heard, as long as they are here and this process lives.
        self._heard: set[InstanceId] = set()
        # Those that do not answer: since when.
        self._silent_ms: dict[InstanceId, int] = {}

    async def look(self, wanted: Iterable[InstanceId]) -> list[service_pb2.InstanceCheck]:
        """Of those that are here and run. Raises Unavailable if the guests cannot be asked."""
        records = self._store.all()
        interfaces = {
            i: records[i].spec.interface for i in wanted if i in records and Phase(records[i].phase) is Phase.RUNNING
        }
        answering = await self._network.answering(interfaces.values())
        now = {i for i, interface in interfaces.items() if interface.interface_id in answering}
        self._heard = (self._heard | now) & records.keys()
        silent = dict.fromkeys(interfaces.keys() - now, int(self._now_s() * 1000)) | self._silent_ms
        self._silent_ms = {i: since for i, since in silent.items() if i in records and i not in now}
        return [
            service_pb2.InstanceCheck(
                instance_id=i,
                state=PASSED if i in now else FAILED if i in self._heard else AWAITED,
                silent_since_ms=self._silent_ms.get(i, 0),
            )
            for i in interfaces
        ]
