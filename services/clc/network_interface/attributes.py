"""Describe- and ModifyNetworkInterfaceAttribute. (EC2 API reference, "ModifyNetworkInterfaceAttribute".)"""

from __future__ import annotations

from typing import Final

from common.errors import InvalidArgument, NotFound
from mallee.ec2.v1 import network_interface_pb2 as ec2
from services.clc import attribute as attribute_errors
from services.clc.instance.interface import MAX_DESCRIPTION
from services.clc.instance.modify import set_groups
from services.clc.network_interface.describe import having, view_of
from services.clc.store import Changes, until_committed
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

# Members of the request that carry an attribute → its name.
_MEMBERS: Final = {
    "description": "description",
    "source_dest_check": "sourceDestCheck",
    "attachment": "attachment",
}


@use_case("ec2.DescribeNetworkInterfaceAttribute")
async def describe_network_interface_attribute(
    cloud: Cloud, call: Call, request: ec2.DescribeNetworkInterfaceAttributeRequest
) -> ec2.DescribeNetworkInterfaceAttributeResult:
    view = view_of(cloud, having(cloud, call.account_id, request.network_interface_id))
    answer = ec2.DescribeNetworkInterfaceAttributeResult(network_interface_id=view.network_interface_id)
    match request.attribute:
        case "description":
            answer.description.value = view.description
        case "groupSet":
            answer.groups.extend(view.groups)
        case "sourceDestCheck":
            answer.source_dest_check.value = view.source_dest_check
        case "attachment":
            answer.attachment.CopyFrom(view.attachment)
        case "":
            raise attribute_errors.none_given()
        case given:
            raise attribute_errors.unknown(given)
    end_dry_run(request)
    return answer


@use_case("ec2.ModifyNetworkInterfaceAttribute")
async def modify_network_interface_attribute(
    cloud: Cloud, call: Call, request: ec2.ModifyNetworkInterfaceAttributeRequest
) -> ec2.ModifyNetworkInterfaceAttributeResponse:
    name = _given(request)

    async def attempt() -> ec2.ModifyNetworkInterfaceAttributeResponse:
        instance = having(cloud, call.account_id, request.network_interface_id)
        draft, changes = instance.draft(), Changes()
        match name:
            case "groupSet":
                set_groups(cloud, call, draft, request.groups, changes)
            case "description":
                draft.interface_description = request.description.value
            case "sourceDestCheck":
                draft.source_dest_unchecked = not request.source_dest_check.value
            case "attachment" if request.attachment.attachment_id != draft.attachment_id:
                given = request.attachment.attachment_id
                raise NotFound(f"The attachment '{given}' does not exist", code="InvalidAttachmentID.NotFound")
        end_dry_run(request)
        if draft != instance.record:
            changes.update(instance, draft)
        if changes:
            await cloud.store.commit(changes)
        return ec2.ModifyNetworkInterfaceAttributeResponse()

    return await until_committed(attempt)


def _given(request: ec2.ModifyNetworkInterfaceAttributeRequest) -> str:
    """The one attribute. Raises InvalidArgument for none or several."""
    given = [name for member, name in _MEMBERS.items() if request.HasField(member)]  # type: ignore[arg-type]
    if request.groups:
        given.append("groupSet")
    if not given:
        raise attribute_errors.none_given()
    if len(given) > 1:
        raise InvalidArgument(
            f"Fields for multiple attribute types specified: {', '.join(sorted(given))}",
            code="InvalidParameterCombination",
        )
    if given[0] in ("description", "sourceDestCheck") and not _has_value(request):
        raise InvalidArgument("The attribute value must be specified.", code="MissingParameter")
    if len(request.description.value) > MAX_DESCRIPTION:
        raise InvalidArgument(f"Description may have {MAX_DESCRIPTION} characters")
    return given[0]


def _has_value(request: ec2.ModifyNetworkInterfaceAttributeRequest) -> bool:
    return request.description.HasField("value") or request.source_dest_check.HasField("value")
