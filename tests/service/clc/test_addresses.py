"""Elastic addresses: the packets' plan follows them, and whatever ends lets them go."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from common.errors import CloudError
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import address_pb2, image_pb2, instance_pb2, security_group_pb2
from mallee.nc.v1 import instance_pb2 as nc
from services.clc.account.administration import find_account
from services.clc.account.delete import delete_account
from services.clc.store import Changes
from services.clc.vpc.addresses import public_claim
from tests.eventually import eventually
from tests.service.clc.stage import PlayedZone, Stage

pytestmark = pytest.mark.usefixtures("leader")


async def launched(stage: Stage, name: str = "machine", *, public: bool = True) -> tuple[str, PlayedZone]:
    """A running instance, and its zone."""
    image = image_pb2.RegisterImageRequest(name=name, image_location="bucket/machine")
    image_id = (await stage.run("RegisterImage", image)).image_id
    interface = instance_pb2.InstanceNetworkInterfaceSpecification(device_index=0, associate_public_ip_address=public)
    launch = instance_pb2.RunInstancesRequest(
        image_id=image_id, min_count=1, max_count=1, network_interfaces=[interface]
    )
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


async def disassociate(stage: Stage, association_id: str) -> None:
    await stage.run("DisassociateAddress", address_pb2.DisassociateAddressRequest(association_id=association_id))


def holders(stage: Stage) -> list[str | None]:
    """Of addresses of the pool."""
    store = stage.cloud.store
    return [store.holder(public_claim(address)) for address in store.claims("public/")]


def has_one_of_the_pool(stage: Stage, instance_id: str) -> bool:
    record = stage.instance(instance_id)
    claim = public_claim(record.interface.public_ipv4)
    return not record.allocation_id and stage.cloud.store.holder(claim) == instance_id


async def test_the_plan_follows_the_address(stage: Stage) -> None:
    one, zone = await launched(stage)
    before = stage.instance(one).interface.public_ipv4
    await eventually(lambda: zone.plans[-1].interfaces[0].public_ipv4 == before)
    address = await allocated(stage)
    association = await associate(stage, one, address.allocation_id)
    await eventually(lambda: zone.plans[-1].interfaces[0].public_ipv4 == address.public_ip)
    assert stage.cloud.store.holder(public_claim(before)) is None
    await disassociate(stage, association)
    again = stage.instance(one).interface.public_ipv4
    assert again not in ("", address.public_ip)
    await eventually(lambda: zone.plans[-1].interfaces[0].public_ipv4 == again)
    assert stage.cloud.store.holder(public_claim(again)) == one
    assert stage.cloud.store.holder(public_claim(address.public_ip)) == address.allocation_id


async def test_who_loses_an_address_to_another_gets_one_of_the_pool(stage: Stage) -> None:
    (one, _), (two, _) = await launched(stage, "machine"), await launched(stage, "model")
    address, other = await allocated(stage), await allocated(stage)
    await associate(stage, one, address.allocation_id)
    await associate(stage, two, address.allocation_id)
    assert has_one_of_the_pool(stage, one)
    assert stage.instance(two).interface.public_ipv4 == address.public_ip
    # An elastic address that takes another's place leaves nothing of the pool with the instance.
    association = await associate(stage, two, other.allocation_id)
    assert stage.instance(two).interface.public_ipv4 == other.public_ip
    assert two not in holders(stage)
    await disassociate(stage, association)
    assert has_one_of_the_pool(stage, two)
    ended = instance_pb2.TerminateInstancesRequest(instance_ids=[one, two])
    await stage.run("TerminateInstances", ended)
    await eventually(lambda: set(holders(stage)) == {address.allocation_id, other.allocation_id})


async def test_an_instance_launched_without_an_address_gets_none(stage: Stage) -> None:
    one, _ = await launched(stage, public=False)
    association = await associate(stage, one, (await allocated(stage)).allocation_id)
    await disassociate(stage, association)
    assert stage.instance(one).interface.public_ipv4 == ""


async def test_an_instance_that_is_ending_gets_none(stage: Stage) -> None:
    one, zone = await launched(stage)
    association = await associate(stage, one, (await allocated(stage)).allocation_id)
    # So that it does not come to its end meanwhile.
    zone.away = True
    stored = stage.cloud.store.get(record_pb2.InstanceRecord, one)
    assert stored is not None
    draft = stored.draft()
    draft.state = record_pb2.INSTANCE_STATE_SHUTTING_DOWN
    changes = Changes()
    changes.update(stored, draft)
    await stage.cloud.store.commit(changes)
    await disassociate(stage, association)
    assert one not in holders(stage)


async def test_an_empty_pool_keeps_nobody_from_letting_go(stage: Stage) -> None:
    one, _ = await launched(stage)
    address = await allocated(stage)
    association = await associate(stage, one, address.allocation_id)
    _, free = stage.cloud.addresses.public_total_and_free()
    with stage.cloud.addresses.hold_public(free):
        await disassociate(stage, association)
    assert stage.instance(one).interface.public_ipv4 == ""
    # What it is due is not forgotten.
    await disassociate(stage, await associate(stage, one, address.allocation_id))
    assert has_one_of_the_pool(stage, one)


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
