"""The one network interface of a launch: EC2 takes it as members of the request, or whole in NetworkInterfaces. Pure.

(API reference: RunInstances, InstanceNetworkInterfaceSpecification.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from common.errors import InvalidArgument, NoCapacity, Unsupported
from mallee.ec2.v1 import instance_pb2 as ec2

MAX_DESCRIPTION: Final = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedInterface:
    """What stands for "not given" is empty."""

    subnet_id: str
    group_ids: tuple[str, ...]
    group_names: tuple[str, ...]
    private_ipv4: str
    # None: as the subnet has it.
    public: bool | None = None
    description: str = ""


def interface_of(request: ec2.RunInstancesRequest, instance_type: str) -> WantedInterface:
    """Raises InvalidArgument for contradictions, NoCapacity (AttachmentLimitExceeded) for a second interface."""
    given = request.network_interfaces
    if request.security_groups and request.subnet_id:
        raise InvalidArgument(
            "The parameter groupName cannot be used with the parameter subnet", code="InvalidParameterCombination"
        )
    if not given:
        return WantedInterface(
            subnet_id=request.subnet_id,
            group_ids=tuple(request.security_group_ids),
            group_names=tuple(request.security_groups),
            private_ipv4=request.private_ip_address,
        )
    _check_alone(request)
    if len(given) > 1:
        raise NoCapacity(
            f"Interface count {len(given)} exceeds the limit for {instance_type}", code="AttachmentLimitExceeded"
        )
    return _of(given[0])


def _of(given: ec2.InstanceNetworkInterfaceSpecification) -> WantedInterface:
    if not given.HasField("device_index"):
        raise InvalidArgument("Each network interface requires a device index.")
    if given.device_index:
        raise InvalidArgument("The primary network interface has device index 0", code="InvalidParameterCombination")
    if len(given.description) > MAX_DESCRIPTION:
        raise InvalidArgument(f"Description may have {MAX_DESCRIPTION} characters")
    return WantedInterface(
        subnet_id=given.subnet_id,
        group_ids=tuple(given.groups),
        group_names=(),
        private_ipv4=_private_ipv4(given),
        public=given.associate_public_ip_address if given.HasField("associate_public_ip_address") else None,
        description=given.description,
    )


def _private_ipv4(given: ec2.InstanceNetworkInterfaceSpecification) -> str:
    listed = given.private_ip_addresses
    if not listed:
        return given.private_ip_address
    if len(listed) > 1 or not listed[0].primary:
        raise Unsupported("PrivateIpAddresses is supported for one primary address; there are no secondary ones.")
    if given.private_ip_address:
        raise InvalidArgument(
            "The parameters PrivateIpAddress and PrivateIpAddresses cannot both name the primary address",
            code="InvalidParameterCombination",
        )
    if not listed[0].private_ip_address:
        raise InvalidArgument("The request must contain the parameter PrivateIpAddress", code="MissingParameter")
    return listed[0].private_ip_address


def _check_alone(request: ec2.RunInstancesRequest) -> None:
    for words, there in (
        ("subnet ID", bool(request.subnet_id)),
        ("security groups", bool(request.security_group_ids or request.security_groups)),
        ("private IP address", bool(request.private_ip_address)),
    ):
        if there:
            raise InvalidArgument(
                f"Network interfaces and an instance-level {words} may not be specified on the same request",
                code="InvalidParameterCombination",
            )
