"""Calls about many instances whose records change all the time, as those of machines that start do."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import pytest

from mallee.ec2.v1 import image_pb2, instance_pb2
from services.clc.instance import rules
from services.clc.store import Changes, Conflict, Store
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
    store = cast(Store, Contested(stage.cloud.store, most=most))
    contested = Stage(
        dataclasses.replace(stage.cloud, store=store), stage.zones, stage.images, stage.callers, stage.storage
    )
    request = instance_pb2.TerminateInstancesRequest(instance_ids=[*ids, ids[0]])
    if not most:
        # One alone that never stands still is the client's to try again.
        with pytest.raises(Conflict):
            await contested.run("TerminateInstances", request)
        return
    answer = await contested.run("TerminateInstances", request)
    assert [change.instance_id for change in answer.terminating_instances] == ids
    assert {stage.instance(instance_id).state for instance_id in ids} == {rules.SHUTTING_DOWN}
