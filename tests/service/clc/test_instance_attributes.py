"""What changes of an instance while it runs, and what the packets' rules follow."""

from __future__ import annotations

from typing import Any

import pytest

from common.errors import CloudError, Unsupported
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import filter_pb2, image_pb2, instance_pb2, network_interface_pb2
from mallee.ec2.v1.vpc_pb2 import AttributeBooleanValue
from mallee.nc.v1 import service_pb2 as nc
from mallee.nc.v1.instance_pb2 import InstanceSpec
from services.clc.instance.status import guest_check, system_check
from services.clc.store import Changes
from tests.eventually import eventually
from tests.service.clc.address_requests import booted
from tests.service.clc.making import group, running
from tests.service.clc.stage import Stage

TRUE, FALSE = AttributeBooleanValue(value=True), AttributeBooleanValue(value=False)


def text(value: str) -> image_pb2.AttributeValue:
    return image_pb2.AttributeValue(value=value)


async def modify(stage: Stage, instance_id: str, **given: Any) -> None:
    request = instance_pb2.ModifyInstanceAttributeRequest(instance_id=instance_id, **given)
    await stage.run("ModifyInstanceAttribute", request)


async def described(stage: Stage, instance_id: str, attribute: str) -> Any:
    request = instance_pb2.DescribeInstanceAttributeRequest(instance_id=instance_id, attribute=attribute)
    return await stage.run("DescribeInstanceAttribute", request)


async def test_attributes_are_set_by_member_and_by_name(stage: Stage) -> None:
    one = await running(stage)
    await modify(stage, one, disable_api_termination=TRUE)
    assert (await described(stage, one, "disableApiTermination")).disable_api_termination.value is True
    with pytest.raises(CloudError, match="may not be terminated"):
        await stage.run("TerminateInstances", instance_pb2.TerminateInstancesRequest(instance_ids=[one]))
    await modify(stage, one, attribute="disableApiTermination", value="false")
    assert (await described(stage, one, "disableApiTermination")).disable_api_termination.value is False
    await modify(stage, one, instance_initiated_shutdown_behavior=text("terminate"))
    await modify(stage, one, source_dest_check=TRUE)
    await modify(stage, one, disable_api_stop=FALSE)


async def test_the_check_of_source_and_destination_is_turned_off_and_reset(stage: Stage) -> None:
    one = await running(stage)

    async def seen() -> tuple[bool, ...]:
        by_filter = [filter_pb2.Filter(name="source-dest-check", values=["false"])]
        found = instance_pb2.DescribeInstancesRequest(instance_ids=[one], filters=by_filter)
        interfaces = await stage.run(
            "DescribeNetworkInterfaces", network_interface_pb2.DescribeNetworkInterfacesRequest()
        )
        return (
            (await described(stage, one, "sourceDestCheck")).source_dest_check.value,
            not (await stage.run("DescribeInstances", found)).reservations,
            *(i.source_dest_check for i in interfaces.network_interfaces),
        )

    assert await seen() == (True, True, True)
    await modify(stage, one, source_dest_check=FALSE)
    assert await seen() == (False, False, False)
    reset = instance_pb2.ResetInstanceAttributeRequest(instance_id=one, attribute="sourceDestCheck")
    await stage.run("ResetInstanceAttribute", reset)
    assert await seen() == (True, True, True)
    await modify(stage, one, attribute="sourceDestCheck", value="false")
    assert await seen() == (False, False, False)


async def test_other_groups_hold_for_the_instance(stage: Stage) -> None:
    one, web = await running(stage), await group(stage)
    await modify(stage, one, groups=[web])
    assert [g.group_id for g in (await described(stage, one, "groupSet")).groups] == [web]
    stored = stage.cloud.store.get(record_pb2.InstanceRecord, one)
    assert stored is not None
    assert list(stored.record.interface.security_group_ids) == [web]


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({}, "InvalidParameterCombination"),
        ({"disable_api_termination": TRUE, "source_dest_check": TRUE}, "InvalidParameterCombination"),
        ({"instance_type": text("t2.nano")}, "IncorrectInstanceState"),
        ({"user_data": instance_pb2.SecureBlobAttributeValue(value=b"x")}, "IncorrectInstanceState"),
        ({"kernel": text("aki-1")}, "IncorrectInstanceState"),
        ({"attribute": "ramdisk", "value": "ari-1"}, "IncorrectInstanceState"),
        ({"ebs_optimized": TRUE}, "IncorrectInstanceState"),
        ({"ena_support": TRUE}, "IncorrectInstanceState"),
        ({"sriov_net_support": text("simple")}, "IncorrectInstanceState"),
        ({"disable_api_stop": TRUE}, "UnsupportedOperation"),
        ({"instance_initiated_shutdown_behavior": text("stop")}, "UnsupportedOperation"),
        ({"instance_initiated_shutdown_behavior": text("hide")}, "InvalidParameterValue"),
        ({"attribute": "disableApiTermination", "value": "perhaps"}, "InvalidParameterValue"),
        ({"attribute": "colour", "value": "red"}, "InvalidParameterValue"),
        ({"groups": ["sg-0123456789abcdef0"]}, "InvalidGroup.NotFound"),
    ],
)
async def test_what_cannot_change_is_refused(stage: Stage, given: dict[str, Any], code: str) -> None:
    one = await running(stage)
    before = stage.cloud.store.revision
    with pytest.raises(CloudError) as caught:
        await modify(stage, one, **given)
    assert caught.value.code == code
    assert stage.cloud.store.revision == before


async def test_an_instance_store_neither_starts_nor_stops(stage: Stage) -> None:
    one = await running(stage)
    with pytest.raises(Unsupported, match="does not have an 'ebs' root device type and cannot be stopped"):
        await stage.run("StopInstances", instance_pb2.StopInstancesRequest(instance_ids=[one]))
    with pytest.raises(Unsupported, match="cannot be started"):
        await stage.run("StartInstances", instance_pb2.StartInstancesRequest(instance_ids=[one]))


@pytest.mark.parametrize(
    ("state", "node_alive", "system"),
    [
        (record_pb2.INSTANCE_STATE_PENDING, True, "initializing"),
        (record_pb2.INSTANCE_STATE_RUNNING, True, "ok"),
        (record_pb2.INSTANCE_STATE_RUNNING, False, "impaired"),
        (record_pb2.INSTANCE_STATE_RUNNING, None, "insufficient-data"),
        (record_pb2.INSTANCE_STATE_TERMINATED, True, "not-applicable"),
    ],
)
def test_the_system_check_says_what_is_known_of_the_node(state: int, node_alive: bool | None, system: str) -> None:
    assert system_check(state, node_alive) == system


@pytest.mark.parametrize(
    ("state", "age_s", "guest"),
    [
        (nc.CHECK_STATE_PASSED, 9999, "ok"),
        (nc.CHECK_STATE_AWAITED, 10, "initializing"),
        (nc.CHECK_STATE_AWAITED, 9999, "impaired"),
        (nc.CHECK_STATE_FAILED, 10, "impaired"),
    ],
)
def test_a_guest_that_was_never_heard_boots_for_a_while(
    state: nc.CheckState.ValueType, age_s: float, guest: str
) -> None:
    assert guest_check(state, age_s) == guest


async def test_what_is_impaired_says_since_when(stage: Stage) -> None:
    one = await booted(stage)
    zone = stage.zones[stage.instance(one).zone]
    node = sorted(zone.nodes)[0]
    zone.placed[one] = (node, InstanceSpec(instance_id=one))
    stored = stage.cloud.store.get(record_pb2.InstanceRecord, one)
    assert stored is not None
    draft, changes = stored.draft(), Changes()
    draft.node = node
    changes.update(stored, draft)
    await stage.cloud.store.commit(changes)

    async def since(part: str) -> float:
        asked = instance_pb2.DescribeInstanceStatusRequest(instance_ids=[one])
        (shown,) = (await stage.run("DescribeInstanceStatus", asked)).instance_statuses
        (check,) = getattr(shown, part).details
        return check.impaired_since.ToSeconds() if check.HasField("impaired_since") else 0.0

    launched = stage.instance(one).launch_time.ToSeconds()
    assert await since("instance_status") == 0
    zone.guests, zone.silent_since_ms = nc.CHECK_STATE_FAILED, (launched + 20) * 1000
    assert await since("instance_status") == launched + 20
    stage.now = launched + 9999
    zone.guests = nc.CHECK_STATE_AWAITED
    assert await since("instance_status") == launched + 300
    assert await since("system_status") == 0
    stage.now = launched + 10_000
    zone.lose(node)
    await eventually(lambda: stage.cloud.clusters.lost_since(zone.zone, node))
    stage.now = launched + 20_000
    assert await since("system_status") == launched + 10_000
