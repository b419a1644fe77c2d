"""Elastic addresses: the packets' plan follows them, and whatever ends lets them go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from common.errors import CloudError
from common.etcd.election import Leadership
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import address_pb2, image_pb2, instance_pb2, security_group_pb2
from mallee.nc.v1 import instance_pb2 as nc
from services.clc.account.administration import find_account
from services.clc.account.delete import delete_account
from services.clc.reconcile import Leader
from services.clc.vpc.addresses import public_claim
from tests.eventually import eventually
from tests.service.clc.stage import PlayedZone, Stage


@pytest.fixture(autouse=True)
async def leader(stage: Stage) -> AsyncIterator[None]:
    task = asyncio.ensure_future(Leader(stage.cloud, b"t" * 32).lead(Leadership("/key", 1, asyncio.Event())))
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def launched(stage: Stage) -> tuple[str, PlayedZone]:
    """A running instance, and its zone."""
    image = image_pb2.RegisterImageRequest(name="machine", image_location="bucket/machine")
    image_id = (await stage.run("RegisterImage", image)).image_id
    launch = instance_pb2.RunInstancesRequest(image_id=image_id, min_count=1, max_count=1)
    one = str((await stage.run("RunInstances", launch)).instances[0].instance_id)
    zone = stage.zones[stage.instance(one).zone]
    await eventually(lambda: bool(stage.instance(one).node))
    zone.says(one, nc.VM_STATE_RUNNING)
    await eventually(lambda: stage.instance(one).state == record_pb2.INSTANCE_STATE_RUNNING)
    return one, zone


async def allocated(stage: Stage, **given: Any) -> Any:
    return await stage.run("AllocateAddress", address_pb2.AllocateAddressRequest(**given))


async def associate(stage: Stage, instance_id: str, allocation_id: str) -> str:
    request = address_pb2.AssociateAddressRequest(allocation_id=allocation_id, instance_id=instance_id)
    return str((await stage.run("AssociateAddress", request)).association_id)


async def test_the_plan_follows_the_address(stage: Stage) -> None:
    one, zone = await launched(stage)
    before = stage.instance(one).interface.public_ipv4
    await eventually(lambda: zone.plans[-1].interfaces[0].public_ipv4 == before)
    address = await allocated(stage)
    association = await associate(stage, one, address.allocation_id)
    await eventually(lambda: zone.plans[-1].interfaces[0].public_ipv4 == address.public_ip)
    assert stage.cloud.store.holder(public_claim(before)) is None
    await stage.run("DisassociateAddress", address_pb2.DisassociateAddressRequest(association_id=association))
    await eventually(lambda: zone.plans[-1].interfaces[0].public_ipv4 == "")
    assert stage.cloud.store.holder(public_claim(address.public_ip)) == address.allocation_id


async def test_an_instance_that_ends_lets_go_of_its_address(stage: Stage) -> None:
    one, _ = await launched(stage)
    address = await allocated(stage)
    await associate(stage, one, address.allocation_id)
    await stage.run("TerminateInstances", instance_pb2.TerminateInstancesRequest(instance_ids=[one]))
    await eventually(lambda: stage.instance(one).state == record_pb2.INSTANCE_STATE_TERMINATED)
    (shown,) = (await stage.run("DescribeAddresses", address_pb2.DescribeAddressesRequest())).addresses
    assert (shown.public_ip, shown.association_id, shown.instance_id) == (address.public_ip, "", "")
    assert stage.cloud.store.holder(public_claim(address.public_ip)) == address.allocation_id


async def test_only_a_running_instance_takes_an_address(stage: Stage) -> None:
    one, _ = await launched(stage)
    address = await allocated(stage)
    await stage.run("TerminateInstances", instance_pb2.TerminateInstancesRequest(instance_ids=[one]))
    with pytest.raises(CloudError) as caught:
        await associate(stage, one, address.allocation_id)
    assert caught.value.code == "InvalidInstanceID"


async def test_two_clients_never_get_the_same_address(stage: Stage) -> None:
    made = await asyncio.gather(*(allocated(stage) for _ in range(10)))
    assert len({address.public_ip for address in made}) == 10
    outcomes = await asyncio.gather(
        *(allocated(stage, address="198.51.100.200") for _ in range(3)), return_exceptions=True
    )
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1


async def test_no_number_of_requests_at_once_gets_past_the_limit(stage: Stage) -> None:
    limit = stage.cloud.config.clc.addresses_per_account

    async def all_at_once() -> list[Any]:
        outcomes = await asyncio.gather(*(allocated(stage) for _ in range(limit + 5)), return_exceptions=True)
        refused = [outcome.code for outcome in outcomes if isinstance(outcome, CloudError)]
        assert refused == ["AddressLimitExceeded"] * len(refused)
        return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]

    made = await all_at_once()
    assert len(made) == limit
    for address in made[:3]:
        await stage.run("ReleaseAddress", address_pb2.ReleaseAddressRequest(allocation_id=address.allocation_id))
    assert len(await all_at_once()) == 3


async def test_an_account_that_goes_gives_its_addresses_back(stage: Stage) -> None:
    bobs = stage.of_the_other()
    one, _ = await launched(bobs)
    address = await allocated(bobs)
    await associate(bobs, one, address.allocation_id)
    account = find_account(stage.cloud.store, "bob")
    await delete_account(stage.cloud, account, force=True)
    await eventually(lambda: stage.cloud.store.get(record_pb2.AccountRecord, account.record.account_id) is None)
    assert list(stage.cloud.store.claims("public/")) == []
    assert list(stage.cloud.store.claims("address-slot/")) == []


async def test_other_groups_are_in_the_plan(stage: Stage) -> None:
    one, zone = await launched(stage)
    group = security_group_pb2.CreateSecurityGroupRequest(group_name="web", description="web")
    web = (await stage.run("CreateSecurityGroup", group)).group_id
    await stage.run(
        "ModifyInstanceAttribute", instance_pb2.ModifyInstanceAttributeRequest(instance_id=one, groups=[web])
    )
    await eventually(lambda: list(zone.plans[-1].interfaces[0].group_ids) == [web])
