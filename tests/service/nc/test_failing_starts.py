"""Launches that fail on their node: tried again for as long as it may pass, given up with a reason."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.ids import InstanceId
from mallee.nc.v1 import instance_pb2
from services.nc.instance import Patience
from tests.service.nc.stage import Node, Site, make_site, running
from tests.unit.nc.specs import image, spec

RUNNING, GONE = instance_pb2.VM_STATE_RUNNING, instance_pb2.VM_STATE_GONE
FAILED = instance_pb2.VM_STATE_FAILED
FIRST = InstanceId(spec(1).instance_id)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path)


@pytest.fixture
async def node(site: Site) -> AsyncIterator[Node]:
    async with running(site) as started:
        yield started


async def test_a_start_that_fails_is_tried_for_as_long_as_what_it_needs_takes_to_come_back(node: Node) -> None:
    node.hypervisor.faults.failing_prepares = Patience().tries + 1
    await node.client.ensure(spec(1))
    await node.client.until(FIRST, RUNNING)


async def test_a_start_that_fails_on_is_given_up_with_a_reason(site: Site) -> None:
    async with running(site, patience=Patience(fault_s=0)) as node:
        await node.client.ensure(spec(1))
        await node.client.until(FIRST, RUNNING)
        node.hypervisor.faults.failing_prepares = 3
        await node.client.ensure(spec(2))
        second = InstanceId(spec(2).instance_id)
        told = await node.client.until(second, FAILED)
        assert told.reason_code == "Server.InternalError"
        assert "told to fail" in told.message
        assert await node.hypervisor.power_of(second) is None
        assert set(await node.network.observe()) == {spec(1).interface.interface_id}
        assert not node.disk(second).exists()
        await node.client.terminate(second)
        await node.client.until(second, GONE)


async def test_an_image_that_is_gone_or_wrong_fails_in_the_callers_name(node: Node) -> None:
    missing = spec(1)
    missing.boot.machine.CopyFrom(image("ami-0123456789abcdef1", b"nobody has it"))
    await node.client.ensure(missing)
    assert (await node.client.until(FIRST, FAILED)).reason_code == "Client.InvalidAMIID.NotFound"
    big = spec(2)
    big.shape.disk_bytes = 1024
    await node.client.ensure(big)
    told = await node.client.until(big.instance_id, FAILED)
    assert told.reason_code == "Client.InvalidParameterCombination"
    lying = spec(3)
    lying.boot.machine.format = instance_pb2.IMAGE_FORMAT_QCOW2
    await node.client.ensure(lying)
    told = await node.client.until(lying.instance_id, FAILED)
    assert told.reason_code == "Client.InvalidParameterValue"
