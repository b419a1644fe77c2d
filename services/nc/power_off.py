"""Powers a node's VMs off together with the host, to be booted again by the next start of its node controller."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from common.errors import Unavailable
from common.ids import InstanceId
from mallee.nc.v1 import record_pb2
from services.nc.drivers.base import Hypervisor
from services.nc.instance import Goal, Phase
from services.nc.store import InstanceStore

# For an engine that has only just been started.
_ENGINE_S: Final = 20.0


async def power_off_all(store: InstanceStore, hypervisor: Hypervisor, *, grace_s: float) -> None:
    """Raises LockedElsewhere while the node controller runs: it would start them again at once."""
    store.open()
    try:
        await _open(hypervisor)
        try:
            await asyncio.gather(*(_power_off(store, hypervisor, found, grace_s) for found in list(store.all())))
        finally:
            await hypervisor.close()
    finally:
        store.close()


async def _open(hypervisor: Hypervisor) -> None:
    until = time.monotonic() + _ENGINE_S
    while True:
        try:
            return await hypervisor.open()
        except Unavailable:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.1)


async def _power_off(store: InstanceStore, hypervisor: Hypervisor, instance_id: InstanceId, grace_s: float) -> None:
    # Written first: were it off without this, its guest would seem to have ended it for good.
    await store.update(instance_id, _held)
    await hypervisor.power_off(instance_id, grace_s=grace_s)


def _held(record: record_pb2.InstanceRecord | None) -> record_pb2.InstanceRecord | None:
    if record is None or Goal(record.goal) is not Goal.RUN or Phase(record.phase) is not Phase.RUNNING:
        return None
    record.held = True
    return record
