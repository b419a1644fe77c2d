"""AssociateAddress and DisassociateAddress: the network plan follows the instance's record, and packets the plan."""

from __future__ import annotations

from common.errors import AlreadyExists, InvalidArgument, NotFound, WrongState
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import address_pb2 as ec2
from services.clc.address.association import hold_instead, join, leave
from services.clc.address.find import Address, by_public_ip_to_use, find_address
from services.clc.instance import rules
from services.clc.lookup import INSTANCE, own
from services.clc.network_interface.describe import having
from services.clc.store import Changes, Stored, until_committed
from services.clc.use_case import Call, Cloud, end_dry_run, use_case


@use_case("ec2.AssociateAddress")
async def associate_address(
    cloud: Cloud, call: Call, request: ec2.AssociateAddressRequest
) -> ec2.AssociateAddressResult:
    async def attempt() -> ec2.AssociateAddressResult:
        address = find_address(
            cloud.store, call.account_id, allocation_id=request.allocation_id, public_ip=request.public_ip
        )
        instance = _target(cloud, call, request)
        if address.record.instance_id == instance.record.instance_id:
            end_dry_run(request)
            return ec2.AssociateAddressResult(association_id=address.record.association_id)
        moves = request.allow_reassociation or not request.HasField("allow_reassociation")
        if address.record.association_id and not moves:
            raise AlreadyExists(
                f"resource {address.record.allocation_id} is already associated with associate-id"
                f" {address.record.association_id}",
                code="Resource.AlreadyAssociated",
            )
        end_dry_run(request)
        changes = Changes()
        with hold_instead(cloud.store, cloud.addresses, address) as instead:
            association_id = join(cloud.store, changes, address, instance, instead=instead)
            await cloud.store.commit(changes)
        return ec2.AssociateAddressResult(association_id=association_id)

    return await until_committed(attempt)


@use_case("ec2.DisassociateAddress")
async def disassociate_address(
    cloud: Cloud, call: Call, request: ec2.DisassociateAddressRequest
) -> ec2.DisassociateAddressResponse:
    async def attempt() -> ec2.DisassociateAddressResponse:
        address = _associated(cloud, call, request)
        end_dry_run(request)
        if address.record.association_id:
            changes = Changes()
            draft = address.draft()
            draft.instance_id = draft.association_id = ""
            changes.update(address, draft)
            with hold_instead(cloud.store, cloud.addresses, address) as instead:
                leave(cloud.store, changes, address, instead=instead)
                await cloud.store.commit(changes)
        return ec2.DisassociateAddressResponse()

    return await until_committed(attempt)


def _target(cloud: Cloud, call: Call, request: ec2.AssociateAddressRequest) -> Stored[record_pb2.InstanceRecord]:
    """The instance that is named, or whose interface is."""
    if request.instance_id and request.network_interface_id:
        raise InvalidArgument(
            "You may specify instance id or network interface id, but not both", code="InvalidParameterCombination"
        )
    if request.instance_id:
        instance = own(cloud.store, INSTANCE, call.account_id, request.instance_id)
    elif request.network_interface_id:
        instance = having(cloud, call.account_id, request.network_interface_id)
    else:
        raise InvalidArgument("Either instance id or network interface id must be specified", code="MissingParameter")
    record = instance.record
    if record.state != rules.RUNNING:
        state, _ = rules.SHOWN[record.state]
        raise WrongState(
            f"The {state} instance '{record.instance_id}' is not in a valid state for this operation.",
            code="InvalidInstanceID",
        )
    if request.private_ip_address not in ("", record.interface.private_ipv4):
        raise InvalidArgument(
            f"The private IP address '{request.private_ip_address}' is not assigned to {record.interface.interface_id}"
        )
    return instance


def _associated(cloud: Cloud, call: Call, request: ec2.DisassociateAddressRequest) -> Address:
    given, public_ip = request.association_id, request.public_ip
    if given and public_ip:
        raise InvalidArgument(
            "You may specify public IP or association id, but not both in the same call",
            code="InvalidParameterCombination",
        )
    if public_ip:
        return by_public_ip_to_use(cloud.store, call.account_id, public_ip)
    if not given:
        raise InvalidArgument("Either public IP or association id must be specified", code="MissingParameter")
    for address in cloud.store.owned(record_pb2.AddressRecord, call.account_id):
        if address.record.association_id == given:
            return address
    raise NotFound(f"The association ID '{given}' does not exist", code="InvalidAssociationID.NotFound")
