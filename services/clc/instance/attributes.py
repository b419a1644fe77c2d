"""Describe-, Modify- and ResetInstanceAttribute. (EC2 API reference, "ModifyInstanceAttribute".)"""

from __future__ import annotations

import base64
from typing import Final

from common.errors import InvalidArgument, Unsupported, WrongState
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import image_pb2
from mallee.ec2.v1 import instance_pb2 as ec2
from services.clc.instance import rules
from services.clc.instance.describe import views_of
from services.clc.lookup import INSTANCE, SECURITY_GROUP, own, own_all
from services.clc.security_group.groups import check_together, group_use
from services.clc.store import Changes, Stored, until_committed
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

Instance = Stored[record_pb2.InstanceRecord]

# What is fixed while an instance runs.
_WHILE_STOPPED: Final = frozenset(
    {"instanceType", "userData", "kernel", "ramdisk", "ebsOptimized", "sriovNetSupport", "enaSupport"}
)
_RESETTABLE: Final = frozenset({"kernel", "ramdisk", "sourceDestCheck"})
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


@use_case("ec2.DescribeInstanceAttribute")
async def describe_instance_attribute(
    cloud: Cloud, call: Call, request: ec2.DescribeInstanceAttributeRequest
) -> ec2.InstanceAttribute:
    instance = own(cloud.store, INSTANCE, call.account_id, request.instance_id)
    answer = ec2.InstanceAttribute(instance_id=instance.record.instance_id)
    _show(cloud, instance, request.attribute, answer)
    end_dry_run(request)
    return answer


@use_case("ec2.ModifyInstanceAttribute")
async def modify_instance_attribute(
    cloud: Cloud, call: Call, request: ec2.ModifyInstanceAttributeRequest
) -> ec2.ModifyInstanceAttributeResponse:
    name, value = _given(request)

    async def attempt() -> ec2.ModifyInstanceAttributeResponse:
        instance = own(cloud.store, INSTANCE, call.account_id, request.instance_id)
        draft, changes = instance.draft(), Changes()
        if name in _WHILE_STOPPED:
            raise _not_stopped(instance.record, name)
        match name:
            case "groupSet":
                _set_groups(cloud, call, draft, request, changes)
            case "disableApiTermination":
                draft.disable_api_termination = _truth(name, value)
            case "instanceInitiatedShutdownBehavior":
                draft.shutdown_behavior = _shutdown_behavior(value)
            case "sourceDestCheck":
                if not _truth(name, value):
                    raise Unsupported("SourceDestCheck 'false' is not supported: instances cannot forward packets.")
            case "disableApiStop":
                if _truth(name, value):
                    raise Unsupported("DisableApiStop 'true' is not supported: no instance here can be stopped.")
            case _:
                raise InvalidArgument(f"Value ({name}) for parameter attribute is invalid. Unknown attribute.")
        end_dry_run(request)
        if draft != instance.record:
            changes.update(instance, draft)
            await cloud.store.commit(changes)
        return ec2.ModifyInstanceAttributeResponse()

    return await until_committed(attempt)


@use_case("ec2.ResetInstanceAttribute")
async def reset_instance_attribute(
    cloud: Cloud, call: Call, request: ec2.ResetInstanceAttributeRequest
) -> ec2.ResetInstanceAttributeResponse:
    instance = own(cloud.store, INSTANCE, call.account_id, request.instance_id)
    if request.attribute not in _RESETTABLE:
        raise InvalidArgument(
            f"Value ({request.attribute}) for parameter attribute is invalid: {', '.join(sorted(_RESETTABLE))}"
        )
    if request.attribute in _WHILE_STOPPED:
        raise _not_stopped(instance.record, request.attribute)
    end_dry_run(request)
    # The source and destination of packets are always checked: that is what it is reset to.
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
        "disableApiStop": (answer.disable_api_stop, False),
        "ebsOptimized": (answer.ebs_optimized, view.ebs_optimized),
        "enaSupport": (answer.ena_support, view.ena_support),
        "sourceDestCheck": (answer.source_dest_check, True),
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
        case "blockDeviceMapping" | "productCodes":
            pass  # It has none: the lists are empty.
        case "":
            raise InvalidArgument("The request must contain the parameter attribute", code="MissingParameter")
        case _:
            raise InvalidArgument(f"Value ({name}) for parameter attribute is invalid. Unknown attribute.")


def _user_data(cloud: Cloud, record: record_pb2.InstanceRecord) -> str:
    reservation = cloud.store.get(record_pb2.ReservationRecord, record.reservation_id)
    return base64.b64encode(reservation.record.user_data).decode() if reservation else ""


def _given(request: ec2.ModifyInstanceAttributeRequest) -> tuple[str, str | bytes | bool]:
    """The one attribute, by its own member or by name and value. Raises InvalidArgument for none or several."""
    given: dict[str, str | bytes | bool] = {
        name: getattr(request, member).value
        for member, name in _MEMBERS.items()
        if request.HasField(member)  # type: ignore[arg-type]
    }
    if request.groups:
        given["groupSet"] = ""
    if request.attribute and (request.HasField("value") or request.attribute not in given):
        if request.attribute in given or request.attribute == "groupSet":
            raise InvalidArgument(
                f"The attribute '{request.attribute}' is given by its own parameter", code="InvalidParameterCombination"
            )
        given[request.attribute] = request.value
    if not given:
        raise InvalidArgument("No attributes specified.", code="InvalidParameterCombination")
    if len(given) > 1:
        raise InvalidArgument(
            f"Fields for multiple attribute types specified: {', '.join(sorted(given))}",
            code="InvalidParameterCombination",
        )
    return next(iter(given.items()))


def _set_groups(
    cloud: Cloud,
    call: Call,
    draft: record_pb2.InstanceRecord,
    request: ec2.ModifyInstanceAttributeRequest,
    changes: Changes,
) -> None:
    if draft.state not in (rules.PENDING, rules.RUNNING):
        raise WrongState(
            f"The instance '{draft.instance_id}' is not in a state in which its security groups can change.",
            code="IncorrectInstanceState",
        )
    groups = own_all(cloud.store, SECURITY_GROUP, call.account_id, request.groups)
    check_together(groups, draft.interface.vpc_id)
    for group in groups:
        changes.require(group)
    changes.bump(group_use(draft.interface.vpc_id))
    del draft.interface.security_group_ids[:]
    draft.interface.security_group_ids.extend(group.record.group_id for group in groups)


def _truth(name: str, value: str | bytes | bool) -> bool:
    match value:
        case bool():
            return value
        case "true" | "True":
            return True
        case "false" | "False":
            return False
    raise InvalidArgument(f"Value ({value!r}) for parameter {name} is invalid: true or false")


def _shutdown_behavior(value: str | bytes | bool) -> str:
    match value:
        case "terminate":
            return "terminate"
        case "stop":
            raise Unsupported(
                "The instanceInitiatedShutdownBehavior 'stop' is not supported for instances whose root device is"
                " instance-store; use 'terminate'."
            )
    raise InvalidArgument(
        f"Value ({value!r}) for parameter InstanceInitiatedShutdownBehavior is invalid: stop or terminate"
    )


def _not_stopped(record: record_pb2.InstanceRecord, name: str) -> WrongState:
    return WrongState(
        f"The instance '{record.instance_id}' is not in the 'stopped' state: its '{name}' cannot change.",
        code="IncorrectInstanceState",
    )
