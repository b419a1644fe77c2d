"""Calls whose records change under them: of many instances that start, of groups that are named and deleted."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from common.errors import CloudError
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import image_pb2, instance_pb2, security_group_pb2, snapshot_pb2
from services.clc.instance import rules
from services.clc.store import Changes, Conflict, Store
from tests.service.clc.snapshot_requests import snapshot
from tests.service.clc.stage import Stage


class Contested:
    """A store where of so many records one has always just changed."""

    def __init__(self, store: Store, *, most: int) -> None:
        self._store = store
        self._most = most

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, changes: Changes) -> int:
        if len(changes.keys) > self._most:
            raise Conflict
        return await self._store.commit(changes)


@pytest.mark.parametrize("most", [2, 0])
async def test_many_that_change_all_the_time_are_ended_in_parts(stage: Stage, most: int) -> None:
    image = image_pb2.RegisterImageRequest(name="machine", image_location="bucket/machine")
    image_id = (await stage.run("RegisterImage", image)).image_id
    launch = instance_pb2.RunInstancesRequest(image_id=image_id, min_count=7, max_count=7)
    ids = [instance.instance_id for instance in (await stage.run("RunInstances", launch)).instances]
    contested = on(stage, cast(Store, Contested(stage.cloud.store, most=most)))
    request = instance_pb2.TerminateInstancesRequest(instance_ids=[*ids, ids[0]])
    if not most:
        # One alone that never stands still is the client's to try again.
        with pytest.raises(Conflict):
            await contested.run("TerminateInstances", request)
        return
    answer = await contested.run("TerminateInstances", request)
    assert [change.instance_id for change in answer.terminating_instances] == ids
    assert {stage.instance(instance_id).state for instance_id in ids} == {rules.SHUTTING_DOWN}


class Meanwhile:
    """A store where something else is committed just before each of the first commits."""

    def __init__(self, store: Store, *others: Callable[[], Awaitable[object]]) -> None:
        self._store = store
        self._others = list(others)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, changes: Changes) -> int:
        if self._others:
            await self._others.pop(0)()
        return await self._store.commit(changes)


async def group(stage: Stage, name: str) -> str:
    request = security_group_pb2.CreateSecurityGroupRequest(group_name=name, description=name)
    return str((await stage.run("CreateSecurityGroup", request)).group_id)


def let_in(group_id: str, peer_id: str) -> security_group_pb2.AuthorizeSecurityGroupIngressRequest:
    pair = security_group_pb2.UserIdGroupPair(group_id=peer_id)
    permission = security_group_pb2.IpPermission(ip_protocol="-1", user_id_group_pairs=[pair])
    return security_group_pb2.AuthorizeSecurityGroupIngressRequest(group_id=group_id, ip_permissions=[permission])


def in_a_race(stage: Stage, *others: Callable[[], Awaitable[object]]) -> Stage:
    return on(stage, cast(Store, Meanwhile(stage.cloud.store, *others)))


def on(stage: Stage, store: Store) -> Stage:
    cloud = dataclasses.replace(stage.cloud, store=store)
    return Stage(cloud, stage.zones, stage.images, stage.callers, stage.storage)


async def test_what_goes_on_in_other_groups_does_not_hinder_a_groups_deletion(stage: Stage, image_id: str) -> None:
    web, database, idle = [await group(stage, name) for name in ("web", "database", "idle")]

    async def launch() -> None:
        request = instance_pb2.RunInstancesRequest(
            image_id=image_id, min_count=1, max_count=1, security_group_ids=[web]
        )
        await stage.run("RunInstances", request)

    async def authorize() -> None:
        await stage.run("AuthorizeSecurityGroupIngress", let_in(database, web))

    busy = in_a_race(stage, launch, authorize)
    await busy.run("DeleteSecurityGroup", security_group_pb2.DeleteSecurityGroupRequest(group_id=idle))
    others = cast(Meanwhile, busy.cloud.store)._others
    assert len(others) == 1, "it was done at once"


async def test_a_group_that_is_named_while_it_is_deleted_stays_and_one_that_goes_first_is_not_named(
    stage: Stage,
) -> None:
    web, database = [await group(stage, name) for name in ("web", "database")]
    delete = security_group_pb2.DeleteSecurityGroupRequest(group_id=web)
    naming = in_a_race(stage, lambda: stage.run("AuthorizeSecurityGroupIngress", let_in(database, web)))
    with pytest.raises(CloudError) as caught:
        await naming.run("DeleteSecurityGroup", delete)
    assert caught.value.code == "DependencyViolation"
    revoked = security_group_pb2.RevokeSecurityGroupIngressRequest(
        group_id=database, ip_permissions=let_in(database, web).ip_permissions
    )
    await stage.run("RevokeSecurityGroupIngress", revoked)
    deleting = in_a_race(stage, lambda: stage.run("DeleteSecurityGroup", delete))
    with pytest.raises(CloudError) as caught:
        await deleting.run("AuthorizeSecurityGroupIngress", let_in(database, web))
    assert caught.value.code == "InvalidGroup.NotFound"
    record = stage.cloud.store.get(record_pb2.SecurityGroupRecord, database)
    assert record is not None
    assert not any(rule.group_id for rule in record.record.rules)


async def test_a_snapshot_that_goes_while_a_launch_names_it_is_not_launched(stage: Stage, image_id: str) -> None:
    snapshot_id = await snapshot(stage)
    delete = snapshot_pb2.DeleteSnapshotRequest(snapshot_id=snapshot_id)
    device = image_pb2.BlockDeviceMapping(device_name="/dev/sdf", ebs=image_pb2.EbsBlockDevice(snapshot_id=snapshot_id))
    launch = instance_pb2.RunInstancesRequest(
        image_id=image_id, min_count=1, max_count=1, block_device_mappings=[device]
    )
    launching = in_a_race(stage, lambda: stage.run("DeleteSnapshot", delete))
    with pytest.raises(CloudError) as caught:
        await launching.run("RunInstances", launch)
    assert caught.value.code == "InvalidSnapshot.NotFound"
