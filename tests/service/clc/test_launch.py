"""RunInstances and what follows: admission, tokens, addresses, the reconciler, the end."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from common.errors import CloudError, InvalidArgument, NoCapacity, Unavailable
from common.etcd.election import Leadership
from common.patience import ROOM_PATIENCE_S
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import account_attribute_pb2, image_pb2, instance_pb2
from mallee.nc.v1 import instance_pb2 as nc
from services.clc.account.administration import find_account
from services.clc.account.delete import delete_account
from services.clc.image.reconcile import ImageReconciler
from services.clc.reconcile import Leader
from tests.eventually import eventually
from tests.service.clc.stage import Stage

ZONE = "us-east-1a"


def launch(image: str, count: int = 1, *, minimum: int = 0, **more: Any) -> instance_pb2.RunInstancesRequest:
    more.setdefault("placement", instance_pb2.Placement(availability_zone=ZONE))
    return instance_pb2.RunInstancesRequest(image_id=image, min_count=minimum or count, max_count=count, **more)


async def states(stage: Stage, *ids: str) -> list[str]:
    answer = await stage.run("DescribeInstances", instance_pb2.DescribeInstancesRequest(instance_ids=ids))
    return [i.state.name for r in answer.reservations for i in r.instances]


def record(stage: Stage, instance_id: str) -> record_pb2.InstanceRecord:
    stored = stage.cloud.store.get(record_pb2.InstanceRecord, instance_id)
    assert stored is not None
    return stored.record


async def test_an_account_has_no_more_vcpus_than_its_operator_gives(stage: Stage, image_id: str) -> None:
    config = replace(stage.cloud.config, clc=replace(stage.cloud.config.clc, vcpus_per_account=5))
    limited = Stage(replace(stage.cloud, config=config), stage.zones, stage.images, stage.callers, stage.storage)
    two = launch(image_id, 2, instance_type="t3.micro", minimum=1)
    # At the same time: one of them finds the other's done.
    made = await asyncio.gather(*(limited.run("RunInstances", launch(image_id, 2)) for _ in range(2)))
    assert [len(reservation.instances) for reservation in made] == [2, 2]
    for _ in range(2):
        with pytest.raises(NoCapacity, match="vCPU limit of 5") as refused:
            await limited.run("RunInstances", two)
        assert refused.value.code == "VcpuLimitExceeded"
    assert len((await limited.run("RunInstances", launch(image_id, 3, minimum=1))).instances) == 1
    asked = account_attribute_pb2.DescribeAccountAttributesRequest(attribute_names=["max-instances"])
    for told, most in ((stage, "1000"), (limited, "5")):
        (attribute,) = (await told.run("DescribeAccountAttributes", asked)).account_attributes
        assert [value.attribute_value for value in attribute.attribute_values] == [most]


async def test_what_fits_is_started_between_the_counts(stage: Stage, image_id: str) -> None:
    reservation = await stage.run("RunInstances", launch(image_id, 100, minimum=1))
    assert len(reservation.instances) == 16
    assert len({i.private_ip_address for i in reservation.instances}) == 16
    assert len({i.public_ip_address for i in reservation.instances}) == 16


async def test_a_private_address_finds_its_subnet(stage: Stage, image_id: str) -> None:
    anywhere = instance_pb2.Placement()
    its_own = stage.cloud.store.owned(record_pb2.SubnetRecord, stage.callers[0].account_id)
    subnets = {s.record.cidr: s.record.subnet_id for s in its_own}
    wanted = {cidr: cidr.rpartition(".")[0] + ".77" for cidr in subnets}
    for cidr, address in wanted.items():
        one = launch(image_id, placement=anywhere, private_ip_address=address)
        (made,) = (await stage.run("RunInstances", one)).instances
        assert (made.subnet_id, made.private_ip_address) == (subnets[cidr], address)
    for address in ("10.16.1.2", "nonsense"):
        with pytest.raises(InvalidArgument) as refused:
            await stage.run("RunInstances", launch(image_id, placement=anywhere, private_ip_address=address))
        assert refused.value.code == "InvalidParameterValue"


async def test_below_min_count_the_call_itself_fails_and_nothing_is_made(stage: Stage, image_id: str) -> None:
    before = stage.cloud.store.revision
    with pytest.raises(NoCapacity) as caught:
        await stage.run("RunInstances", launch(image_id, 33, placement=instance_pb2.Placement()))
    assert caught.value.code == "InsufficientInstanceCapacity"
    assert "capacity in any Availability Zone (us-east-1a, us-east-1b):" in str(caught.value)
    with pytest.raises(NoCapacity) as caught:
        await stage.run("RunInstances", launch(image_id, 17))
    assert f"capacity in the Availability Zone you requested ({ZONE}):" in str(caught.value)
    assert stage.cloud.store.revision == before


async def test_launches_side_by_side_never_admit_more_than_fits(stage: Stage, image_id: str) -> None:
    answers = await asyncio.gather(
        *(stage.run("RunInstances", launch(image_id)) for _ in range(40)), return_exceptions=True
    )
    started = [a for a in answers if not isinstance(a, BaseException)]
    refused = [a for a in answers if isinstance(a, CloudError)]
    assert len(started) == 16
    assert {e.code for e in refused} == {"InsufficientInstanceCapacity"}
    addresses = [i.private_ip_address for a in started for i in a.instances]
    assert len(set(addresses)) == len(addresses)


async def test_before_a_zone_was_heard_it_is_not_full_but_silent(stage: Stage, image_id: str) -> None:
    stage.cloud.clusters[ZONE]._heard = False
    with pytest.raises(Unavailable):
        await stage.run("RunInstances", launch(image_id))


async def test_a_client_token_gives_the_same_instances_again(stage: Stage, image_id: str) -> None:
    first = await stage.run("RunInstances", launch(image_id, client_token="t"))
    again = await stage.run("RunInstances", launch(image_id, client_token="t"))
    assert again == first
    with pytest.raises(InvalidArgument) as caught:
        await stage.run("RunInstances", launch(image_id, 2, client_token="t"))
    assert caught.value.code == "IdempotentParameterMismatch"


async def test_the_same_token_at_the_same_time_starts_one_set(stage: Stage, image_id: str) -> None:
    answers = await asyncio.gather(*(stage.run("RunInstances", launch(image_id, client_token="t")) for _ in range(5)))
    assert len({a.instances[0].instance_id for a in answers}) == 1


async def test_a_launch_goes_out_as_one_order_and_runs_when_the_node_says_so(
    stage: Stage, image_id: str, leader: Leader
) -> None:
    reservation = await stage.run("RunInstances", launch(image_id, 3))
    ids = [i.instance_id for i in reservation.instances]
    zone = stage.zones[ZONE]
    await eventually(lambda: len(zone.placed) == 3)
    assert zone.orders == [ids]
    await eventually(lambda: all(record(stage, i).node for i in ids))
    for instance_id in ids:
        zone.says(instance_id, nc.VM_STATE_RUNNING)
    await eventually(lambda: all(record(stage, i).state == record_pb2.INSTANCE_STATE_RUNNING for i in ids))
    assert await states(stage, *ids) == ["running"] * 3


async def test_the_plan_names_every_live_interface_and_none_that_is_gone(
    stage: Stage, image_id: str, leader: Leader
) -> None:
    (instance,) = (await stage.run("RunInstances", launch(image_id))).instances
    zone = stage.zones[ZONE]
    await eventually(lambda: any(p.interfaces and p.interfaces[0].node_address for p in zone.plans))
    assert zone.plans[-1].interfaces[0].private_ipv4 == instance.private_ip_address
    await stage.run("TerminateInstances", instance_pb2.TerminateInstancesRequest(instance_ids=[instance.instance_id]))
    await eventually(lambda: not zone.plans[-1].interfaces)
    revisions = [plan.revision for plan in zone.plans]
    assert revisions == sorted(revisions)


async def test_a_failed_launch_ends_terminated_with_the_nodes_words(
    stage: Stage, image_id: str, leader: Leader
) -> None:
    (instance,) = (await stage.run("RunInstances", launch(image_id))).instances
    zone = stage.zones[ZONE]
    await eventually(lambda: instance.instance_id in zone.placed)
    zone.says(instance.instance_id, nc.VM_STATE_FAILED, reason_code="Server.InternalError", message="no kernel")
    await eventually(lambda: record(stage, instance.instance_id).state == record_pb2.INSTANCE_STATE_TERMINATED)
    answer = await stage.run("DescribeInstances", instance_pb2.DescribeInstancesRequest())
    shown = answer.reservations[0].instances[0]
    assert shown.state_reason.message == "Server.InternalError: no kernel"
    assert not shown.private_ip_address
    assert stage.cloud.store.holder(f"public/{instance.public_ip_address}") is None


async def test_a_launch_that_was_answered_waits_for_room_and_is_told_when_none_comes(
    stage: Stage, image_id: str, leader: Leader
) -> None:
    zone = stage.zones[ZONE]
    zone.away = True
    waits, loses = (await stage.run("RunInstances", launch(image_id, 2))).instances
    for instance in (waits, loses):
        zone.refuse[instance.instance_id] = ("InsufficientInstanceCapacity", "No node has room.")
    zone.away = False
    await eventually(lambda: zone.orders)
    del zone.refuse[waits.instance_id]
    await eventually(lambda: waits.instance_id in zone.placed)
    assert record(stage, loses.instance_id).state == record_pb2.INSTANCE_STATE_PENDING
    stage.now += ROOM_PATIENCE_S
    await eventually(lambda: record(stage, loses.instance_id).state == record_pb2.INSTANCE_STATE_TERMINATED)
    assert record(stage, loses.instance_id).state_reason_code == "Server.InsufficientInstanceCapacity"
    assert record(stage, waits.instance_id).state == record_pb2.INSTANCE_STATE_PENDING


async def test_instances_of_a_zone_that_is_away_are_not_rebooted_now(
    stage: Stage, image_id: str, leader: Leader
) -> None:
    zone = stage.zones[ZONE]
    (instance,) = (await stage.run("RunInstances", launch(image_id))).instances
    await eventually(lambda: instance.instance_id in zone.placed)
    zone.says(instance.instance_id, nc.VM_STATE_RUNNING)
    await eventually(lambda: record(stage, instance.instance_id).state == record_pb2.INSTANCE_STATE_RUNNING)
    zone.away = True
    with pytest.raises(Unavailable):
        await stage.run("RebootInstances", instance_pb2.RebootInstancesRequest(instance_ids=[instance.instance_id]))


async def test_a_new_leader_goes_on_where_the_last_one_died(stage: Stage, image_id: str) -> None:
    (instance,) = (await stage.run("RunInstances", launch(image_id))).instances
    zone = stage.zones[ZONE]
    zone.away = True
    first = asyncio.ensure_future(Leader(stage.cloud, b"t" * 32).lead(Leadership("/key", 1, asyncio.Event())))
    await asyncio.wait({first}, timeout=0.2)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    zone.away = False
    second = asyncio.ensure_future(Leader(stage.cloud, b"t" * 32).lead(Leadership("/key", 2, asyncio.Event())))
    await eventually(lambda: instance.instance_id in zone.placed)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)


async def test_a_vm_that_no_record_owns_is_removed(stage: Stage, leader: Leader) -> None:
    zone = stage.zones[ZONE]
    await eventually(lambda: zone._instances)
    zone.says("i-0123456789abcdef0", nc.VM_STATE_RUNNING)
    await eventually(lambda: "i-0123456789abcdef0" in zone.ended)


async def test_terminated_instances_are_forgotten_after_an_hour_with_their_token(
    stage: Stage, image_id: str, leader: Leader
) -> None:
    (instance,) = (await stage.run("RunInstances", launch(image_id, client_token="t"))).instances
    stage.zones[ZONE].plans.clear()
    await stage.run("TerminateInstances", instance_pb2.TerminateInstancesRequest(instance_ids=[instance.instance_id]))
    await eventually(lambda: record(stage, instance.instance_id).state == record_pb2.INSTANCE_STATE_TERMINATED)
    stage.now += 3601
    leader._reservations.nudge(record(stage, instance.instance_id).reservation_id)
    store = stage.cloud.store
    await eventually(lambda: store.count(record_pb2.InstanceRecord) == 0)
    assert store.count(record_pb2.ReservationRecord) == 0
    assert store.count(record_pb2.ClientTokenRecord) == 0


async def test_a_deregistered_image_stays_pinned_while_a_launch_needs_it(
    stage: Stage, image_id: str, leader: Leader
) -> None:
    zone = stage.zones[ZONE]
    (instance,) = (await stage.run("RunInstances", launch(image_id))).instances
    await stage.run("DeregisterImage", image_pb2.DeregisterImageRequest(image_id=image_id))
    await leader._images.idle()
    assert image_id in stage.images.pins
    zone.says(instance.instance_id, nc.VM_STATE_RUNNING)
    await eventually(lambda: record(stage, instance.instance_id).state == record_pb2.INSTANCE_STATE_RUNNING)
    leader._images.nudge(image_id)
    await eventually(lambda: image_id not in stage.images.pins)
    asked = image_pb2.DescribeImagesRequest(image_ids=[image_id])
    assert not (await stage.run("DescribeImages", asked)).images
    with pytest.raises(CloudError, match="no longer available") as caught:
        await stage.run("RunInstances", launch(image_id))
    assert caught.value.code == "InvalidAMIID.Unavailable"
    later = replace(stage.cloud, clock=lambda: stage.cloud.clock() + 3601)
    await ImageReconciler(later).sweep("")
    for telling, action, request in (
        (stage, "RunInstances", launch(image_id)),
        (stage, "DescribeImages", asked),
        (stage.of_the_other(), "DescribeImages", asked),
    ):
        with pytest.raises(CloudError, match="does not exist") as caught:
            await telling.run(action, request)
        assert caught.value.code == "InvalidAMIID.NotFound"


async def test_a_deregistered_image_is_known_to_its_owner_alone(stage: Stage, image_id: str, leader: Leader) -> None:
    await stage.run("DeregisterImage", image_pb2.DeregisterImageRequest(image_id=image_id))
    await eventually(lambda: stage.cloud.store.get(record_pb2.ImageRecord, image_id) is None)
    asked = image_pb2.DescribeImagesRequest(image_ids=[image_id])
    assert not (await stage.run("DescribeImages", asked)).images
    with pytest.raises(CloudError, match="does not exist"):
        await stage.of_the_other().run("DescribeImages", asked)


async def test_a_deleted_account_leaves_nothing(stage: Stage, leader: Leader) -> None:
    bobs = stage.of_the_other()
    request = image_pb2.RegisterImageRequest(name="machine", image_location="bucket/machine")
    await bobs.run("RunInstances", launch((await bobs.run("RegisterImage", request)).image_id))
    store, account_id = stage.cloud.store, bobs.callers[0].account_id
    account = find_account(store, "bob")
    with pytest.raises(CloudError, match="has instances"):
        await delete_account(stage.cloud, account, force=False)
    await delete_account(stage.cloud, account, force=True)
    await eventually(lambda: store.get(record_pb2.AccountRecord, account_id) is None)
    owners = {getattr(s.record, "account_id", "") for kind in store._records.values() for s in kind.values()}
    assert owners == {bobs.callers[1].account_id}
    claims = [name for name in store.claims("") if account_id in name]
    assert claims == []
