"""Each action on elastic addresses, with every member set that goes together."""

from __future__ import annotations

from typing import Any

from mallee.ec2.v1 import address_pb2
from tests.service.clc.making import Make, boot, constantly, of, reads, running, tagged
from tests.service.clc.stage import Stage


async def address(stage: Stage) -> str:
    return str((await stage.run("AllocateAddress", address_pb2.AllocateAddressRequest())).allocation_id)


async def booted(stage: Stage) -> str:
    instance_id = await running(stage)
    await boot(stage, instance_id)
    return instance_id


async def associate(stage: Stage) -> Any:
    instance_id = await booted(stage)
    shown = stage.instance(instance_id)
    return address_pb2.AssociateAddressRequest(
        allocation_id=await address(stage),
        network_interface_id=shown.interface.interface_id,
        private_ip_address=shown.interface.private_ipv4,
        allow_reassociation=False,
    )


async def association(stage: Stage) -> str:
    return str((await stage.run("AssociateAddress", await associate(stage))).association_id)


ADDRESSES: dict[str, Make] = {
    "AllocateAddress": constantly(
        address_pb2.AllocateAddressRequest(
            domain="vpc",
            address="198.51.100.77",
            public_ipv4_pool="amazon",
            network_border_group="us-east-1",
            tag_specifications=tagged("elastic-ip"),
        )
    ),
    "AssociateAddress": associate,
    "DisassociateAddress": of(association, address_pb2.DisassociateAddressRequest(), "association_id"),
    "ReleaseAddress": of(address, address_pb2.ReleaseAddressRequest(network_border_group="us-east-1"), "allocation_id"),
    "DescribeAddresses": reads(address_pb2.DescribeAddressesRequest(), public_ip="*"),
    "DescribeAddressesAttribute": of(
        address, address_pb2.DescribeAddressesAttributeRequest(attribute="domain-name"), "allocation_ids"
    ),
}
