"""Block device mappings of a registration or a launch: what is given over what the image says, and the defaults.

(EC2 User Guide, "Block device mappings for volumes on Amazon EC2 instances".)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from common.errors import InvalidArgument
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import image_pb2 as ec2
from services.clc.volume.device import slot_of
from services.clc.volume.new import shape_of
from services.clc.volume.types import DEFAULT_TYPE, Shape, type_of

_EPHEMERAL: Final = re.compile(r"ephemeral([0-9]|1[0-9]|2[0-3])\Z")
_MOST_NAME: Final = 32

Mapping = record_pb2.BlockDeviceMappingRecord
# By id, and whether the image names it: then it is the image's to share. Raises NotFound, WrongState.
FindSnapshot = Callable[[str, bool], record_pb2.SnapshotRecord]


def mappings_of(
    given: Iterable[ec2.BlockDeviceMapping],
    *,
    find_snapshot: FindSnapshot,
    base: Sequence[Mapping] = (),
    root_device_name: str = "",
) -> list[Mapping]:
    """In the order of their devices. `base`: the image's; its root can neither be left out nor be another snapshot.

    Raises InvalidArgument (InvalidBlockDeviceMapping and its like).
    """
    by_slot = {slot_of(mapping.device_name): mapping for mapping in base}
    root = slot_of(root_device_name) if root_device_name else None
    seen: set[int] = set()
    for mapping in given:
        if not mapping.device_name:
            raise InvalidArgument("The request must contain the parameter DeviceName", code="MissingParameter")
        slot = slot_of(mapping.device_name)
        if slot in seen:
            raise _invalid(f"The device '{mapping.device_name}' is used in more than one block-device mapping")
        seen.add(slot)
        if mapping.HasField("no_device"):
            # AWS's clients send an empty one, `true`, or the device's name.
            if len(mapping.no_device) > _MOST_NAME:
                raise _invalid("The value of NoDevice is too long")
            if slot == root and slot in by_slot:
                raise _invalid(f"The root device '{mapping.device_name}' cannot be left out")
            by_slot.pop(slot, None)
            continue
        old = by_slot.get(slot)
        by_slot[slot] = _mapping(mapping, old, is_root=slot == root and bool(base), find_snapshot=find_snapshot)
    _check_ephemeral(by_slot.values())
    return [by_slot[slot] for slot in sorted(by_slot)]


def shape_of_mapping(mapping: Mapping) -> Shape:
    """Of the volume that is made for it."""
    return Shape(
        size_gib=mapping.size_gib,
        volume_type=mapping.volume_type,
        iops=mapping.iops,
        throughput_mibps=mapping.throughput_mibps,
    )


def _mapping(
    given: ec2.BlockDeviceMapping, old: Mapping | None, *, is_root: bool, find_snapshot: FindSnapshot
) -> Mapping:
    if given.virtual_name:
        return _ephemeral(given, is_root=is_root)
    if not given.HasField("ebs"):
        raise InvalidArgument("The request must contain the parameter ebs", code="MissingParameter")
    ebs = given.ebs
    before = old if old is not None and not old.virtual_name else Mapping()
    if is_root and ebs.snapshot_id and ebs.snapshot_id != before.snapshot_id:
        raise _invalid("The snapshotId of the root device cannot be modified")
    snapshot_id = ebs.snapshot_id or before.snapshot_id
    least = find_snapshot(snapshot_id, snapshot_id == before.snapshot_id).volume_size_gib if snapshot_id else 0
    size_gib = ebs.volume_size if ebs.HasField("volume_size") else max(least, before.size_gib)
    if not snapshot_id and not before.size_gib and not ebs.HasField("volume_size"):
        raise InvalidArgument("The request must contain the parameter size or snapshotId", code="MissingParameter")
    if snapshot_id and 0 < size_gib < least:
        raise _invalid(
            f"Volume of size {size_gib}GB is smaller than snapshot '{snapshot_id}', expect size >= {least}GB"
        )
    kind = ebs.volume_type or before.volume_type or DEFAULT_TYPE
    # What was provisioned for the image's volume goes on for one of its type.
    provisioned = before if before.volume_type == kind != DEFAULT_TYPE else Mapping()
    if ebs.HasField("throughput") and type_of(kind).throughput_mibps is None:
        raise _invalid(f"throughput cannot be specified with the volumeType of device '{given.device_name}'")
    shape = shape_of(
        size_gib=size_gib,
        snapshot_gib=None,
        volume_type=kind,
        iops=ebs.iops if ebs.HasField("iops") else provisioned.iops or None,
        throughput_mibps=ebs.throughput if ebs.HasField("throughput") else provisioned.throughput_mibps or None,
    )
    return Mapping(
        device_name=old.device_name if is_root and old is not None else given.device_name,
        snapshot_id=snapshot_id,
        size_gib=shape.size_gib,
        volume_type=shape.volume_type,
        iops=shape.iops,
        throughput_mibps=shape.throughput_mibps,
        delete_on_termination=(
            ebs.delete_on_termination
            if ebs.HasField("delete_on_termination")
            else before.delete_on_termination or old is None
        ),
    )


def _ephemeral(given: ec2.BlockDeviceMapping, *, is_root: bool) -> Mapping:
    if not _EPHEMERAL.match(given.virtual_name):
        raise _invalid(f"Invalid virtual name '{given.virtual_name}': ephemeral0 to ephemeral23")
    if given.HasField("ebs") or is_root:
        raise _invalid(f"The mapping of '{given.device_name}' must have one of Ebs, VirtualName and NoDevice")
    return Mapping(device_name=given.device_name, virtual_name=given.virtual_name)


def _check_ephemeral(mappings: Iterable[Mapping]) -> None:
    names = [mapping.virtual_name for mapping in mappings if mapping.virtual_name]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise _invalid(f"The virtual name '{twice}' is used in more than one block-device mapping")


def _invalid(message: str) -> InvalidArgument:
    return InvalidArgument(message, code="InvalidBlockDeviceMapping")
