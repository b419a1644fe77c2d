"""The acts on the host that bring a VM up and take it away. Each can be repeated, and cut short at any point."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from common.background import all_of
from common.errors import InvalidArgument
from common.ids import InstanceId, InterfaceId, VpcId
from common.metrics import histogram
from mallee.nc.v1 import instance_pb2
from services.nc.disks import ROOT_SLOT, Exports, engine_disk, volumes_of
from services.nc.drivers.base import Disk, Domain, FileSource, Hypervisor, Network
from services.nc.images import ImageCache, images_of
from services.nc.overlay import MakeOverlay, Overlay, make_space
from services.nc.paths import NodePaths
from services.nc.plans import Plans

FORMATS: Final = {instance_pb2.IMAGE_FORMAT_RAW: "raw", instance_pb2.IMAGE_FORMAT_QCOW2: "qcow2"}


_STEP_SECONDS: Final = histogram("mallee_nc_launch_step_seconds", "Parts of a launch", ("step",))


def _timed(step: str) -> AbstractContextManager[Any]:
    timer: AbstractContextManager[Any] = _STEP_SECONDS.labels(step).time()
    return timer


class Metadata(Protocol):
    async def serve(self, vpc_id: VpcId) -> None:
        """From now on guests of the VPC find their metadata."""

    async def stop(self, vpc_id: VpcId) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    paths: NodePaths
    hypervisor: Hypervisor
    network: Network
    images: ImageCache
    exports: Exports
    make_overlay: MakeOverlay
    plans: Plans
    metadata: Metadata
    # VPCs that have a recorded instance here, other than the given one.
    other_vpcs: Callable[[InstanceId], set[VpcId]]
    # uid and gid that QEMU runs as.
    owner: tuple[int, int] | None
    # One at a time per VPC: with its last interface goes its namespace, and what listens there.
    _vpc_locks: defaultdict[VpcId, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))

    async def launch(self, spec: instance_pb2.InstanceSpec) -> None:
        """Image, disk, interface, and the domain, paused."""
        boot = spec.boot
        if boot.machine.image_id and boot.machine.format not in FORMATS:
            raise InvalidArgument(f"{boot.machine.image_id} has no known format")
        async with contextlib.AsyncExitStack() as held:
            wanted = images_of(spec)
            with _timed("images"):
                found = await all_of(*(held.enter_async_context(self.images.hold(image)) for image in wanted))
            file_of = dict(zip((image.image_id for image in wanted), found, strict=True))
            # Side by side: each is a process or a round through the kernel, or waits for a grant.
            with _timed("disk and interface"):
                own, volumes, tap = await all_of(
                    self._own_disks(spec, file_of), self._volumes(spec), self._prepare_interface(spec)
                )
            with _timed("domain"):
                await self.hypervisor.prepare(self._domain(spec, (*own, *volumes), file_of, tap))

    async def plug(self, spec: instance_pb2.InstanceSpec) -> None:
        """Its interface into the VPC with all that guards it, its metadata, and only then its vCPUs."""
        vpc_id = VpcId(spec.interface.vpc_id)
        async with self._vpc_locks[vpc_id]:
            with _timed("plug"):
                await self.network.plug_interface(spec.interface)
            await self.metadata.serve(vpc_id)
        # Its interface keeps the VPC here, so this needs no lock; launches at one time share it.
        with _timed("plan"):
            await self.plans.apply_again(vpc_id)
        with _timed("resume"):
            await self.hypervisor.resume(InstanceId(spec.instance_id))

    async def clean(self, spec: instance_pb2.InstanceSpec) -> None:
        """Domain, interface and disk; the record stays, and the console's log with it."""
        instance_id, vpc_id = InstanceId(spec.instance_id), VpcId(spec.interface.vpc_id)
        await self.hypervisor.remove(instance_id)
        async with self._vpc_locks[vpc_id]:
            await self.network.remove_interface(InterfaceId(spec.interface.interface_id), vpc_id)
            if vpc_id not in (await self.network.observe()).values():
                await self.metadata.stop(vpc_id)
        if vpc_id not in self.other_vpcs(instance_id):
            await self.plans.forget(vpc_id)
        await asyncio.to_thread(self._unlink_disks, instance_id)

    def tidy(self) -> None:
        """What only instances that are gone would have wanted goes too."""
        self.images.tidy()

    def _unlink_disks(self, instance_id: InstanceId) -> None:
        for disk in (self.paths.disk(instance_id), *self.paths.spaces(instance_id)):
            disk.unlink(missing_ok=True)

    async def _own_disks(self, spec: instance_pb2.InstanceSpec, file_of: dict[str, Path]) -> list[Disk]:
        """In files of the node: made of the machine image, and empty space."""
        instance_id, machine = InstanceId(spec.instance_id), spec.boot.machine
        disks = []
        if machine.image_id:
            overlay = Overlay(
                path=self.paths.disk(instance_id),
                backing=file_of[machine.image_id],
                backing_format=FORMATS[machine.format],
                size_bytes=spec.shape.disk_bytes,
                owner=self.owner,
            )
            await self.make_overlay(overlay)
            source = FileSource(
                path=overlay.path, format="qcow2", backing=overlay.backing, backing_format=overlay.backing_format
            )
            disks.append(Disk(slot=ROOT_SLOT, source=source, size_bytes=overlay.size_bytes, boots=True))
        for space in spec.disks.disks:
            if not space.volume_id:
                path = self.paths.space(instance_id, space.ephemeral_index)
                await asyncio.to_thread(make_space, path, space.size_bytes, self.owner)
                source = FileSource(path=path, format="raw")
                disks.append(Disk(slot=space.slot, source=source, size_bytes=space.size_bytes))
        return disks

    async def _volumes(self, spec: instance_pb2.InstanceSpec) -> list[Disk]:
        async def redeem(disk: instance_pb2.Disk) -> Disk:
            return engine_disk(disk, await self.exports.redeem(disk.volume_id, disk.grant_generation))

        return await all_of(*map(redeem, volumes_of(spec.disks).values()))

    async def _prepare_interface(self, spec: instance_pb2.InstanceSpec) -> str:
        async with self._vpc_locks[VpcId(spec.interface.vpc_id)]:
            return await self.network.prepare_interface(spec.interface)

    def _domain(
        self, spec: instance_pb2.InstanceSpec, disks: tuple[Disk, ...], file_of: dict[str, Path], tap: str
    ) -> Domain:
        boot = spec.boot
        return Domain(
            instance_id=InstanceId(spec.instance_id),
            vcpus=spec.shape.vcpus,
            memory_bytes=spec.shape.memory_bytes,
            disks=disks,
            kernel=file_of.get(boot.kernel.image_id),
            ramdisk=file_of.get(boot.ramdisk.image_id),
            kernel_arguments=boot.kernel_arguments,
            mac=spec.interface.mac,
            tap=tap,
            console_log=self.paths.console(InstanceId(spec.instance_id)),
        )
