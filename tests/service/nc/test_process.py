"""The node controller as the supervisor starts it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.etcd.client import Etcd
from common.etcd.membership import Membership
from common.ids import InstanceId
from common.pki import issue
from mallee.nc.v1 import instance_pb2, service_pb2
from services.nc.drivers.base import Power
from services.nc.drivers.fake import FakeHypervisor
from tests.etcd_fixture import EtcdServer
from tests.eventually import becomes
from tests.service.nc.stage import CC, ENVIRONMENT, NODE, ZONE, Site, connected, make_site, process
from tests.unit.nc.specs import spec

FIRST = InstanceId(spec().instance_id)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path)


@pytest.fixture
def etcd(site: Site) -> Iterator[EtcdServer]:
    """Not started yet."""
    issue(site.config.pki_path, "etcd-1", "etcd", ips=["127.0.0.1"])
    folder = Path(site.config.home) / "etcd"
    folder.mkdir()
    server = EtcdServer("etcd-1", folder, tls=site.config.pki_path)
    yield server
    server.kill()


async def test_it_works_without_etcd_and_joins_when_etcd_is_there(site: Site, etcd: EtcdServer) -> None:
    async with process(site, "services.nc.main", etcd=etcd.address), connected(site) as client:
        described = await client.stub.DescribeNode(service_pb2.DescribeNodeRequest(), timeout=30)
        assert described.node == NODE
        await asyncio.to_thread(etcd.start)
        await asyncio.to_thread(etcd.wait_healthy)
        async with Etcd([etcd.address], site.identity(CC)) as connection, Membership(connection) as membership:
            async with asyncio.timeout(30):
                while not membership.members("nc", ZONE):
                    await membership.changed.wait()
            (member,) = membership.members("nc", ZONE)
            _, node = site.config.node(NODE)
            assert (member.id, member.address) == (NODE, f"127.0.0.1:{node.port}")
            assert member.boot_id


async def test_powering_all_off_is_refused_while_it_runs_and_undone_by_its_next_start(site: Site) -> None:
    command = [sys.executable, "-m", "services.nc.main", "--power-off-all", "--member", NODE, "--config"]
    command.append(f"{site.config.home}/mallee.toml")
    engine = FakeHypervisor(site.paths.fake)
    async with process(site), connected(site) as client:
        await client.ensure(spec())
        await client.until(FIRST, instance_pb2.VM_STATE_RUNNING)
        refused = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, env=ENVIRONMENT)
        assert refused.returncode == 1
        assert "another node controller works here" in refused.stderr
    assert (await asyncio.to_thread(subprocess.run, command, env=ENVIRONMENT)).returncode == 0
    assert await engine.power_of(FIRST) is Power.OFF_BY_HOST

    async def runs() -> bool:
        return await engine.power_of(FIRST) is Power.RUNNING

    async with process(site), connected(site) as client:
        await becomes(runs, within_s=30)
        await client.until(FIRST, instance_pb2.VM_STATE_RUNNING)


def test_the_fake_needs_no_libvirt() -> None:
    program = (
        "import sys; from pathlib import Path; import services.nc.main as m; from common.config import *\n"
        "node = NodeConfig(name='n', address='127.0.0.1')\n"
        "config = CloudConfig(cloud_id='c0de', home='/nowhere', nodes=NodesConfig(hypervisor='fake'))\n"
        "m.drivers_of(config, node, m.paths_of(config, 'n'))\n"
        "print(*({'libvirt'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=ENVIRONMENT)
    assert done.stdout.strip() == ""
