"""A node controller with fake drivers and real gRPC, and what a test holds of it."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.background import Background
from common.config import CloudConfig, NodeConfig, NodesConfig, ZoneConfig
from common.errors import CloudError, NotFound, Unavailable
from common.ids import InstanceId
from common.pki import DOCUMENT_SIGNER, Identity, create_authority, create_self_signed, issue
from common.process import ServiceContext
from common.rpc.channel import cloud_errors, connect
from mallee.nc.v1 import instance_pb2, service_pb2, service_pb2_grpc
from mallee.sc.v1 import volume_pb2
from services.nc.drivers.fake import FakeHypervisor
from services.nc.drivers.network_fake import FakeNetwork
from services.nc.instance import Patience
from services.nc.main import Drivers, assemble, paths_of
from services.nc.overlay import ensure_empty_overlay
from services.nc.paths import NodePaths
from tests.ports import free_port
from tests.unit.nc.specs import KERNEL, MACHINE, RAMDISK

CONFIG = """\
cloud_id = "c0de"
home = "{home}"
[etcd]
endpoints = {etcd}
[nodes]
hypervisor = "fake"
cpu_overcommit = 2.0
disk_reserve_bytes = 0
[[zones]]
name = "us-east-1a"
cc_port = 1
cc_metrics_port = 2
[[zones.nodes]]
name = "{node}"
address = "127.0.0.1"
port = {port}
metrics_port = 0
cores = 8
memory_bytes = 1073741824
disk_bytes = 1073741824
"""
ENVIRONMENT = {"PYTHONPATH": ".:gen", "PATH": "/usr/bin:/bin"}
NODE, CC, ZONE = "nc-us-east-1a-1", "cc-us-east-1a", "us-east-1a"
DEADLINE_S = 30


@dataclass
class Shelf:
    """Images as Walrus would send them."""

    contents: dict[str, bytes] = field(
        default_factory=lambda: {hashlib.sha256(content).hexdigest(): content for content in (MACHINE, KERNEL, RAMDISK)}
    )
    chunk_bytes: int = 1000
    # (sha256, offset) of each fetch that began.
    fetched: list[tuple[str, int]] = field(default_factory=list)
    # So many chunks, then the line is cut.
    cut_after: int | None = None
    # Sent as they are, whatever was asked for.
    garbled: bool = False
    open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.open.set()

    async def fetch(self, image: instance_pb2.Image, offset: int) -> AsyncGenerator[bytes, None]:
        self.fetched.append((image.sha256, offset))
        content = self.contents.get(image.sha256)
        if content is None:
            raise NotFound("no such pin", code="InvalidAMIID.NotFound")
        if self.garbled:
            content = bytes(len(content) - 1) + b"!"
        for number, at in enumerate(range(offset, len(content), self.chunk_bytes)):
            await self.open.wait()
            if self.cut_after is not None and number >= self.cut_after:
                raise Unavailable("the line was cut")
            yield content[at : at + self.chunk_bytes]


@dataclass
class Grants:
    """The storage controller's word."""

    # Volume → the generation that is granted to this node. One that is not here is granted whatever is asked for.
    granted: dict[str, int] = field(default_factory=dict)
    # → its size, as it is exported.
    sizes: dict[str, int] = field(default_factory=dict)
    # Each that was asked for.
    redeemed: list[tuple[str, int]] = field(default_factory=list)
    error: CloudError | None = None

    async def redeem(self, volume_id: str, generation: int) -> volume_pb2.Export:
        self.redeemed.append((volume_id, generation))
        if self.error is not None:
            raise self.error
        if self.granted.get(volume_id, generation) != generation:
            raise Unavailable(f"{volume_id} is not granted yet")
        return volume_pb2.Export(
            unix_socket=f"/run/{volume_id}", name=volume_id, size_bytes=self.sizes.get(volume_id, 0)
        )


@dataclass(frozen=True)
class Site:
    """What stands on disk before any process."""

    config: CloudConfig

    @property
    def paths(self) -> NodePaths:
        return paths_of(self.config, NODE)

    def identity(self, member: str) -> Identity:
        return Identity.load(self.config.pki_path, member)


def make_site(folder: Path, *, cores: int = 2) -> Site:
    node = NodeConfig(
        name=NODE, address="127.0.0.1", port=free_port(), cores=cores, memory_bytes=1 << 30, disk_bytes=1 << 30
    )
    config = CloudConfig(
        cloud_id="c0de",
        home=str(folder),
        nodes=NodesConfig(hypervisor="fake", cpu_overcommit=2.0, disk_reserve_bytes=0, cache_bytes=1 << 20),
        zones=(ZoneConfig(name=ZONE, cc_port=1, cc_metrics_port=2, nodes=(node,)),),
    )
    create_authority(config.pki_path)
    issue(config.pki_path, NODE, "nc")
    issue(config.pki_path, CC, "cc")
    for name, content in _document_signer().items():
        (config.pki_path / name).write_bytes(content)
    return Site(config)


@functools.cache
def _document_signer() -> dict[str, bytes]:
    """Files; their key takes too long to make one for each test."""
    with tempfile.TemporaryDirectory() as folder:
        create_self_signed(Path(folder), DOCUMENT_SIGNER)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


class Client:
    """The CC's side."""

    def __init__(self, stub: Any) -> None:
        self.stub = stub
        # Last told, by instance.
        self.seen: dict[str, instance_pb2.InstanceObservation] = {}
        self.follows = asyncio.Event()
        self._changed = asyncio.Event()

    async def ensure(self, spec: instance_pb2.InstanceSpec, *, epoch: int = 1) -> instance_pb2.InstanceObservation:
        request = service_pb2.EnsureInstanceRequest(epoch=epoch, spec=spec)
        answer: service_pb2.EnsureInstanceResponse = await self.stub.EnsureInstance(request)
        return answer.observation

    async def terminate(self, instance_id: str, *, epoch: int = 1, generation: int = 1) -> bool:
        request = service_pb2.TerminateInstanceRequest(epoch=epoch, instance_id=instance_id, generation=generation)
        answer: service_pb2.TerminateInstanceResponse = await self.stub.TerminateInstance(request)
        return answer.gone

    async def until(self, instance_id: str, *states: int) -> instance_pb2.InstanceObservation:
        async with asyncio.timeout(DEADLINE_S):
            while instance_id not in self.seen or self.seen[instance_id].state not in states:
                self._changed.clear()
                await self._changed.wait()
        return self.seen[instance_id]

    async def follow(self) -> None:
        """Again after each restart of the node."""
        while True:
            try:
                with cloud_errors():
                    calls = self.stub.WatchInstances(service_pb2.WatchInstancesRequest(), wait_for_ready=True)
                    async for told in calls:
                        self._take(told)
            except Unavailable:
                continue

    def _take(self, told: service_pb2.WatchInstancesResponse) -> None:
        if told.HasField("observation"):
            self.seen[told.observation.instance_id] = told.observation
        self.follows.set()
        self._changed.set()


@dataclass(frozen=True)
class Node:
    site: Site
    hypervisor: FakeHypervisor
    network: FakeNetwork
    shelf: Shelf
    grants: Grants
    client: Client

    def leftovers(self) -> list[Path]:
        """What a node without instances should not have, its cache and tombstones aside."""
        folders = (self.site.paths.instances, self.site.paths.plans, self.site.paths.fake / "domains")
        network = self.site.paths.root / "fake-network"
        return [path for folder in (*folders, network) if folder.exists() for path in folder.iterdir()]

    def disk(self, instance_id: str) -> Path:
        return self.site.paths.disk(InstanceId(instance_id))


@asynccontextmanager
async def running(
    site: Site, shelf: Shelf | None = None, grants: Grants | None = None, *, patience: Patience | None = None
) -> AsyncIterator[Node]:
    """Its end is that of a process: everything recorded stays."""
    shelf, grants = shelf or Shelf(), grants or Grants()
    hypervisor = FakeHypervisor(site.paths.fake)
    network = FakeNetwork(site.paths.root / "fake-network", "127.0.0.1")
    drivers = Drivers(hypervisor=hypervisor, network=network, make_overlay=ensure_empty_overlay, owner=None)
    try:
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            context = ServiceContext(
                config=site.config,
                config_path=Path(),
                member=NODE,
                identity=site.identity(NODE),
                metrics_address="",
                stack=stack,
                tasks=tasks,
            )
            server = await assemble(context, drivers, shelf, grants, walrus=lambda: None, patience=patience)
            async with server, connected(site) as client:
                yield Node(site=site, hypervisor=hypervisor, network=network, shelf=shelf, grants=grants, client=client)
            # The one way to cancel a task group's tasks is to leave it by an exception.
            raise _Ended
    except* _Ended:
        pass


class _Ended(Exception):
    """The test is through with the node."""


@asynccontextmanager
async def connected(site: Site) -> AsyncIterator[Client]:
    _, node = site.config.node(NODE)
    channel = connect(f"127.0.0.1:{node.port}", site.identity(CC), NODE, wait_for_ready=True)
    async with channel, Background() as tasks:
        client = Client(service_pb2_grpc.NodeControllerServiceStub(channel))
        tasks.start(client.follow())
        yield client


@asynccontextmanager
async def process(
    site: Site, module: str = "tests.service.nc.node_process", *, etcd: str = ""
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A node of its own process, ended by SIGKILL."""
    _, node = site.config.node(NODE)
    config = Path(site.config.home) / "mallee.toml"
    endpoints = f'["{etcd}"]' if etcd else "[]"
    config.write_text(CONFIG.format(home=site.config.home, node=NODE, port=node.port, etcd=endpoints))
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, "--config", str(config), "--member", NODE),
        env=ENVIRONMENT,
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.send_signal(signal.SIGKILL)
        await started.wait()
