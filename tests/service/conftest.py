"""Fixtures of the RPC floor's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from common import pki
from tests.service.rpc_stage import Stage


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    pki.create_authority(folder)
    for member, role in (
        ("clc-1", "clc"),
        ("facade-1", "facade"),
        ("cc-a", "cc"),
        ("nc-a-1", "nc"),
        ("admin", "admin"),
    ):
        pki.issue(folder, member, role, ips=["127.0.0.1"])
    return folder


@pytest.fixture
async def stage(certificates: Path) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        made = Stage(certificates, stack)
        await stack.enter_async_context(made.server)
        yield made
