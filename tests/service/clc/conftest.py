"""A CLC on a real etcd, fresh for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.etcd_fixture import EtcdServer
from tests.service.clc.stage import Stage, stage_on


@pytest.fixture
async def stage(etcd_server: EtcdServer) -> AsyncIterator[Stage]:
    async with stage_on(etcd_server.address) as it:
        yield it
