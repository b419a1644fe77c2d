"""A zone of many pretended nodes in one process, each a real gRPC server, some of which fail as real ones do."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from common import pki
from common.errors import NoCapacity
from common.etcd.client import Etcd
from common.etcd.membership import member_key
from common.pki import Identity
from common.rpc.server import RpcServer
from mallee.common.v1.caller_pb2 import Member
from mallee.nc.v1 import instance_pb2, service_pb2
from mallee.nc.v1.service_pb2_grpc import add_NodeControllerServiceServicer_to_server
from services.cc.placement import NOTHING, Room
from tests.service.cc.fake_node import ZONE, FakeNode


class SimNode(FakeNode):
    """One that has what it has, whatever it tells, and that never takes more."""

    def __init__(self, name: str, *, vcpus: int, identity: Identity, etcd: Etcd) -> None:
        super().__init__(name, vcpus=vcpus)
        self.has = self.whole = Room.of(self.total)
        self.is_there = False
        self._identity = identity
        self._etcd = etcd
        self._server = RpcServer(identity)
        self._starts = 0

    @property
    def used(self) -> Room:
        return sum((Room.needed_by(spec) for spec in self.specs.values()), NOTHING)

    async def start(self) -> None:
        self._starts += 1
        self._server = RpcServer(self._identity).add(add_NodeControllerServiceServicer_to_server, self)
        await self._server.start()
        address = f"127.0.0.1:{self._server.ports[0]}"
        member = Member(id=self.name, role="nc", zone=ZONE, address=address, boot_id=str(self._starts))
        await self._etcd.put(member_key("nc", self.name), member.SerializeToString())
        self.is_there = True

    async def restore(self) -> None:
        """As it was at first, whatever was done to it."""
        self.has = self.whole
        self.total.CopyFrom(self.whole.to_proto())
        for instance in list(self.specs):
            self.say(instance, instance_pb2.VM_STATE_GONE)
        self.gate.set()
        if not self.is_there:
            await self.start()

    async def stop(self) -> None:
        """As one that has died: it is not heard any more, then its lease ends. What it ran is there when it is back."""
        self.is_there = False
        self.gate.set()
        await self._server.stop(0.0)
        await self._etcd.delete(member_key("nc", self.name))

    async def EnsureInstance(
        self, request: service_pb2.EnsureInstanceRequest, context: Any
    ) -> service_pb2.EnsureInstanceResponse:
        await self.gate.wait()
        spec = request.spec
        if spec.instance_id not in self.specs and not (self.has - self.used).holds(Room.needed_by(spec)):
            raise NoCapacity(f"{self.name} has no room")
        answer = await super().EnsureInstance(request, context)
        asyncio.get_running_loop().call_soon(self._runs, spec.instance_id, spec.generation)
        return answer

    async def DescribeNode(
        self, request: service_pb2.DescribeNodeRequest, context: Any
    ) -> service_pb2.DescribeNodeResponse:
        await self.gate.wait()
        return await super().DescribeNode(request, context)

    def _runs(self, instance_id: str, generation: int) -> None:
        if instance_id in self.specs:
            self.say(instance_id, instance_pb2.VM_STATE_RUNNING, generation=generation)


@contextmanager
def identities(names: list[str]) -> Iterator[dict[str, Identity]]:
    """Of a CLC, a CC and the nodes. In memory, where there is such a file system: each file is synced as it is made."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="mallee-sim-", dir=memory if memory.is_dir() else None))
    try:
        pki.create_authority(folder)
        for member, role in (("clc-1", "clc"), ("cc-1", "cc"), *((name, "nc") for name in names)):
            pki.issue(folder, member, role, ips=["127.0.0.1"])
        yield {member: Identity.load(folder, member) for member in ("clc-1", "cc-1", *names)}
    finally:
        shutil.rmtree(folder)


@asynccontextmanager
async def many_nodes(etcd: Etcd, made: dict[str, Identity], dice: random.Random) -> AsyncIterator[list[SimNode]]:
    """All there. Their sizes differ."""
    nodes = [
        SimNode(name, vcpus=dice.choice((4, 8, 16, 32)), identity=made[name], etcd=etcd)
        for name in sorted(member for member in made if made[member].role == "nc")
    ]
    async with AsyncExitStack() as stack:
        for node in nodes:
            await node.start()
            stack.push_async_callback(node.stop)
        yield nodes
