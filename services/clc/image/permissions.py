"""Describe-, Modify- and ResetImageAttribute: who may run an image, and its description."""

from __future__ import annotations

from typing import Final

from common.errors import InvalidArgument, Unsupported
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import image_pb2 as ec2
from services.clc import attribute as attribute_errors
from services.clc.image.describe import mapping_view
from services.clc.image.use_cases import own_image
from services.clc.sharing import asked_changes, share
from services.clc.snapshot.create import check_description
from services.clc.store import Changes, until_committed
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

_MODIFIABLE: Final = frozenset({"description", "launchPermission"})
_FIXED: Final = frozenset({"kernel", "ramdisk", "productCodes", "blockDeviceMapping"})
_ATTRIBUTES: Final = (
    _MODIFIABLE
    | _FIXED
    | {"sriovNetSupport", "bootMode", "deregistrationProtection"}
    | {"imdsSupport", "tpmSupport", "uefiData", "lastLaunchedTime"}
)


@use_case("ec2.ModifyImageAttribute")
async def modify_image_attribute(
    cloud: Cloud, call: Call, request: ec2.ModifyImageAttributeRequest
) -> ec2.ModifyImageAttributeResponse:
    attribute = _attribute(request)

    async def attempt() -> ec2.ModifyImageAttributeResponse:
        image = own_image(cloud.store, call.account_id, request.image_id)
        draft = image.draft()
        if attribute == "description":
            draft.description = request.description.value or request.value
            check_description(draft.description)
        else:
            _share(draft, request)
        end_dry_run(request)
        if draft != image.record:
            changes = Changes()
            changes.update(image, draft)
            await cloud.store.commit(changes)
        return ec2.ModifyImageAttributeResponse()

    return await until_committed(attempt)


@use_case("ec2.DescribeImageAttribute")
async def describe_image_attribute(
    cloud: Cloud, call: Call, request: ec2.DescribeImageAttributeRequest
) -> ec2.ImageAttribute:
    if request.attribute not in _ATTRIBUTES:
        raise _unknown_attribute(request.attribute)
    image = own_image(cloud.store, call.account_id, request.image_id).record
    end_dry_run(request)
    answer = ec2.ImageAttribute(image_id=image.image_id)
    match request.attribute:
        case "description":
            _show(answer.description, image.description)
        case "kernel":
            _show(answer.kernel_id, image.kernel_id)
        case "ramdisk":
            _show(answer.ramdisk_id, image.ramdisk_id)
        case "sriovNetSupport":
            _show(answer.sriov_net_support, image.sriov_net_support)
        case "bootMode":
            _show(answer.boot_mode, "legacy-bios")
        case "deregistrationProtection":
            _show(answer.deregistration_protection, "disabled")
        case "launchPermission":
            answer.launch_permissions.extend(ec2.LaunchPermission(user_id=user) for user in image.launch_account_ids)
            if image.public:
                answer.launch_permissions.add(group="all")
        case "blockDeviceMapping":
            answer.block_device_mappings.extend(mapping_view(device) for device in image.block_devices)
        case "productCodes":
            pass  # An image has none: the list is empty.
        case _:
            raise Unsupported(f"The attribute '{request.attribute}' is not supported.")
    return answer


@use_case("ec2.ResetImageAttribute")
async def reset_image_attribute(
    cloud: Cloud, call: Call, request: ec2.ResetImageAttributeRequest
) -> ec2.ResetImageAttributeResponse:
    if request.attribute != "launchPermission":
        raise _unknown_attribute(request.attribute)

    async def attempt() -> ec2.ResetImageAttributeResponse:
        image = own_image(cloud.store, call.account_id, request.image_id)
        draft = image.draft()
        draft.public = False
        draft.launch_account_ids.clear()
        end_dry_run(request)
        if draft != image.record:
            changes = Changes()
            changes.update(image, draft)
            await cloud.store.commit(changes)
        return ec2.ResetImageAttributeResponse()

    return await until_committed(attempt)


def _show(attribute: ec2.AttributeValue, value: str) -> None:
    """One that has no value is an empty element."""
    attribute.SetInParent()
    if value:
        attribute.value = value


def _attribute(request: ec2.ModifyImageAttributeRequest) -> str:
    """launchPermission or description: named, or told by the members that are set, one at a time, with what to do."""
    given: set[str] = set()
    if request.HasField("launch_permission"):
        given.add("launchPermission")
    if request.HasField("description"):
        given.add("description")
    # Beside an attribute's own member EC2 reads a name only where it knows it: clients send "Description" there.
    if request.attribute in _MODIFIABLE or (request.attribute and not given):
        given.add(request.attribute)
    if request.operation_type or request.user_ids or request.user_groups:
        given.add("launchPermission")
    if len(given) > 1 or (request.HasField("value") and given == {"launchPermission"}):
        raise InvalidArgument(
            f"Fields for multiple attribute types specified: {', '.join(sorted(given))}",
            code="InvalidParameterCombination",
        )
    attribute = given.pop() if given else ""
    if attribute in _FIXED:
        raise InvalidArgument(f"Parameter {attribute} is invalid. It cannot be modified.", code="InvalidParameter")
    if attribute not in _MODIFIABLE:
        raise attribute_errors.none_given()
    if attribute == "description" and not (request.description.value or request.value):
        raise InvalidArgument("The request must contain the parameter description", code="MissingParameter")
    if attribute == "launchPermission" and not (request.HasField("launch_permission") or request.operation_type):
        raise InvalidArgument(
            "No operation specified for launchPermission attribute.", code="InvalidParameterCombination"
        )
    return attribute


def _unknown_attribute(given: str) -> InvalidArgument:
    if not given:
        return InvalidArgument("The request must contain the parameter attribute", code="MissingParameter")
    return InvalidArgument("The request received was invalid.", code="InvalidRequest")


def _share(image: record_pb2.ImageRecord, request: ec2.ModifyImageAttributeRequest) -> None:
    flat = [ec2.LaunchPermission(user_id=user) for user in request.user_ids]
    flat += [ec2.LaunchPermission(group=group) for group in request.user_groups]
    structure = request.launch_permission if request.HasField("launch_permission") else None
    added, removed = asked_changes("launchPermission", structure, flat, request.operation_type)
    share(image, image.launch_account_ids, added=added, removed=removed, malformed=_malformed)


def _malformed(given: str) -> InvalidArgument:
    return InvalidArgument(
        f"Invalid attribute item value '{given}' for item 'launchPermission'", code="InvalidAMIAttributeItemValue"
    )
