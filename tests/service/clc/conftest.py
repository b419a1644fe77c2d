"""A CLC on a real etcd, fresh for each test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from common.etcd.election import Leadership
from mallee.ec2.v1 import image_pb2
from services.clc.reconcile import Leader
from tests.etcd_fixture import EtcdServer
from tests.service.clc.stage import Stage, stage_on


@pytest.fixture
async def stage(etcd_server: EtcdServer) -> AsyncIterator[Stage]:
    async with stage_on(etcd_server.address) as it:
        yield it


@pytest.fixture
async def image_id(stage: Stage) -> str:
    request = image_pb2.RegisterImageRequest(name="machine", image_location="bucket/machine")
    return str((await stage.run("RegisterImage", request)).image_id)


@pytest.fixture
async def leader(stage: Stage) -> AsyncIterator[Leader]:
    it = Leader(stage.cloud, b"t" * 32)
    task = asyncio.ensure_future(it.lead(Leadership("/key", 1, asyncio.Event())))
    yield it
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
