"""What a node is told about an instance, from the records alone. Pure."""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.timestamp_pb2 import Timestamp

from common import ticket
from mallee.clc.v1 import record_pb2
from mallee.nc.v1 import instance_pb2 as nc
from services.clc.instance import metadata_options, rules
from services.clc.instance.request import kernel_arguments

FindImage = Callable[[str], record_pb2.ImageRecord | None]

TICKET_SECONDS = 3600


def spec_of(
    instance: record_pb2.InstanceRecord,
    reservation: record_pb2.ReservationRecord,
    *,
    region: str,
    zone_id: str,
    find_image: FindImage,
    group_names: list[str],
    ticket_key: bytes,
    disks: nc.DiskPlan,
    now: float,
) -> nc.InstanceSpec:
    """Raises KeyError when an image's record is gone."""

    def image(image_id: str) -> nc.Image | None:
        if not image_id:
            return None
        record = find_image(image_id)
        if record is None:
            raise KeyError(image_id)
        return image_of(record, ticket_key=ticket_key, expires_unix_s=int(now) + TICKET_SECONDS)

    metadata = metadata_options.told(instance)
    return nc.InstanceSpec(
        instance_id=instance.instance_id,
        account_id=instance.account_id,
        reservation_id=instance.reservation_id,
        launch_index=instance.launch_index,
        generation=instance.generation,
        zone=instance.zone,
        region=region,
        zone_id=zone_id,
        shape=instance.shape,
        boot=nc.BootSource(
            machine=image(instance.image_id) if instance.root_device_type != rules.EBS else None,
            kernel=image(instance.kernel_id),
            ramdisk=image(instance.ramdisk_id),
            kernel_arguments=kernel_arguments(bool(instance.kernel_id)),
        ),
        interface=instance.interface,
        user_data=instance.user_data if instance.has_own_user_data else reservation.user_data,
        has_user_data=bool(instance.user_data) if instance.has_own_user_data else reservation.has_user_data,
        public_keys=(
            [nc.PublicKey(name=reservation.key_name, openssh=f"{reservation.public_key} {reservation.key_name}")]
            if reservation.key_name
            else []
        ),
        security_group_names=group_names,
        launch_time=instance.launch_time,
        metadata_tags=metadata.tags,
        metadata_options=metadata.options,
        image_id=instance.image_id,
        disks=disks,
    )


def image_of(record: record_pb2.ImageRecord, *, ticket_key: bytes, expires_unix_s: int) -> nc.Image:
    return nc.Image(
        image_id=record.image_id,
        sha256=record.sha256,
        size_bytes=record.size_bytes,
        format=record.format,
        virtual_size_bytes=record.virtual_size_bytes,
        ticket=ticket.mint(ticket_key, sha256=record.sha256, image_id=record.image_id, expires_unix_s=expires_unix_s),
        ticket_expires=Timestamp(seconds=expires_unix_s),
    )
