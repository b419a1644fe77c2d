"""What an instance has on volumes, before it can be started: all of them are to be there."""

from __future__ import annotations

from mallee.clc.v1 import record_pb2
from services.clc.use_case import Cloud


def made(cloud: Cloud, record: record_pb2.InstanceRecord) -> bool:
    """Every volume that it is to have can be used."""
    return all(
        volume.record.state == record_pb2.VOLUME_STATE_IN_USE for volume in cloud.attached.of(record.instance_id)
    )


def lost(cloud: Cloud, record: record_pb2.InstanceRecord) -> tuple[str, str] | None:
    """Error code and words where one of them could not be made, or is no more."""
    for volume in cloud.attached.of(record.instance_id):
        if volume.record.state == record_pb2.VOLUME_STATE_ERROR:
            code = volume.record.reason_code or "InternalError"
            return code, f"The volume {volume.record.volume_id} cannot be used: {volume.record.reason_message}"
    return None
