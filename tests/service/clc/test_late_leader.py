"""A CLC that leads before its copy of the records is up to date."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from common.background import Background
from common.etcd.election import Leadership
from common.etcd.replica import Replica
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import instance_pb2 as ec2
from mallee.nc.v1 import instance_pb2 as nc
from services.clc.reconcile import Leader
from services.clc.store import PREFIX, Store
from tests.etcd_fixture import EtcdServer
from tests.eventually import eventually
from tests.service.clc.stage import PlayedZone, Stage
from tests.service.clc.test_barrier import LateEtcd


async def test_an_instance_that_it_has_yet_to_hear_of_is_not_taken_for_nobodys(
    etcd_server: EtcdServer, stage: Stage, image_id: str
) -> None:
    async with LateEtcd(etcd_server.address) as late, Replica(late, PREFIX) as behind, Background() as tasks:
        (instance,) = (
            await stage.run("RunInstances", ec2.RunInstancesRequest(image_id=image_id, min_count=1, max_count=1))
        ).instances
        zone = stage.zones[stage.instance(instance.instance_id).zone]
        tasks.start(_tell(zone, instance.instance_id))
        leader = Leader(replace(stage.cloud, store=Store(late, behind)), b"t" * 32)
        tasks.start(leader.lead(Leadership("/key", 1, asyncio.Event())))
        # As long as it takes to hear of the instance, and to have it removed.
        for _ in range(20):
            await late.get("/")
        late.told.set()
        await eventually(
            lambda: stage.instance(instance.instance_id).state == record_pb2.INSTANCE_STATE_RUNNING, within_s=30
        )
        assert instance.instance_id not in zone.ended


async def _tell(zone: PlayedZone, instance_id: str) -> None:
    """That it runs, as soon as anybody listens."""
    await eventually(lambda: zone._instances)
    zone.says(instance_id, nc.VM_STATE_RUNNING)
