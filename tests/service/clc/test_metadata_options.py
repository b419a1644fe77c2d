"""Metadata options, from the request to the plan that carries them and back to the state that users are shown."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from common.errors import CloudError, InvalidArgument
from common.etcd.election import Leadership
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import image_pb2, tag_pb2
from mallee.ec2.v1 import instance_pb2 as ec2
from mallee.nc.v1 import instance_pb2 as nc
from mallee.nc.v1 import network_pb2
from services.clc.reconcile import Leader
from tests.eventually import eventually
from tests.service.clc.making import group, image, running
from tests.service.clc.stage import PlayedZone, Stage


async def booted(stage: Stage) -> str:
    """With a leader: an instance that its node says runs."""
    instance_id = await running(stage)
    await eventually(lambda: zone_of(stage, instance_id).placed.get(instance_id))
    name, _ = zone_of(stage, instance_id).placed[instance_id]
    zone_of(stage, instance_id).says(instance_id, nc.VM_STATE_RUNNING, node=name, node_address="100.64.0.11")
    await eventually(lambda: stage.instance(instance_id).state == record_pb2.INSTANCE_STATE_RUNNING)
    return instance_id


def zone_of(stage: Stage, instance_id: str) -> PlayedZone:
    return stage.zones[stage.instance(instance_id).zone]


def planned(stage: Stage, instance_id: str) -> network_pb2.PlanInterface:
    """In the latest plan that its zone was given."""
    plan = zone_of(stage, instance_id).plans[-1]
    found: network_pb2.PlanInterface = next(i for i in plan.interfaces if i.instance_id == instance_id)
    return found


async def modify(stage: Stage, instance_id: str, **more: Any) -> ec2.InstanceMetadataOptionsResponse:
    request = ec2.ModifyInstanceMetadataOptionsRequest(instance_id=instance_id, **more)
    answer = await stage.run("ModifyInstanceMetadataOptions", request)
    assert answer.instance_id == instance_id
    options: ec2.InstanceMetadataOptionsResponse = answer.instance_metadata_options
    return options


async def state(stage: Stage, instance_id: str) -> str:
    answer = await stage.run("DescribeInstances", ec2.DescribeInstancesRequest(instance_ids=[instance_id]))
    return str(answer.reservations[0].instances[0].metadata_options.state)


async def is_applied(stage: Stage, instance_id: str) -> None:
    await eventually(lambda: not stage.instance(instance_id).metadata_options.unapplied)
    assert await state(stage, instance_id) == "applied"


async def test_what_is_changed_reaches_the_node_and_is_pending_until_then(stage: Stage, leader: Leader) -> None:
    instance_id = await booted(stage)
    assert await state(stage, instance_id) == "applied"
    answer = await modify(stage, instance_id, http_tokens="required", http_put_response_hop_limit=3)
    assert (answer.state, answer.http_tokens, answer.http_endpoint) == ("pending", "required", "enabled")
    await is_applied(stage, instance_id)
    assert planned(stage, instance_id).metadata.options == nc.MetadataOptions(tokens_required=True, hop_limit=3)
    assert (await modify(stage, instance_id, http_tokens="required")).state == "applied", "nothing changed"


async def test_a_node_that_does_not_follow_keeps_it_pending_and_makes_no_other_node_work(
    stage: Stage, leader: Leader
) -> None:
    instance_id = await booted(stage)
    zone = zone_of(stage, instance_id)
    zone.deaf = {stage.instance(instance_id).node}
    told = len(zone.plans)
    await modify(stage, instance_id, http_endpoint="disabled")
    # Asked for again, though nothing changed since.
    await eventually(lambda: len(zone.plans) >= told + 2, within_s=10)
    assert await state(stage, instance_id) == "pending"
    assert len({plan.revision for plan in zone.plans[told:]}) == 1
    zone.deaf = set()
    await is_applied(stage, instance_id)


async def test_a_change_before_the_launch_is_done_comes_with_it(stage: Stage) -> None:
    instance_id = await running(stage)
    assert await state(stage, instance_id) == "pending"
    await modify(stage, instance_id, http_tokens="required")
    leader = Leader(stage.cloud, b"t" * 32)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(leader.lead(Leadership("/key", 1, asyncio.Event())))
        await eventually(lambda: instance_id in zone_of(stage, instance_id).placed)
        _, spec = zone_of(stage, instance_id).placed[instance_id]
        assert spec.metadata_options.tokens_required
        await eventually(lambda: not stage.instance(instance_id).metadata_options.unapplied)
        task.cancel()


async def test_tags_and_groups_follow_live(stage: Stage, leader: Leader) -> None:
    instance_id = await booted(stage)
    tag = tag_pb2.Tag(key="Name", value="web")
    await stage.run("CreateTags", tag_pb2.CreateTagsRequest(resources=[instance_id], tags=[tag]))
    assert not planned(stage, instance_id).metadata.tags, "the guest may not read them yet"
    await modify(stage, instance_id, instance_metadata_tags="enabled")
    await eventually(lambda: planned(stage, instance_id).metadata.tags == {"Name": "web"})
    await stage.run("DeleteTags", tag_pb2.DeleteTagsRequest(resources=[instance_id]))
    await eventually(lambda: not planned(stage, instance_id).metadata.tags)
    group_id = await group(stage)
    change = ec2.ModifyInstanceAttributeRequest(instance_id=instance_id, groups=[group_id])
    await stage.run("ModifyInstanceAttribute", change)
    await eventually(lambda: list(planned(stage, instance_id).group_ids) == [group_id])
    names = {known.group_id: known.name for known in zone_of(stage, instance_id).plans[-1].groups}
    assert names[group_id] == "web"


@pytest.mark.parametrize("key", ["a/b", "a b", ".", "..", "_index", "schlüssel"])
async def test_a_tag_that_is_no_path_and_a_guest_that_reads_tags_refuse_each_other(stage: Stage, key: str) -> None:
    instance_id = await running(stage)
    tagging = tag_pb2.CreateTagsRequest(resources=[instance_id], tags=[tag_pb2.Tag(key=key, value="x")])
    await stage.run("CreateTags", tagging)
    with pytest.raises(InvalidArgument, match="is not a valid tag key"):
        await modify(stage, instance_id, instance_metadata_tags="enabled")
    await stage.run("DeleteTags", tag_pb2.DeleteTagsRequest(resources=[instance_id]))
    await modify(stage, instance_id, instance_metadata_tags="enabled")
    with pytest.raises(InvalidArgument, match="is not a valid tag key"):
        await stage.run("CreateTags", tagging)
    specification = tag_pb2.TagSpecification(resource_type="instance", tags=tagging.tags)
    launch = ec2.RunInstancesRequest(
        image_id=await image(stage, "machine2"),
        min_count=1,
        max_count=1,
        tag_specifications=[specification],
        metadata_options=ec2.InstanceMetadataOptionsRequest(instance_metadata_tags="enabled"),
    )
    with pytest.raises(InvalidArgument, match="is not a valid tag key"):
        await stage.run("RunInstances", launch)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({}, "MissingParameter"),
        ({"http_tokens": "perhaps"}, "InvalidParameterValue"),
        ({"http_tokens": ""}, "InvalidParameterValue"),
        ({"http_endpoint": "no-preference"}, "InvalidParameterValue"),
        ({"instance_metadata_tags": "Enabled"}, "InvalidParameterValue"),
        ({"http_put_response_hop_limit": 0}, "InvalidParameterValue"),
        ({"http_put_response_hop_limit": 65}, "InvalidParameterValue"),
        ({"http_put_response_hop_limit": -1}, "InvalidParameterValue"),
    ],
)
async def test_what_is_no_option_is_refused_and_changes_nothing(stage: Stage, given: dict[str, Any], code: str) -> None:
    instance_id = await running(stage)
    before = stage.instance(instance_id)
    with pytest.raises(CloudError) as refused:
        await modify(stage, instance_id, **given)
    assert refused.value.code == code
    assert stage.instance(instance_id) == before


async def test_an_instance_that_is_going_changes_no_more(stage: Stage) -> None:
    instance_id = await running(stage)
    await stage.run("TerminateInstances", ec2.TerminateInstancesRequest(instance_ids=[instance_id]))
    with pytest.raises(CloudError) as refused:
        await modify(stage, instance_id, http_tokens="required")
    assert refused.value.code == "IncorrectInstanceState"


async def test_an_accounts_defaults_stand_where_a_launch_says_nothing_else(stage: Stage) -> None:
    async def defaults(**more: Any) -> ec2.InstanceMetadataDefaultsResponse:
        await stage.run("ModifyInstanceMetadataDefaults", ec2.ModifyInstanceMetadataDefaultsRequest(**more))
        answer = await stage.run("GetInstanceMetadataDefaults", ec2.GetInstanceMetadataDefaultsRequest())
        told: ec2.InstanceMetadataDefaultsResponse = answer.account_level
        return told

    none = ec2.InstanceMetadataDefaultsResponse(managed_by="account")
    assert await defaults() == none
    told = await defaults(http_tokens="required", http_put_response_hop_limit=2)
    assert (told.http_tokens, told.http_put_response_hop_limit) == ("required", 2)
    launch = ec2.RunInstancesRequest(image_id=await image(stage), min_count=1, max_count=1)
    launch.metadata_options.http_put_response_hop_limit = 5
    for caller, tokens in ((0, "required"), (1, "optional")):
        if caller:
            launch.image_id = await of_the_other(stage)
        reservation = await stage.run("RunInstances", launch, caller=caller)
        options = reservation.instances[0].metadata_options
        assert (options.http_tokens, options.http_put_response_hop_limit) == (tokens, 5)
    assert await defaults(http_tokens="no-preference", http_put_response_hop_limit=-1) == none
    with pytest.raises(InvalidArgument):
        await defaults(http_put_response_hop_limit=0)


async def of_the_other(stage: Stage) -> str:
    """An image of the second account's own."""
    request = image_pb2.RegisterImageRequest(name="theirs", image_location="bucket/machine")
    return str((await stage.run("RegisterImage", request, caller=1)).image_id)
