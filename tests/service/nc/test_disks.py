"""A node's volumes, on the fake engine: ordered, attached, asked back, and found again by whoever comes next."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from common.disk_names import SLOTS
from common.errors import InvalidArgument, NotFound, Stale
from common.ids import InstanceId
from mallee.nc.v1 import instance_pb2, service_pb2
from tests.eventually import eventually
from tests.service.nc.stage import Node, Site, make_site, running
from tests.unit.nc.specs import spec

ID = InstanceId(spec().instance_id)
VOLUME, OTHER = "vol-0123456789abcdef0", "vol-0123456789abcdef1"
MIB = 1 << 20
RUNNING, GONE = instance_pb2.VM_STATE_RUNNING, instance_pb2.VM_STATE_GONE
PLUGGING, PLUGGED = instance_pb2.DISK_STATE_PLUGGING, instance_pb2.DISK_STATE_PLUGGED
UNPLUGGING, BUSY = instance_pb2.DISK_STATE_UNPLUGGING, instance_pb2.DISK_STATE_BUSY
FAILED = instance_pb2.DISK_STATE_FAILED


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path)


@pytest.fixture
async def node(site: Site) -> AsyncIterator[Node]:
    async with running(site) as started:
        yield started


def disk(volume_id: str = VOLUME, *, slot: int = 5, generation: int = 1, size: int = MIB) -> instance_pb2.Disk:
    return instance_pb2.Disk(
        volume_id=volume_id, slot=slot, grant_generation=generation, size_bytes=size, device_name="/dev/sdf"
    )


def plan(revision: int, *disks: instance_pb2.Disk) -> instance_pb2.DiskPlan:
    return instance_pb2.DiskPlan(revision=revision, disks=disks)


async def order(node: Node, plan: instance_pb2.DiskPlan, *, generation: int = 1) -> instance_pb2.InstanceObservation:
    request = service_pb2.SetDisksRequest(epoch=1, instance_id=ID, generation=generation, plan=plan)
    answer: service_pb2.SetDisksResponse = await node.client.stub.SetDisks(request)
    return answer.observation


async def launch(node: Node, disks: instance_pb2.DiskPlan | None = None) -> None:
    made = spec()
    if disks is not None:
        made.disks.CopyFrom(disks)
    await node.client.ensure(made)
    await node.client.until(ID, RUNNING)


async def until(node: Node, revision: int, states: dict[str, int], *, within_s: float = 15.0) -> None:
    """What is told of the plan of this revision."""

    def holds() -> bool:
        seen = node.client.seen.get(ID)
        if seen is None or seen.disks_revision != revision:
            return False
        return {disk.volume_id: disk.state for disk in seen.disks} == states

    await eventually(holds, within_s=within_s)


async def test_volumes_come_and_go_while_the_guest_runs(node: Node) -> None:
    await launch(node)
    await order(node, plan(1, disk(), disk(OTHER, slot=6)))
    await until(node, 1, {VOLUME: PLUGGED, OTHER: PLUGGED})
    await order(node, plan(2, disk(OTHER, slot=6)))
    await until(node, 2, {OTHER: PLUGGED})
    await order(node, plan(3))
    await until(node, 3, {})
    assert await node.hypervisor.disks_of(ID) == []


async def test_a_guest_has_the_volumes_of_its_launch_from_the_first_moment(node: Node) -> None:
    await launch(node, plan(1, disk()))
    (attached,) = await node.hypervisor.disks_of(ID)
    assert (attached.volume_id, attached.slot, attached.generation) == (VOLUME, 5, 1)
    await until(node, 1, {VOLUME: PLUGGED})


async def test_an_older_plan_changes_nothing_and_a_wrong_one_is_refused(node: Node) -> None:
    await launch(node)
    await order(node, plan(5, disk()))
    await order(node, plan(4))
    await until(node, 5, {VOLUME: PLUGGED})
    with pytest.raises(Stale):
        await order(node, plan(6), generation=2)
    for wrong in (disk("vol-x"), disk(slot=SLOTS), disk(size=100)):
        with pytest.raises(InvalidArgument):
            await order(node, plan(7, wrong))
    with pytest.raises(InvalidArgument):
        await order(node, plan(7, disk(), disk(OTHER)))
    request = service_pb2.SetDisksRequest(epoch=1, instance_id=spec(2).instance_id, generation=1, plan=plan(1))
    with pytest.raises(NotFound):
        await node.client.stub.SetDisks(request)


async def test_a_volume_waits_for_its_grant_and_holds_up_no_other(node: Node) -> None:
    await launch(node)
    node.grants.granted[VOLUME] = 0
    await order(node, plan(1, disk(), disk(OTHER, slot=6)))
    await until(node, 1, {VOLUME: PLUGGING, OTHER: PLUGGED})
    node.grants.granted[VOLUME] = 1
    await until(node, 1, {VOLUME: PLUGGED, OTHER: PLUGGED})


async def test_a_new_grant_or_a_larger_volume_is_taken_over_in_place(node: Node) -> None:
    await launch(node)
    await order(node, plan(1, disk()))
    await until(node, 1, {VOLUME: PLUGGED})
    await order(node, plan(2, disk(generation=2, size=2 * MIB)))
    await until(node, 2, {VOLUME: PLUGGED})
    (attached,) = await node.hypervisor.disks_of(ID)
    assert (attached.generation, attached.size_bytes) == (2, 2 * MIB)


def _passes() -> float:
    found = (
        REGISTRY.get_sample_value("mallee_reconcile_passes_total", {"reconciler": "nc-disk", "outcome": o})
        for o in ("done", "again")
    )
    return sum(value or 0.0 for value in found)


async def test_a_guest_that_keeps_its_disk_is_told_busy_until_it_lets_go(node: Node) -> None:
    await launch(node)
    await order(node, plan(1, disk()))
    await until(node, 1, {VOLUME: PLUGGED})
    node.hypervisor.faults.keeps_disks = True
    passes = _passes()
    await order(node, plan(2))
    await until(node, 2, {VOLUME: UNPLUGGING})
    await until(node, 2, {VOLUME: BUSY})
    # It is asked now and then, not all the time.
    assert _passes() - passes < 20
    forced = plan(3)
    forced.forced_volume_ids.append(VOLUME)
    await order(node, forced)
    await eventually(lambda: node.hypervisor.forced == {VOLUME})
    node.hypervisor.faults.keeps_disks = False
    node.hypervisor.guest_releases(ID)
    await until(node, 3, {})


async def test_a_disk_that_the_engine_refuses_has_failed_until_it_is_refused_no_more(node: Node) -> None:
    await launch(node)
    node.hypervisor.faults.failing_attaches = 1000
    await order(node, plan(1, disk()))
    await until(node, 1, {VOLUME: FAILED})
    assert "told to fail" in node.client.seen[ID].disks[0].message
    node.hypervisor.faults.failing_attaches = 0
    await until(node, 1, {VOLUME: PLUGGED})


async def test_another_node_controller_and_a_host_that_reboots_find_the_same_volumes(site: Site) -> None:
    async with running(site) as node:
        await launch(node)
        await order(node, plan(1, disk()))
        await until(node, 1, {VOLUME: PLUGGED})
    async with running(site) as node:
        await until(node, 1, {VOLUME: PLUGGED})
        # It was attached before: nothing had to be asked for.
        assert node.grants.redeemed == []
        node.hypervisor.host_reboots()
        await eventually(lambda: node.grants.redeemed == [(VOLUME, 1)])
        await node.client.until(ID, RUNNING)
        await until(node, 1, {VOLUME: PLUGGED})
        assert [d.volume_id for d in await node.hypervisor.disks_of(ID)] == [VOLUME]


async def test_an_instance_boots_from_a_volume_and_has_space_of_its_own(node: Node) -> None:
    made = spec()
    made.boot.ClearField("machine")
    root = disk(slot=0)
    root.root = True
    made.disks.CopyFrom(plan(1, root, instance_pb2.Disk(slot=1, size_bytes=4 * MIB, device_name="/dev/sdb")))
    await node.client.ensure(made)
    await node.client.until(ID, RUNNING)
    space = node.site.paths.space(ID, 0)
    assert space.stat().st_size == 4 * MIB
    assert not node.disk(ID).exists()
    answer = await node.client.stub.DescribeNode(service_pb2.DescribeNodeRequest())
    assert answer.used.disk_bytes == 4 * MIB
    await node.client.terminate(ID)
    await node.client.until(ID, GONE)
    assert node.leftovers() == []


async def test_what_guests_do_with_volumes_is_shown_by_volume(node: Node) -> None:
    await launch(node, plan(1, disk()))
    named = {"volume": VOLUME, "kind": "write"}
    await eventually(lambda: REGISTRY.get_sample_value("mallee_nc_volume_operations_total", named) is not None)


async def test_a_guest_that_is_given_time_shuts_down_and_is_gone(node: Node) -> None:
    await launch(node)
    await _terminate(node, grace_s=600)
    await node.client.until(ID, GONE)
    assert node.leftovers() == []


async def test_a_shorter_grace_ends_a_longer_one(node: Node) -> None:
    await launch(node)
    node.hypervisor.faults.ignores_power_button = True
    assert not await _terminate(node, grace_s=600)
    assert not await _terminate(node, grace_s=900)
    assert await node.hypervisor.power_of(ID) is not None
    await _terminate(node, grace_s=0)
    await node.client.until(ID, GONE)


async def _terminate(node: Node, *, grace_s: int) -> bool:
    request = service_pb2.TerminateInstanceRequest(epoch=1, instance_id=ID, generation=1, grace_s=grace_s)
    answer: service_pb2.TerminateInstanceResponse = await node.client.stub.TerminateInstance(request)
    return answer.gone
