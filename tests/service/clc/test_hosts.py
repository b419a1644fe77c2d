"""Placement.HostId: the operator's own account names a node by its name, and the launch goes there or nowhere."""

from __future__ import annotations

from typing import Any

import pytest

from common.errors import CloudError
from mallee.ec2.v1 import image_pb2, instance_pb2
from mallee.ec2.v1.filter_pb2 import Filter
from services.clc.reconcile import Leader
from tests.eventually import eventually
from tests.service.clc.stage import Stage

ZONE = "us-east-1a"
HOST = f"nc-{ZONE}-2"


async def launch(
    stage: Stage, image: str, least: int = 1, most: int = 0, *, caller: int = 0, **placement: str
) -> instance_pb2.Reservation:
    request = instance_pb2.RunInstancesRequest(
        image_id=image, min_count=least, max_count=most or least, placement=instance_pb2.Placement(**placement)
    )
    made: instance_pb2.Reservation = await stage.run("RunInstances", request, caller=caller)
    return made


async def refusal(*args: Any, **more: Any) -> str:
    with pytest.raises(CloudError) as caught:
        await launch(*args, **more)
    return caught.value.code


async def test_the_order_names_the_host_and_its_zone_follows(stage: Stage, image_id: str, leader: Leader) -> None:
    in_the_other = f"nc-{ZONE[:-1]}b-1"
    for host in (HOST, in_the_other):
        reservation = await launch(stage, image_id, 2, host_id=host)
        zone = stage.zones[host[3:-2]]
        ids = {i.instance_id for i in reservation.instances}
        assert {(i.placement.host_id, i.placement.availability_zone) for i in reservation.instances} == {
            (host, zone.zone)
        }
        await eventually(lambda zone=zone, ids=ids: ids <= zone.hosts.keys())  # type: ignore[misc]
        assert {zone.hosts[i] for i in ids} == {host}
    anywhere = await launch(stage, image_id, availability_zone=ZONE)
    assert not anywhere.instances[0].placement.host_id
    await eventually(lambda: anywhere.instances[0].instance_id in stage.zones[ZONE].placed)
    assert anywhere.instances[0].instance_id not in stage.zones[ZONE].hosts
    described = await stage.run(
        "DescribeInstances",
        instance_pb2.DescribeInstancesRequest(filters=[Filter(name="host-id", values=[in_the_other])]),
    )
    assert sum(len(r.instances) for r in described.reservations) == 2


async def test_only_the_room_of_the_host_counts(stage: Stage, image_id: str) -> None:
    """Eight fit on it; nobody places here, so all stay on their way."""
    assert await refusal(stage, image_id, 9, host_id=HOST) == "InsufficientCapacityOnHost"
    assert len((await launch(stage, image_id, 1, 5, host_id=HOST)).instances) == 5
    assert len((await launch(stage, image_id, 1, 5, host_id=HOST)).instances) == 3
    assert await refusal(stage, image_id, host_id=HOST) == "InsufficientCapacityOnHost"
    assert len((await launch(stage, image_id, availability_zone=ZONE)).instances) == 1


async def test_a_host_that_is_not_there_or_not_for_the_caller(stage: Stage, image_id: str) -> None:
    assert await refusal(stage, image_id, host_id="h-0123456789abcdef0") == "InvalidHostID.NotFound"
    other = image_pb2.RegisterImageRequest(name="machine", image_location="bucket/machine")
    theirs = (await stage.run("RegisterImage", other, caller=1)).image_id
    assert await refusal(stage, theirs, host_id=HOST, caller=1) == "InvalidHostID.NotFound"
    assert await refusal(stage, image_id, host_id=HOST, availability_zone="us-east-1b") == "InvalidParameterCombination"
