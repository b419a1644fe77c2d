"""What the CC may ask of the node: an order is recorded durably and answered at once; the reconciler does the rest."""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import Final

from common.disk_names import SLOTS
from common.errors import InvalidArgument, NotFound, Stale, WrongState
from common.ids import InstanceId, InterfaceId, VolumeId, VpcId
from common.rpc.context import current_request_id
from mallee.nc.v1 import instance_pb2, record_pb2, service_pb2
from services.nc.capacity import HostRoom, check_fits, need_of, used_by
from services.nc.console import tail
from services.nc.disks import ROOT_SLOT
from services.nc.drivers.base import Hypervisor
from services.nc.images import ImageCache, images_of
from services.nc.instance import Goal, Phase
from services.nc.paths import NodePaths
from services.nc.screen import jpeg
from services.nc.store import InstanceStore

REBOOT_GRACE_S: Final = 60.0
SECTOR_BYTES: Final = 512
_MAC: Final = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\Z")


class Orders:
    def __init__(
        self,
        store: InstanceStore,
        *,
        paths: NodePaths,
        hypervisor: Hypervisor,
        images: ImageCache,
        room: HostRoom,
        nudge: Callable[[InstanceId], None],
        now_s: Callable[[], float],
    ) -> None:
        self._store = store
        self._paths = paths
        self._hypervisor = hypervisor
        self._images = images
        self._room = room
        self._nudge = nudge
        self._now_s = now_s
        # Admitted, their records on the way to the disk.
        self._admitted: dict[InstanceId, instance_pb2.InstanceSpec] = {}

    @property
    def total(self) -> service_pb2.Resources:
        return self._room.total

    @property
    def used(self) -> service_pb2.Resources:
        on_the_way = (need_of(spec) for i, spec in self._admitted.items() if self._store.get(i) is None)
        return used_by(on_the_way, self._store.usage.resources)

    async def ensure(self, epoch: int, spec: instance_pb2.InstanceSpec) -> instance_pb2.InstanceObservation:
        """Raises InvalidArgument, Stale, NoCapacity."""
        check_spec(spec)
        await self._store.obey(epoch)
        instance_id = InstanceId(spec.instance_id)
        if spec.generation <= self._store.gone_generation(instance_id):
            raise Stale(f"{instance_id} is gone from here")
        if self._store.get(instance_id) is None:
            need = need_of(spec)
            await asyncio.to_thread(self._room.check, need)
            # No await from here to the entry in _admitted: two orders cannot both take the last place.
            check_fits(need, total=self.total, used=self.used)
            self._images.check_room(image for each in (spec, *self._admitted.values()) for image in images_of(each))
            self._admitted[instance_id] = spec
        try:
            record = await self._store.update(instance_id, lambda old: self._ordered(old, spec))
        finally:
            self._admitted.pop(instance_id, None)
        assert record is not None
        self._nudge(instance_id)
        return self._store.observation(record)

    async def set_disks(
        self, epoch: int, instance_id: InstanceId, generation: int, plan: instance_pb2.DiskPlan
    ) -> instance_pb2.InstanceObservation:
        """Raises NotFound, Stale, InvalidArgument."""
        check_disks(plan)
        await self._store.obey(epoch)

        def take(record: record_pb2.InstanceRecord | None) -> record_pb2.InstanceRecord | None:
            if record is None:
                return None
            if generation != record.spec.generation:
                raise Stale(f"{instance_id} is here in generation {record.spec.generation}, not {generation}")
            if plan.revision > record.spec.disks.revision:
                record.spec.disks.CopyFrom(plan)
                record.request_id = current_request_id()
            return record

        record = await self._store.update(instance_id, take)
        if record is None:
            raise _not_here(instance_id)
        self._nudge(instance_id)
        return self._store.observation(record)

    async def terminate(self, epoch: int, instance_id: InstanceId, generation: int, *, grace_s: int) -> bool:
        """True when nothing of it is left. Raises Stale."""
        await self._store.obey(epoch)
        deadline_ms = int(self._now_s() * 1000) + grace_s * 1000

        def want_gone(record: record_pb2.InstanceRecord | None) -> record_pb2.InstanceRecord | None:
            if record is None:
                return None
            if generation < record.spec.generation:
                raise Stale(f"{instance_id} is here in generation {record.spec.generation}, not {generation}")
            if Goal(record.goal) is not Goal.GONE:
                record.goal, record.request_id = Goal.GONE.value, current_request_id()
                record.grace_until_ms = deadline_ms
            record.grace_until_ms = min(record.grace_until_ms, deadline_ms)
            return record

        gone = await self._store.update(instance_id, want_gone) is None
        self._nudge(instance_id)
        return gone

    async def reboot(self, epoch: int, instance_id: InstanceId) -> None:
        """Raises NotFound, WrongState, Stale."""
        await self._store.obey(epoch)
        record = self._get(instance_id)
        _check_runs(record)
        if record.rest_until_ms:
            # It is about to boot anyway.
            return
        await self._hypervisor.reboot(instance_id, grace_s=REBOOT_GRACE_S)

    async def rest(self, epoch: int, instance_id: InstanceId, generation: int, *, grace_s: int, rest_s: int) -> bool:
        """Whether it is down for so long. Durable when it returns. Raises NotFound, WrongState, Stale."""
        await self._store.obey(epoch)
        now_ms = int(self._now_s() * 1000)

        def change(record: record_pb2.InstanceRecord | None) -> record_pb2.InstanceRecord | None:
            if record is None or (not rest_s and not record.rest_until_ms):
                return None
            if generation != record.spec.generation:
                raise Stale(f"{instance_id} is here in generation {record.spec.generation}, not {generation}")
            _check_runs(record)
            if not record.rest_until_ms:
                # Written before it goes off: without it that would seem to be its guest's decision.
                record.held, record.request_id = True, current_request_id()
                record.grace_until_ms = now_ms + grace_s * 1000
            record.rest_until_ms = now_ms + rest_s * 1000
            return record

        record = await self._store.update(instance_id, change)
        if record is None:
            raise _not_here(instance_id)
        self._nudge(instance_id)
        return record.at_rest and rest_s > 0

    async def console(self, instance_id: InstanceId) -> tuple[bytes, int]:
        """The end of its console, also where it has gone from here, and when it was last written. Raises NotFound."""
        if self._store.get(instance_id) is None and self._store.gone_generation(instance_id):
            return await asyncio.to_thread(tail, self._paths.last_console(instance_id))
        self._get(instance_id)
        return await asyncio.to_thread(tail, self._paths.console(instance_id))

    async def screenshot(self, instance_id: InstanceId, *, wake_up: bool) -> bytes:
        """What its screen shows, as JPEG. Raises NotFound, WrongState."""
        self._get(instance_id)
        return await asyncio.to_thread(jpeg, await self._hypervisor.screenshot(instance_id, wake_up=wake_up))

    def _get(self, instance_id: InstanceId) -> record_pb2.InstanceRecord:
        record = self._store.get(instance_id)
        if record is None:
            raise _not_here(instance_id)
        return record

    def _ordered(
        self, old: record_pb2.InstanceRecord | None, spec: instance_pb2.InstanceSpec
    ) -> record_pb2.InstanceRecord:
        if old is None or spec.generation > old.spec.generation:
            return record_pb2.InstanceRecord(
                spec=spec,
                goal=Goal.RUN.value,
                phase=(Phase.PREPARING if old is None else Phase.CLEARING).value,
                ordered_at_ms=int(self._now_s() * 1000),
                request_id=current_request_id(),
            )
        if spec.generation < old.spec.generation:
            raise Stale(f"{spec.instance_id} is here in generation {old.spec.generation}, not {spec.generation}")
        for name in ("machine", "kernel", "ramdisk"):
            new, kept = getattr(spec.boot, name), getattr(old.spec.boot, name)
            if new.ticket and new.sha256 == kept.sha256:
                kept.ticket = new.ticket
                kept.ticket_expires.CopyFrom(new.ticket_expires)
        if spec.disks.revision > old.spec.disks.revision:
            old.spec.disks.CopyFrom(spec.disks)
        return old


def _check_runs(record: record_pb2.InstanceRecord) -> None:
    if Goal(record.goal) is not Goal.RUN or Phase(record.phase) is not Phase.RUNNING:
        raise WrongState(f"{record.spec.instance_id} does not run")


def _not_here(instance_id: InstanceId) -> NotFound:
    return NotFound(f"{instance_id} is not on this node", code="InvalidInstanceID.NotFound")


def check_spec(spec: instance_pb2.InstanceSpec) -> None:
    """Raises InvalidArgument that names what is wrong: nothing malformed reaches a path, an XML or a rule."""
    try:
        InstanceId(spec.instance_id)
        InterfaceId(spec.interface.interface_id)
        VpcId(spec.interface.vpc_id)
        ipaddress.IPv4Address(spec.interface.private_ipv4)
        subnet = ipaddress.IPv4Network(spec.interface.subnet_cidr)
        ipaddress.IPv4Network(spec.interface.vpc_cidr)
    except ValueError as error:
        raise InvalidArgument(f"the spec is malformed: {error}") from error
    checks = {
        "generation": spec.generation > 0,
        "mac": _MAC.match(spec.interface.mac) is not None,
        "private_ipv4": ipaddress.IPv4Address(spec.interface.private_ipv4) in subnet,
        "vcpus": 0 < spec.shape.vcpus <= 1024,
        "memory_bytes": spec.shape.memory_bytes >= 1 << 20,
        "disk_bytes": spec.shape.disk_bytes > 0 or not spec.boot.machine.image_id,
        "machine": bool(spec.boot.machine.image_id) != any(disk.root for disk in spec.disks.disks),
        "ramdisk": bool(spec.boot.kernel.image_id) or not spec.boot.ramdisk.image_id,
        "kernel_arguments": spec.boot.kernel_arguments.isprintable(),
    }
    if wrong := [name for name, holds in checks.items() if not holds]:
        raise InvalidArgument(f"the spec of {spec.instance_id} is malformed: {', '.join(wrong)}")
    check_disks(spec.disks, other_slots=[ROOT_SLOT] if spec.boot.machine.image_id else [])


def check_disks(plan: instance_pb2.DiskPlan, *, other_slots: Iterable[int] = ()) -> None:
    """Raises InvalidArgument that names what is wrong. `other_slots`: of disks that are in no plan."""
    slots = [*other_slots, *(disk.slot for disk in plan.disks)]
    volumes = [disk.volume_id for disk in plan.disks if disk.volume_id]
    spaces = [disk.ephemeral_index for disk in plan.disks if not disk.volume_id]
    checks = {
        "volume_id": all(map(VolumeId.matches, volumes)) and len(set(volumes)) == len(volumes),
        "forced_volume_ids": all(map(VolumeId.matches, plan.forced_volume_ids)),
        "slot": all(slot < SLOTS for slot in slots) and len(set(slots)) == len(slots),
        "ephemeral_index": len(set(spaces)) == len(spaces),
        "size_bytes": all(disk.size_bytes > 0 and disk.size_bytes % SECTOR_BYTES == 0 for disk in plan.disks),
        "root": sum(disk.root for disk in plan.disks) <= 1 and all(d.volume_id for d in plan.disks if d.root),
    }
    if wrong := [name for name, holds in checks.items() if not holds]:
        raise InvalidArgument(f"the plan of disks is malformed: {', '.join(wrong)}")
