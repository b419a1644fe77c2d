"""CreateImage: the volumes of an instance at one point in time, as an image. See rest.py for one whose guest runs."""

from __future__ import annotations

from typing import Final

from common.errors import CloudError, InvalidArgument, WrongState
from common.ids import MachineImageId
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import image_pb2 as ec2
from services.clc.clock import timestamp
from services.clc.image.record import add_image, check_name, check_name_free, name_claim
from services.clc.instance import rules as instances
from services.clc.instance.block_devices import mappings_of
from services.clc.lookup import INSTANCE, own
from services.clc.snapshot.create import (
    attached_to,
    check_description,
    check_location,
    check_ready,
    fix_point,
    snapshot_of,
)
from services.clc.snapshot.find import Snapshot, completed_snapshot
from services.clc.store import Changes, Stored, until_committed
from services.clc.tag import rules as tags
from services.clc.use_case import Call, Cloud, end_dry_run, use_case
from services.clc.volume.disks import check_root

Instance = Stored[record_pb2.InstanceRecord]
Mapping = record_pb2.BlockDeviceMappingRecord
_READY: Final = (instances.RUNNING, record_pb2.INSTANCE_STATE_STOPPED)


@use_case("ec2.CreateImage")
async def create_image(cloud: Cloud, call: Call, request: ec2.CreateImageRequest) -> ec2.CreateImageResult:
    check_name(request.name)
    check_description(request.description)
    check_location(request.snapshot_location)
    given_tags = tags.from_specifications(request.tag_specifications, allowed=["image", "snapshot"])

    async def attempt() -> _Plan:
        instance = _ready_instance(cloud, call, request.instance_id)
        plan = _Plan(cloud, call, instance.record, given_tags["snapshot"])
        plan.map_devices(request)
        if instance.record.state == instances.RUNNING and not request.no_reboot:
            plan.wait_for_rest()
        check_name_free(cloud.store, call.account_id, request.name)
        end_dry_run(request)
        plan.image.tags.update(given_tags["image"])
        await cloud.store.commit(plan.changes())
        return plan

    plan = await until_committed(attempt)
    if plan.snapshots and not plan.image.point:
        try:
            await fix_point(cloud, plan.snapshots)
        except CloudError:
            await _withdraw(cloud, plan.image.image_id)
            raise
    return ec2.CreateImageResult(image_id=plan.image.image_id)


class _Plan:
    """The image that is to be, and the snapshots that it is to be made of."""

    def __init__(
        self, cloud: Cloud, call: Call, instance: record_pb2.InstanceRecord, snapshot_tags: dict[str, str]
    ) -> None:
        self._cloud, self._call = cloud, call
        self.image = _image_of(cloud, call, instance)
        self._volumes = attached_to(cloud, instance)
        description = f"Created by CreateImage({instance.instance_id}) for {self.image.image_id}"
        self.snapshots = [snapshot_of(call, v.record, description, snapshot_tags) for v in self._volumes]
        # Not of this instance's volumes.
        self._others: dict[str, Snapshot] = {}
        self._base = [
            _mapping_of(volume.record, snapshot.snapshot_id)
            for volume, snapshot in zip(self._volumes, self.snapshots, strict=True)
        ] + list(instance.ephemeral)

    def map_devices(self, request: ec2.CreateImageRequest) -> None:
        """Volumes that are left out or replaced get no snapshot. Raises CloudError."""
        image = self.image
        image.name, image.description = request.name, request.description
        image.location = f"{image.account_id}/{request.name}"
        image.block_devices.extend(
            mappings_of(
                request.block_device_mappings,
                find_snapshot=self._find,
                base=self._base,
                root_device_name=image.root_device_name,
            )
        )
        used = {device.snapshot_id for device in image.block_devices}
        pairs = list(zip(self._volumes, self.snapshots, strict=True))
        self._volumes = [volume for volume, snapshot in pairs if snapshot.snapshot_id in used]
        self.snapshots = [snapshot for _, snapshot in pairs if snapshot.snapshot_id in used]
        for volume in self._volumes:
            check_ready(self._cloud.store, volume.record)

    def wait_for_rest(self) -> None:
        """Its point in time is fixed when the guest is down."""
        if not self.snapshots:
            return
        self.image.point = record_pb2.IMAGE_POINT_DUE
        for snapshot in self.snapshots:
            snapshot.image_id = self.image.image_id

    def changes(self) -> Changes:
        changes = Changes()
        add_image(changes, self.image)
        for record in self.snapshots:
            changes.create(record)
        for volume in self._volumes:
            changes.require(volume)
        for snapshot in self._others.values():
            changes.require(snapshot)
        return changes

    def _find(self, snapshot_id: str, _: bool) -> record_pb2.SnapshotRecord:
        its_own = next((s for s in self.snapshots if s.snapshot_id == snapshot_id), None)
        if its_own is not None:
            return its_own
        self._others[snapshot_id] = completed_snapshot(self._cloud.store, self._call.account_id, snapshot_id)
        return self._others[snapshot_id].record


def _ready_instance(cloud: Cloud, call: Call, instance_id: str) -> Instance:
    instance = own(cloud.store, INSTANCE, call.account_id, instance_id)
    if instance.record.root_device_type != "ebs":
        raise InvalidArgument(
            f"The instance '{instance_id}' does not have an 'ebs' root device type: no image can be created of it."
        )
    if instance.record.state not in _READY:
        raise WrongState(
            f"The instance '{instance_id}' is not in a state from which an image can be created.",
            code="IncorrectInstanceState",
        )
    check_root(cloud, instance.record)
    return instance


def _image_of(cloud: Cloud, call: Call, instance: record_pb2.InstanceRecord) -> record_pb2.ImageRecord:
    """Kernel, ramdisk and machine are the instance's own."""
    launched = cloud.store.get(record_pb2.ImageRecord, instance.image_id)
    source = launched.record if launched is not None else record_pb2.ImageRecord(virtualization_type="hvm")
    return record_pb2.ImageRecord(
        image_id=MachineImageId.new(),
        account_id=call.account_id,
        image_type="machine",
        architecture=instance.architecture,
        kernel_id=instance.kernel_id,
        ramdisk_id=instance.ramdisk_id,
        state=record_pb2.IMAGE_STATE_PENDING,
        created=timestamp(call.now),
        root_device_name=instance.root_device_name,
        root_device_type="ebs",
        virtualization_type=source.virtualization_type,
        ena_support=source.ena_support,
        sriov_net_support=source.sriov_net_support,
        source_instance_id=instance.instance_id,
        source_image_id=instance.image_id,
    )


def _mapping_of(volume: record_pb2.VolumeRecord, snapshot_id: str) -> Mapping:
    return Mapping(
        device_name=volume.attachment.device_name,
        snapshot_id=snapshot_id,
        size_gib=volume.size_gib,
        volume_type=volume.volume_type,
        iops=volume.iops,
        throughput_mibps=volume.throughput_mibps,
        delete_on_termination=volume.attachment.delete_on_termination,
    )


async def _withdraw(cloud: Cloud, image_id: str) -> None:
    """Nobody was told of it."""

    async def attempt() -> None:
        image = cloud.store.get(record_pb2.ImageRecord, image_id)
        if image is None or image.record.state == record_pb2.IMAGE_STATE_DEREGISTERED:
            return
        draft = image.draft()
        draft.state = record_pb2.IMAGE_STATE_DEREGISTERED
        changes = Changes()
        changes.update(image, draft)
        changes.release(name_claim(draft))
        await cloud.store.commit(changes)

    await until_committed(attempt)
