"""AllocateAddress and ReleaseAddress: an elastic address is the account's until it lets it go."""

from __future__ import annotations

from common.errors import WrongState
from common.ids import AllocationId
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import address_pb2 as ec2
from services.clc.address.find import check_border_group, find_address
from services.clc.store import Changes, until_committed
from services.clc.tag import rules as tags
from services.clc.use_case import Call, Cloud, end_dry_run, use_case
from services.clc.vpc.addresses import claims_of_address


@use_case("ec2.AllocateAddress")
async def allocate_address(cloud: Cloud, call: Call, request: ec2.AllocateAddressRequest) -> ec2.AllocateAddressResult:
    check_border_group(request.network_border_group, cloud.config.region)
    given_tags = tags.from_specifications(request.tag_specifications, allowed=["elastic-ip"])["elastic-ip"]

    async def attempt() -> ec2.AllocateAddressResult:
        with (
            cloud.addresses.hold_slot(call.account_id, cloud.config.clc.addresses_per_account) as slot,
            cloud.addresses.hold_public(1, wanted=request.address) as (address,),
        ):
            end_dry_run(request)
            record = record_pb2.AddressRecord(
                allocation_id=AllocationId.new(),
                account_id=call.account_id,
                public_ipv4=address,
                tags=given_tags,
                slot=slot,
            )
            changes = Changes()
            changes.create(record)
            for claim in claims_of_address(record):
                changes.claim(claim, record.allocation_id)
            await cloud.store.commit(changes)
        return ec2.AllocateAddressResult(
            allocation_id=record.allocation_id,
            public_ip=address,
            public_ipv4_pool="amazon",
            network_border_group=cloud.config.region,
            domain="vpc",
        )

    return await until_committed(attempt)


@use_case("ec2.ReleaseAddress")
async def release_address(cloud: Cloud, call: Call, request: ec2.ReleaseAddressRequest) -> ec2.ReleaseAddressResponse:
    check_border_group(request.network_border_group, cloud.config.region)

    async def attempt() -> ec2.ReleaseAddressResponse:
        address = find_address(
            cloud.store, call.account_id, allocation_id=request.allocation_id, public_ip=request.public_ip
        )
        if address.record.association_id:
            raise WrongState(f"Address {address.record.public_ipv4} is in use.", code="InvalidIPAddress.InUse")
        end_dry_run(request)
        changes = Changes()
        changes.delete(address)
        for claim in claims_of_address(address.record):
            changes.release(claim)
        await cloud.store.commit(changes)
        return ec2.ReleaseAddressResponse()

    return await until_committed(attempt)
