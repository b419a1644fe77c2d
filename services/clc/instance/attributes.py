"""DescribeInstanceAttribute and ResetInstanceAttribute. (EC2 API reference, "DescribeInstanceAttribute".)"""

from __future__ import annotations

import base64
from typing import Final

from common.errors import InvalidArgument, WrongState
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import image_pb2
from mallee.ec2.v1 import instance_pb2 as ec2
from services.clc import attribute as attribute_errors
from services.clc.instance import rules
from services.clc.instance.describe import views_of
from services.clc.lookup import INSTANCE, own
from services.clc.store import Changes, Stored
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

Instance = Stored[record_pb2.InstanceRecord]

# What is fixed while an instance runs.
WHILE_STOPPED: Final = frozenset(
    {"instanceType", "userData", "kernel", "ramdisk", "ebsOptimized", "sriovNetSupport", "enaSupport"}
)
_RESETTABLE: Final = frozenset({"kernel", "ramdisk", "sourceDestCheck"})


@use_case("ec2.DescribeInstanceAttribute")
async def describe_instance_attribute(
    cloud: Cloud, call: Call, request: ec2.DescribeInstanceAttributeRequest
) -> ec2.InstanceAttribute:
    instance = own(cloud.store, INSTANCE, call.account_id, request.instance_id)
    answer = ec2.InstanceAttribute(instance_id=instance.record.instance_id)
    _show(cloud, instance, request.attribute, answer)
    end_dry_run(request)
    return answer


@use_case("ec2.ResetInstanceAttribute")
async def reset_instance_attribute(
    cloud: Cloud, call: Call, request: ec2.ResetInstanceAttributeRequest
) -> ec2.ResetInstanceAttributeResponse:
    if request.attribute not in _RESETTABLE:
        raise InvalidArgument(
            f"Value ({request.attribute}) for parameter attribute is invalid: {', '.join(sorted(_RESETTABLE))}"
        )
    instance = own(cloud.store, INSTANCE, call.account_id, request.instance_id)
    if request.attribute in WHILE_STOPPED and instance.record.state != rules.STOPPED:
        raise not_stopped(instance.record, request.attribute)
    end_dry_run(request)
    draft = instance.draft()
    if request.attribute == "sourceDestCheck":
        draft.source_dest_unchecked = False
    else:
        image = cloud.store.get(record_pb2.ImageRecord, instance.record.image_id)
        name = f"{request.attribute}_id"
        setattr(draft, name, getattr(image.record, name) if image is not None else "")
    if draft != instance.record:
        changes = Changes()
        changes.update(instance, draft)
        await cloud.store.commit(changes)
    return ec2.ResetInstanceAttributeResponse()


def _show(cloud: Cloud, instance: Instance, name: str, answer: ec2.InstanceAttribute) -> None:
    """Fills in the one attribute; one without a value is an empty element."""
    record = instance.record
    view = views_of(cloud).of(instance)
    texts: dict[str, tuple[image_pb2.AttributeValue, str]] = {
        "instanceType": (answer.instance_type, record.shape.instance_type),
        "kernel": (answer.kernel_id, record.kernel_id),
        "ramdisk": (answer.ramdisk_id, record.ramdisk_id),
        "userData": (answer.user_data, _user_data(cloud, record)),
        "instanceInitiatedShutdownBehavior": (answer.instance_initiated_shutdown_behavior, record.shutdown_behavior),
        "rootDeviceName": (answer.root_device_name, view.root_device_name),
        "sriovNetSupport": (answer.sriov_net_support, ""),
    }
    truths = {
        "disableApiTermination": (answer.disable_api_termination, record.disable_api_termination),
        "disableApiStop": (answer.disable_api_stop, record.disable_api_stop),
        "ebsOptimized": (answer.ebs_optimized, view.ebs_optimized),
        "enaSupport": (answer.ena_support, view.ena_support),
        "sourceDestCheck": (answer.source_dest_check, not record.source_dest_unchecked),
    }
    match name:
        case _ if name in texts:
            text, value = texts[name]
            text.SetInParent()
            if value:
                text.value = value
        case _ if name in truths:
            truth, holds = truths[name]
            truth.value = holds
        case "enclaveOptions":
            answer.enclave_options.enabled = False
        case "groupSet":
            answer.groups.extend(view.security_groups)
        case "blockDeviceMapping":
            answer.block_device_mappings.extend(view.block_device_mappings)
        case "productCodes":
            pass  # It has none: the list is empty.
        case "":
            raise InvalidArgument("The request must contain the parameter attribute", code="MissingParameter")
        case _:
            raise attribute_errors.unknown(name)


def _user_data(cloud: Cloud, record: record_pb2.InstanceRecord) -> str:
    if record.has_own_user_data:
        return base64.b64encode(record.user_data).decode()
    reservation = cloud.store.get(record_pb2.ReservationRecord, record.reservation_id)
    return base64.b64encode(reservation.record.user_data).decode() if reservation else ""


def not_stopped(record: record_pb2.InstanceRecord, name: str) -> WrongState:
    return WrongState(
        f"The instance '{record.instance_id}' is not in the 'stopped' state: its '{name}' cannot change.",
        code="IncorrectInstanceState",
    )
