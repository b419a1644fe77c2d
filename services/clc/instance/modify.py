"""ModifyInstanceAttribute. (EC2 API reference, "ModifyInstanceAttribute".)"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Final

from common.errors import InvalidArgument, Unsupported, WrongState
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import instance_pb2 as ec2
from services.clc import attribute as attribute_errors
from services.clc.image.use_cases import launchable
from services.clc.instance import rules
from services.clc.instance.attributes import WHILE_STOPPED, not_stopped
from services.clc.instance.request import MAX_USER_DATA_BYTES, fill_spaces, shape_of
from services.clc.lookup import INSTANCE, SECURITY_GROUP, own, own_all
from services.clc.security_group.groups import check_together, name_groups
from services.clc.store import Changes, until_committed
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

# Members of the request that carry an attribute → its name.
_MEMBERS: Final = {
    "disable_api_stop": "disableApiStop",
    "disable_api_termination": "disableApiTermination",
    "ebs_optimized": "ebsOptimized",
    "ena_support": "enaSupport",
    "instance_initiated_shutdown_behavior": "instanceInitiatedShutdownBehavior",
    "instance_type": "instanceType",
    "kernel": "kernel",
    "ramdisk": "ramdisk",
    "source_dest_check": "sourceDestCheck",
    "sriov_net_support": "sriovNetSupport",
    "user_data": "userData",
}


@use_case("ec2.ModifyInstanceAttribute")
async def modify_instance_attribute(
    cloud: Cloud, call: Call, request: ec2.ModifyInstanceAttributeRequest
) -> ec2.ModifyInstanceAttributeResponse:
    name, value = _given(request)

    async def attempt() -> ec2.ModifyInstanceAttributeResponse:
        instance = own(cloud.store, INSTANCE, call.account_id, request.instance_id)
        draft, changes = instance.draft(), Changes()
        if name in WHILE_STOPPED:
            _set_stopped(cloud, call, draft, name, value)
        match name:
            case _ if name in WHILE_STOPPED:
                pass
            case "blockDeviceMapping":
                _set_devices(cloud, instance.record, request, changes)
            case "groupSet":
                set_groups(cloud, call, draft, request.groups, changes)
            case "disableApiTermination":
                draft.disable_api_termination = _truth(name, value)
            case "instanceInitiatedShutdownBehavior":
                draft.shutdown_behavior = _shutdown_behavior(value, draft)
            case "sourceDestCheck":
                draft.source_dest_unchecked = not _truth(name, value)
            case "disableApiStop":
                draft.disable_api_stop = _truth(name, value)
                if draft.disable_api_stop and draft.root_device_type != rules.EBS:
                    raise Unsupported("DisableApiStop 'true' is not supported: the instance cannot be stopped.")
            case _:
                raise _unknown(name)
        end_dry_run(request)
        if draft != instance.record:
            changes.update(instance, draft)
        if changes:
            await cloud.store.commit(changes)
        return ec2.ModifyInstanceAttributeResponse()

    return await until_committed(attempt)


def _given(request: ec2.ModifyInstanceAttributeRequest) -> tuple[str, str | bytes | bool]:
    """The one attribute, by its own member or by name and value. Raises InvalidArgument for none or several."""
    given: dict[str, str | bytes | bool] = {
        name: getattr(request, member).value
        for member, name in _MEMBERS.items()
        if request.HasField(member)  # type: ignore[arg-type]
    }
    if request.groups:
        given["groupSet"] = ""
    if request.block_device_mappings:
        given["blockDeviceMapping"] = ""
    if request.attribute and (request.HasField("value") or request.attribute not in given):
        if request.attribute in given or request.attribute in ("groupSet", "blockDeviceMapping"):
            raise InvalidArgument(
                f"The attribute '{request.attribute}' is given by its own parameter", code="InvalidParameterCombination"
            )
        if not request.HasField("value"):
            if request.attribute not in _MEMBERS.values():
                raise _unknown(request.attribute)
            raise InvalidArgument("The request must contain the parameter value", code="MissingParameter")
        given[request.attribute] = request.value
    if not given:
        raise attribute_errors.none_given()
    if len(given) > 1:
        raise InvalidArgument(
            f"Fields for multiple attribute types specified: {', '.join(sorted(given))}",
            code="InvalidParameterCombination",
        )
    return next(iter(given.items()))


def _unknown(attribute: str) -> InvalidArgument:
    return attribute_errors.unknown(attribute)


def set_groups(
    cloud: Cloud, call: Call, draft: record_pb2.InstanceRecord, group_ids: Sequence[str], changes: Changes
) -> None:
    """These groups are its own, and no others. Raises WrongState for an instance that goes or is gone."""
    if draft.state not in (rules.PENDING, rules.RUNNING, rules.STOPPING, rules.STOPPED):
        raise WrongState(
            f"The instance '{draft.instance_id}' is not in a state in which its security groups can change.",
            code="IncorrectInstanceState",
        )
    groups = own_all(cloud.store, SECURITY_GROUP, call.account_id, group_ids)
    check_together(groups, draft.interface.vpc_id)
    name_groups(changes, groups)
    del draft.interface.security_group_ids[:]
    draft.interface.security_group_ids.extend(group.record.group_id for group in groups)


def _set_stopped(
    cloud: Cloud, call: Call, draft: record_pb2.InstanceRecord, name: str, value: str | bytes | bool
) -> None:
    """What the instance finds at its next start."""
    if draft.state != rules.STOPPED:
        raise not_stopped(draft, name)
    match name:
        case "instanceType":
            kind = next((kind for kind in cloud.config.instance_types if kind.name == value), None)
            if kind is None:
                raise InvalidArgument(
                    f"The instance type '{_text(value)}' is invalid: see DescribeInstanceTypes",
                    code="InvalidInstanceAttributeValue",
                )
            draft.shape.CopyFrom(shape_of(kind))
            fill_spaces(draft.ephemeral, draft.shape)
        case "userData":
            draft.user_data, draft.has_own_user_data = _blob(value), True
        case "kernel" | "ramdisk":
            image_id = _text(value)
            if image_id:
                launchable(cloud.store, call.account_id, image_id, name)
            setattr(draft, f"{name}_id", image_id)
            if draft.ramdisk_id and not draft.kernel_id:
                raise InvalidArgument("A ramdisk needs a kernel.", code="InvalidParameterCombination")
        case "ebsOptimized" | "enaSupport":
            if _truth(name, value):
                raise Unsupported(f"{name} 'true' is not supported: no instance type here has it.")
        case _:
            raise Unsupported(f"The attribute {name} is not supported: no instance type here has it.")


def _set_devices(
    cloud: Cloud, record: record_pb2.InstanceRecord, request: ec2.ModifyInstanceAttributeRequest, changes: Changes
) -> None:
    """Whether its volumes go with it. They are named by their devices."""
    volumes = {volume.record.attachment.device_name: volume for volume in cloud.attached.of(record.instance_id)}
    for device in request.block_device_mappings:
        volume = volumes.pop(device.device_name, None)
        if volume is None or device.ebs.volume_id not in ("", volume.record.volume_id):
            raise InvalidArgument(
                f"No device is currently mapped at {device.device_name or 'no name'}",
                code="InvalidInstanceAttributeValue",
            )
        new = volume.draft()
        if device.ebs.HasField("delete_on_termination"):
            new.attachment.delete_on_termination = device.ebs.delete_on_termination
        if new != volume.record:
            changes.update(volume, new)


def _text(value: str | bytes | bool) -> str:
    return value if isinstance(value, str) else ""


def _blob(value: str | bytes | bool) -> bytes:
    """In a member of its own it is decoded by now; as the value of a named attribute it is not."""
    raw = value if isinstance(value, bytes) else b""
    if isinstance(value, str):
        try:
            raw = base64.b64decode(value, validate=True)
        except ValueError:
            raise InvalidArgument("Invalid BASE64 encoding of user data.", code="InvalidUserData.Malformed") from None
    if len(raw) > MAX_USER_DATA_BYTES:
        raise InvalidArgument("User data is limited to 16384 bytes")
    return raw


def _truth(name: str, value: str | bytes | bool) -> bool:
    match value:
        case bool():
            return value
        case "true" | "True":
            return True
        case "false" | "False":
            return False
    raise InvalidArgument(f"Value ({value!r}) for parameter {name} is invalid: true or false")


def _shutdown_behavior(value: str | bytes | bool, record: record_pb2.InstanceRecord) -> str:
    match value:
        case "terminate":
            return "terminate"
        case "stop" if record.root_device_type == rules.EBS:
            return "stop"
        case "stop":
            raise Unsupported(
                "The instanceInitiatedShutdownBehavior 'stop' is not supported for instances whose root device is"
                " instance-store; use 'terminate'."
            )
    raise InvalidArgument(
        f"Value ({value!r}) for parameter InstanceInitiatedShutdownBehavior is invalid: stop or terminate"
    )
