from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path

import pytest
from PIL import Image
from prometheus_client import REGISTRY

from common.errors import InvalidArgument, NoCapacity, NotFound, Stale, WrongState
from common.ids import InstanceId, InterfaceId
from mallee.nc.v1 import instance_pb2, network_pb2, service_pb2
from services.nc.drivers.base import Power
from services.nc.net.policy import Packet
from services.nc.power_off import power_off_all
from services.nc.store import InstanceStore, LockedElsewhere
from tests.eventually import eventually
from tests.service.nc.stage import Node, Site, make_site, running
from tests.unit.nc.specs import MACHINE, spec

RUNNING, GONE = instance_pb2.VM_STATE_RUNNING, instance_pb2.VM_STATE_GONE
FAILED, OFF = instance_pb2.VM_STATE_FAILED, instance_pb2.VM_STATE_POWERED_OFF
FIRST = InstanceId(spec(1).instance_id)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path)


@pytest.fixture
async def node(site: Site) -> AsyncIterator[Node]:
    async with running(site) as started:
        yield started


def plan(revision: int, *numbers: int) -> service_pb2.ApplyVpcPlanRequest:
    made = network_pb2.VpcPlan(vpc_id=spec().interface.vpc_id, revision=revision, vni=7, cidr="172.31.0.0/16")
    for number in numbers:
        of = spec(number).interface
        made.interfaces.add(
            interface_id=of.interface_id,
            instance_id=spec(number).instance_id,
            mac=of.mac,
            private_ipv4=of.private_ipv4,
            public_ipv4=of.public_ipv4,
            node_address="127.0.0.1",
            subnet_id=of.subnet_id,
            group_ids=of.security_group_ids,
        )
    made.groups.add(group_id=spec().interface.security_group_ids[0]).ingress.add(protocol="-1", cidr_ipv4="0.0.0.0/0")
    return service_pb2.ApplyVpcPlanRequest(epoch=1, plan=made)


def is_reached(node: Node) -> bool:
    """At its public address, from the world."""
    return node.network.passes("198.18.0.1", InterfaceId(spec().interface.interface_id), Packet(protocol=6, port=80))


async def test_an_ordered_instance_runs_and_a_terminated_one_leaves_nothing(node: Node) -> None:
    observation = await node.client.ensure(spec())
    assert observation.state == instance_pb2.VM_STATE_PREPARING
    await node.client.until(FIRST, RUNNING)
    assert await node.hypervisor.power_of(FIRST) is Power.RUNNING
    assert set(await node.network.observe()) == {spec().interface.interface_id}
    assert not await node.client.terminate(FIRST)
    await node.client.until(FIRST, GONE)
    assert await node.client.terminate(FIRST)
    assert node.leftovers() == []


async def test_repeating_an_order_changes_nothing(node: Node) -> None:
    for _ in range(3):
        await node.client.ensure(spec())
    await node.client.until(FIRST, RUNNING)
    await node.client.ensure(spec())
    assert node.client.seen[FIRST].state == RUNNING


async def test_many_launches_of_one_image_fetch_it_once(node: Node) -> None:
    for number in range(1, 5):
        await node.client.ensure(spec(number))
    for number in range(1, 5):
        await node.client.until(spec(number).instance_id, RUNNING)
    assert len(node.shelf.fetched) == 3


async def test_orders_of_a_deposed_leader_move_nothing_also_after_a_restart(site: Site) -> None:
    async with running(site) as node:
        await node.client.ensure(spec(), epoch=5)
        with pytest.raises(Stale):
            await node.client.terminate(FIRST, epoch=4)
    async with running(site) as node:
        with pytest.raises(Stale):
            await node.client.terminate(FIRST, epoch=4)
        with pytest.raises(Stale):
            await node.client.ensure(spec(2), epoch=4)
        await node.client.until(FIRST, RUNNING)


async def test_old_generations_are_refused_and_a_new_one_starts_afresh_on_the_same_disk(node: Node) -> None:
    await node.client.ensure(spec(generation=2))
    await node.client.until(FIRST, RUNNING)
    disk = node.disk(FIRST).stat().st_ino
    with pytest.raises(Stale):
        await node.client.ensure(spec(generation=1))
    with pytest.raises(Stale):
        await node.client.terminate(FIRST, generation=1)
    await node.client.ensure(spec(generation=3))
    await eventually(lambda: node.client.seen[FIRST].generation == 3 and node.client.seen[FIRST].state == RUNNING)
    assert node.disk(FIRST).stat().st_ino == disk
    await node.client.terminate(FIRST, generation=3)
    await node.client.until(FIRST, GONE)
    with pytest.raises(Stale):
        await node.client.ensure(spec(generation=3))


async def test_a_full_host_refuses_in_the_call_itself(node: Node) -> None:
    # Two cores, overcommitted twice.
    results = await asyncio.gather(
        *(node.client.ensure(spec(number)) for number in range(1, 7)), return_exceptions=True
    )
    assert sum(isinstance(result, NoCapacity) for result in results) == 2
    described = await node.client.stub.DescribeNode(service_pb2.DescribeNodeRequest())
    assert (described.total.vcpus, described.used.vcpus) == (4, 4)
    assert described.hypervisor == "fake"
    assert described.host_boot_id


@pytest.mark.parametrize(
    "spoil",
    [
        lambda made: setattr(made, "instance_id", "../../etc"),
        lambda made: setattr(made.interface, "mac", "d0:0d"),
        lambda made: setattr(made.interface, "private_ipv4", "10.0.0.1"),
        lambda made: setattr(made.shape, "vcpus", 0),
        lambda made: setattr(made, "generation", 0),
        lambda made: setattr(made.boot, "kernel_arguments", "a\nb"),
        lambda made: made.boot.ClearField("machine"),
    ],
)
async def test_a_malformed_spec_is_refused(node: Node, spoil: Callable[[instance_pb2.InstanceSpec], None]) -> None:
    made = spec()
    spoil(made)
    with pytest.raises(InvalidArgument):
        await node.client.ensure(made)
    assert node.leftovers() == []


async def test_a_guest_that_powers_off_is_seen_at_once(node: Node) -> None:
    await node.client.ensure(spec())
    await node.client.until(FIRST, RUNNING)
    node.hypervisor.guest_powers_off(FIRST)
    told = await node.client.until(FIRST, OFF)
    assert told.reason_code == "Client.InstanceInitiatedShutdown"
    assert await node.hypervisor.power_of(FIRST) is Power.OFF_BY_GUEST


async def test_a_guest_that_crashes_runs_again(node: Node) -> None:
    await node.client.ensure(spec())
    await node.client.until(FIRST, RUNNING)
    node.hypervisor.guest_crashes(FIRST)
    await _runs(node)
    assert node.client.seen[FIRST].state == RUNNING


async def test_after_a_reboot_of_the_host_every_vm_is_started_again(site: Site) -> None:
    async with running(site) as node:
        for number in (1, 2):
            await node.client.ensure(spec(number))
            await node.client.until(spec(number).instance_id, RUNNING)
    async with running(site) as node:
        node.hypervisor.host_reboots()
        await _runs(node, spec(1).instance_id)
        await _runs(node, spec(2).instance_id)


async def test_vms_powered_off_with_the_host_boot_again_with_the_next_start(site: Site) -> None:
    async with running(site) as node:
        await node.client.ensure(spec())
        await node.client.until(FIRST, RUNNING)
        with pytest.raises(LockedElsewhere):
            await power_off_all(InstanceStore(site.paths, now_s=lambda: 0), node.hypervisor, grace_s=0)
        hypervisor = node.hypervisor
    await power_off_all(InstanceStore(site.paths, now_s=lambda: 0), hypervisor, grace_s=0)
    assert await hypervisor.power_of(FIRST) is Power.OFF_BY_HOST
    # However the engine words it.
    hypervisor._write(FIRST, Power.OFF_BY_GUEST)
    async with running(site) as node:
        await _runs(node)
        await node.client.until(FIRST, RUNNING)
    store = InstanceStore(site.paths, now_s=lambda: 0)
    store.open()
    record = store.get(FIRST)
    store.close()
    assert record is not None
    assert not record.held


async def test_a_lost_event_is_made_good_when_the_engine_is_back(node: Node) -> None:
    await node.client.ensure(spec())
    await node.client.until(FIRST, RUNNING)
    node.hypervisor.faults.lose_events = True
    node.hypervisor.guest_powers_off(FIRST)
    node.hypervisor.reconnects()
    await node.client.until(FIRST, OFF)


async def test_terminating_during_a_download_does_not_wait_for_it(node: Node) -> None:
    node.shelf.open.clear()
    await node.client.ensure(spec())
    await eventually(lambda: node.shelf.fetched)
    await node.client.terminate(FIRST)
    await node.client.until(FIRST, GONE)
    assert node.leftovers() == []


async def test_a_plan_that_came_before_its_interface_is_in_force_when_the_guest_starts(node: Node) -> None:
    await node.client.stub.ApplyVpcPlan(plan(3, 1))
    await node.client.ensure(spec())
    await node.client.until(FIRST, RUNNING)
    assert is_reached(node)
    answer = await node.client.stub.ApplyVpcPlan(plan(2))
    assert answer.revision == 3
    assert is_reached(node)


async def test_a_plan_that_does_not_concern_the_node_is_not_kept(node: Node) -> None:
    await node.client.stub.ApplyVpcPlan(plan(1))
    assert node.leftovers() == []


async def test_plans_are_in_force_again_after_a_restart(site: Site) -> None:
    async with running(site) as node:
        await node.client.ensure(spec())
        await node.client.until(FIRST, RUNNING)
        await node.client.stub.ApplyVpcPlan(plan(3, 1))
    async with running(site) as node:
        assert is_reached(node)
        answer = await node.client.stub.ApplyVpcPlan(plan(2))
        assert answer.revision == 3


async def test_the_console_is_read_to_its_end(node: Node) -> None:
    with pytest.raises(NotFound):
        await node.client.stub.GetConsoleOutput(service_pb2.GetConsoleOutputRequest(instance_id=FIRST))
    await node.client.ensure(spec())
    await node.client.until(FIRST, RUNNING)
    answer = await node.client.stub.GetConsoleOutput(service_pb2.GetConsoleOutputRequest(instance_id=FIRST))
    assert answer.output.endswith(b"mallee-guest: ready\r\n")
    assert answer.written_at_ms > 0
    # virtlogd has begun a new file.
    log = node.site.paths.console(FIRST)
    log.rename(log.with_name("console.log.0"))
    log.write_bytes(b"x" * 65530)
    answer = await node.client.stub.GetConsoleOutput(service_pb2.GetConsoleOutputRequest(instance_id=FIRST))
    assert answer.output == b"eady\r\n" + b"x" * 65530
    # Of one that has gone it is still there.
    await node.client.terminate(FIRST)
    await node.client.until(FIRST, GONE)
    gone = await node.client.stub.GetConsoleOutput(service_pb2.GetConsoleOutputRequest(instance_id=FIRST))
    assert gone == answer


async def test_the_screen_of_what_runs_is_a_jpeg(node: Node) -> None:
    request = service_pb2.GetConsoleScreenshotRequest(instance_id=FIRST)
    with pytest.raises(NotFound):
        await node.client.stub.GetConsoleScreenshot(request)
    await node.client.ensure(spec())
    await node.client.until(FIRST, RUNNING)
    screen = await node.client.stub.GetConsoleScreenshot(request)
    with Image.open(io.BytesIO(screen.jpeg)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (720, 400))
    request.wake_up = True
    assert (await node.client.stub.GetConsoleScreenshot(request)).jpeg != screen.jpeg


async def test_a_guest_is_asked_whether_it_is_there(node: Node) -> None:
    async def checked() -> list[tuple[str, int]]:
        request = service_pb2.CheckInstancesRequest(instance_ids=[FIRST, spec(2).instance_id])
        return [(check.instance_id, check.state) for check in (await node.client.stub.CheckInstances(request)).checks]

    assert await checked() == []
    await node.client.ensure(spec())
    await node.client.until(FIRST, RUNNING)
    node.network.faults.deaf = {spec().interface.interface_id}
    assert await checked() == [(FIRST, service_pb2.CHECK_STATE_AWAITED)]
    node.network.faults.deaf = ()
    assert await checked() == [(FIRST, service_pb2.CHECK_STATE_PASSED)]
    node.network.faults.deaf = {spec().interface.interface_id}
    assert await checked() == [(FIRST, service_pb2.CHECK_STATE_FAILED)]


async def test_metrics_tell_what_the_node_has(node: Node) -> None:
    await node.client.ensure(spec())
    await node.client.until(FIRST, RUNNING)
    assert REGISTRY.get_sample_value("mallee_nc_vms", {"phase": "running"}) == 1
    assert (REGISTRY.get_sample_value("mallee_nc_image_cache_bytes") or 0) > len(MACHINE)
    assert (REGISTRY.get_sample_value("mallee_nc_launches_total", {"outcome": "running"}) or 0) >= 1
    assert (REGISTRY.get_sample_value("mallee_nc_launch_seconds_count") or 0) >= 1


async def test_only_what_runs_is_rebooted(node: Node) -> None:
    with pytest.raises(NotFound):
        await node.client.stub.RebootInstance(service_pb2.RebootInstanceRequest(epoch=1, instance_id=FIRST))
    await node.client.ensure(spec())
    await node.client.until(FIRST, RUNNING)
    await node.client.stub.RebootInstance(service_pb2.RebootInstanceRequest(epoch=1, instance_id=FIRST))
    assert node.site.paths.console(FIRST).read_text().count("ready") == 2
    node.hypervisor.guest_powers_off(FIRST)
    await node.client.until(FIRST, OFF)
    with pytest.raises(WrongState):
        await node.client.stub.RebootInstance(service_pb2.RebootInstanceRequest(epoch=1, instance_id=FIRST))


async def _rest(node: Node, rest_s: int, *, grace_s: int = 60, generation: int = 1) -> bool:
    order = service_pb2.RestInstanceRequest(
        epoch=1, instance_id=FIRST, generation=generation, grace_s=grace_s, rest_s=rest_s
    )
    return bool((await node.client.stub.RestInstance(order)).at_rest)


async def _rests(node: Node) -> None:
    await eventually(lambda: node.client.seen[FIRST].at_rest)


async def test_a_guest_rests_until_it_is_woken(site: Site) -> None:
    async with running(site) as node:
        with pytest.raises(NotFound):
            await _rest(node, 60)
        await node.client.ensure(spec())
        await node.client.until(FIRST, RUNNING)
        with pytest.raises(Stale):
            await _rest(node, 60, generation=2)
        assert not await _rest(node, 60)
        await _rests(node)
        # To its owner it runs.
        assert node.client.seen[FIRST].state == RUNNING
        assert await _rest(node, 60)
        await node.client.stub.RebootInstance(service_pb2.RebootInstanceRequest(epoch=1, instance_id=FIRST))
        assert await node.hypervisor.power_of(FIRST) is Power.OFF_BY_GUEST
    # Whoever comes next finds it resting, and boots it when told so.
    async with running(site) as node:
        await node.client.until(FIRST, RUNNING)
        assert await _rest(node, 60)
        assert not await _rest(node, 0)
        await _runs(node)
        await eventually(lambda: not node.client.seen[FIRST].at_rest)
        assert node.site.paths.console(FIRST).read_text().count("ready") == 2
        assert not await _rest(node, 0)


async def test_a_guest_that_nobody_wakes_boots_by_itself(node: Node) -> None:
    await node.client.ensure(spec())
    await node.client.until(FIRST, RUNNING)
    await _rest(node, 1)
    await _rests(node)
    await _runs(node)
    await eventually(lambda: not node.client.seen[FIRST].at_rest)


async def test_a_guest_that_ignores_the_power_button_rests_all_the_same(node: Node) -> None:
    await node.client.ensure(spec())
    await node.client.until(FIRST, RUNNING)
    node.hypervisor.faults.ignores_power_button = True
    await _rest(node, 60, grace_s=1)
    await _rests(node)
    assert await node.hypervisor.power_of(FIRST) is Power.OFF_BY_HOST
    await node.client.terminate(FIRST)
    await node.client.until(FIRST, GONE)


async def test_what_no_record_owns_is_taken_away(site: Site) -> None:
    async with running(site) as node:
        await node.client.ensure(spec())
        await node.client.until(FIRST, RUNNING)
    (site.paths.instance(FIRST) / "record.pb").unlink()
    async with running(site) as node:
        await eventually(lambda: not node.leftovers() or None)


async def _runs(node: Node, instance_id: str = FIRST) -> None:
    async with asyncio.timeout(30):
        async with contextlib.aclosing(_powers(node, InstanceId(instance_id))) as powers:
            async for power in powers:
                if power is Power.RUNNING:
                    return


async def _powers(node: Node, instance_id: InstanceId) -> AsyncGenerator[Power | None, None]:
    changes = node.hypervisor.changes()
    yield await node.hypervisor.power_of(instance_id)
    async for change in changes:
        if change.instance_id == instance_id:
            yield change.power
