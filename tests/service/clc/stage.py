"""A CLC for tests: its real store on a real etcd, with zones and an image store that the test plays."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

from common.config import CloudConfig, ZoneConfig
from common.errors import InvalidArgument, NotFound, Unavailable
from common.etcd.client import Etcd
from common.etcd.replica import Replica
from common.rpc.peers import Peers
from mallee.cc.v1 import service_pb2 as cc
from mallee.clc.v1 import record_pb2
from mallee.common.v1.caller_pb2 import Caller
from mallee.nc.v1 import instance_pb2 as nc
from mallee.nc.v1 import service_pb2 as node
from mallee.walrus.v1 import service_pb2 as walrus
from services.clc.account.create import create_account
from services.clc.clusters import Clusters
from services.clc.storage import Storage
from services.clc.store import PREFIX, Store
from services.clc.use_case import USE_CASES, Call, Cloud, load_use_cases
from services.clc.volume.attached import Attached
from services.clc.vpc.addresses import AddressBook
from services.clc.walrus import Pinned
from tests.eventually import eventually
from tests.service.clc.storage_stage import PlayedStorage

START = 1_800_000_000.0
GIB = 1 << 30


class PlayedZone:
    """A cluster controller that places where it is told to and says what it is told to say."""

    def __init__(self, zone: str, *, nodes: int = 2, vcpus: int = 8) -> None:
        self.zone = zone
        self.nodes = {
            f"nc-{zone}-{n}": node.Resources(vcpus=vcpus, memory_bytes=16 * GIB, disk_bytes=200 * GIB)
            for n in range(1, nodes + 1)
        }
        self.placed: dict[str, tuple[str, nc.InstanceSpec]] = {}
        self.plans: list[Any] = []
        self.orders: list[list[str]] = []
        # Instance → the host that it was ordered to.
        self.hosts: dict[str, str] = {}
        self.away = False
        self.rebooted: list[str] = []
        # Instance → what its guest was told: so many seconds of rest, 0 to wake up.
        self.rests: dict[str, list[int]] = {}
        # Guests that are down for their rest.
        self.resting: set[str] = set()
        self.shuts_down = True
        # Nodes that plans do not reach.
        self.deaf: set[str] = set()
        # How guests answer.
        self.guests = node.CHECK_STATE_PASSED
        self.silent_since_ms = 0
        # Nodes whose lease has ended.
        self.lost: set[str] = set()
        self.refuse: dict[str, tuple[str, str]] = {}
        # Instance → the newest plan of its disks that it was sent, apart from the one of its launch.
        self.disk_plans: dict[str, nc.DiskPlan] = {}
        self._capacity: list[asyncio.Queue[cc.WatchCapacityResponse]] = []
        self._instances: list[asyncio.Queue[cc.WatchInstancesResponse | None]] = []
        self.ended: set[str] = set()

    # What Peers would give.
    def leader_stub(self, _: object) -> PlayedZone:
        if self.away:
            raise Unavailable("nobody leads the zone now")
        return self

    async def EnsureInstances(self, request: cc.EnsureInstancesRequest) -> cc.EnsureInstancesResponse:
        self.orders.append([spec.instance_id for spec in request.specs])
        self.hosts.update(request.hosts)
        placed = []
        for spec in request.specs:
            if spec.instance_id in self.refuse:
                code, message = self.refuse[spec.instance_id]
                placed.append(cc.Placed(instance_id=spec.instance_id, error_code=code, error_message=message))
                continue
            name = sorted(self.nodes)[len(self.placed) % len(self.nodes)]
            self.placed.setdefault(spec.instance_id, (name, spec))
            placed.append(cc.Placed(instance_id=spec.instance_id, node=name, node_address="100.64.0.11"))
        for queue in self._capacity:
            queue.put_nowait(self._news([p.instance_id for p in placed if p.node]))
        return cc.EnsureInstancesResponse(placed=placed)

    async def TerminateInstances(self, request: cc.TerminateInstancesRequest) -> cc.TerminateInstancesResponse:
        await _on_its_way()
        gone = [i.instance_id for i in request.instances]
        for instance_id in gone:
            self.placed.pop(instance_id, None)
            self.ended.add(instance_id)
        return cc.TerminateInstancesResponse(gone=gone)

    async def SetDisks(self, request: cc.SetDisksRequest) -> cc.SetDisksResponse:
        self.disk_plans[request.instance_id] = request.plan
        return cc.SetDisksResponse()

    async def ApplyVpcPlan(self, request: cc.ApplyVpcPlanRequest) -> cc.ApplyVpcPlanResponse:
        await _on_its_way()
        self.plans.append(request.plan)
        return cc.ApplyVpcPlanResponse(missing_nodes=sorted(self.deaf))

    async def GetConsoleOutput(self, request: cc.GetConsoleOutputRequest) -> cc.GetConsoleOutputResponse:
        return cc.GetConsoleOutputResponse(output=b"hello", written_at_ms=1_800_000_000_500)

    async def GetConsoleScreenshot(self, request: cc.GetConsoleScreenshotRequest) -> cc.GetConsoleScreenshotResponse:
        return cc.GetConsoleScreenshotResponse(jpeg=b"woken" if request.wake_up else b"asleep")

    async def CheckInstances(self, request: cc.CheckInstancesRequest) -> cc.CheckInstancesResponse:
        checks = [
            node.InstanceCheck(instance_id=i, state=self.guests, silent_since_ms=self.silent_since_ms)
            for i in request.instance_ids
            if i in self.placed
        ]
        return cc.CheckInstancesResponse(checks=checks)

    async def RebootInstance(self, request: cc.RebootInstanceRequest) -> cc.RebootInstanceResponse:
        self.rebooted.append(request.instance_id)
        return cc.RebootInstanceResponse()

    async def RestInstance(self, request: cc.RestInstanceRequest) -> cc.RestInstanceResponse:
        """What it was told before it knows it is down is told anew."""
        was_down = request.instance_id in self.resting
        self.rests.setdefault(request.instance_id, []).append(request.rest_s)
        if not request.rest_s:
            self.resting.discard(request.instance_id)
        elif self.shuts_down and not was_down:
            self.resting.add(request.instance_id)
            self.says(request.instance_id, nc.VM_STATE_RUNNING, at_rest=True)
        return cc.RestInstanceResponse(at_rest=was_down and request.rest_s > 0)

    async def WatchCapacity(self, _: object) -> AsyncIterator[cc.WatchCapacityResponse]:
        queue: asyncio.Queue[cc.WatchCapacityResponse] = asyncio.Queue()
        self._capacity.append(queue)
        yield self._news(list(self.placed))
        while True:
            yield await queue.get()

    async def WatchInstances(self, _: object) -> AsyncIterator[cc.WatchInstancesResponse]:
        queue: asyncio.Queue[cc.WatchInstancesResponse | None] = asyncio.Queue()
        self._instances.append(queue)
        yield cc.WatchInstancesResponse(snapshot_complete=True)
        while (news := await queue.get()) is not None:
            yield news

    def restarts(self) -> None:
        """Another process leads the zone from now on."""
        for queue in self._instances:
            queue.put_nowait(None)

    def says(self, instance_id: str, state: int, *, generation: int = 1, **more: Any) -> None:
        observation = nc.InstanceObservation(
            instance_id=instance_id, generation=generation, state=cast("nc.VmState.ValueType", state), **more
        )
        for queue in self._instances:
            queue.put_nowait(cc.WatchInstancesResponse(observation=observation))

    def lose(self, name: str) -> None:
        self.lost.add(name)
        for queue in self._capacity:
            queue.put_nowait(self._news([]))

    def _news(self, placed: list[str]) -> cc.WatchCapacityResponse:
        taken: dict[str, int] = dict.fromkeys(self.nodes, 0)
        for name, spec in self.placed.values():
            taken[name] += spec.shape.vcpus
        return cc.WatchCapacityResponse(
            nodes=[
                cc.NodeCapacity(
                    node=name,
                    alive=name not in self.lost,
                    total=total,
                    free=node.Resources(
                        vcpus=total.vcpus - taken[name], memory_bytes=total.memory_bytes, disk_bytes=total.disk_bytes
                    ),
                )
                for name, total in self.nodes.items()
            ],
            placed_instance_ids=placed,
        )


async def _on_its_way() -> None:
    """As with any call, others may be done meanwhile."""
    for _ in range(50):
        await asyncio.sleep(0)


class PlayedImages:
    """Every key is an image: its first letter tells the kind."""

    def __init__(self) -> None:
        self.pins: dict[str, str] = {}
        self.data: set[str] = set()
        # Snapshot → what it was copied of.
        self.copies: dict[str, str] = {}
        self.forgotten: set[str] = set()

    async def pin(self, image_id: str, *, bucket: str, key: str, certificates: Sequence[str] = ()) -> Pinned:
        kinds = {"k": walrus.IMAGE_KIND_KERNEL, "r": walrus.IMAGE_KIND_RAMDISK, "m": walrus.IMAGE_KIND_MACHINE}
        if key[0] not in kinds:
            raise InvalidArgument("The image has a backing file.", code="InvalidManifest")
        self.pins[image_id] = f"{bucket}/{key}"
        return Pinned(
            kind=kinds[key[0]],
            sha256="ab" * 32,
            size_bytes=1 << 20,
            format=nc.IMAGE_FORMAT_RAW,
            virtual_size_bytes=1 << 20,
        )

    async def copy_pin(self, source_id: str, image_id: str) -> None:
        self.pins[image_id] = self.pins[source_id]

    async def unpin(self, image_id: str) -> None:
        self.pins.pop(image_id, None)

    async def copy_snapshot(self, source_id: str, snapshot_id: str, account_id: str) -> int:
        if source_id in self.forgotten:
            raise NotFound("no such snapshot", code="InvalidSnapshot.NotFound")
        self.copies[snapshot_id] = source_id
        return 1 << 20

    async def forget_snapshot(self, snapshot_id: str) -> None:
        self.forgotten.add(snapshot_id)

    async def delete_account_data(self, account_id: str) -> None:
        self.data.discard(account_id)

    async def has_data(self, account_id: str) -> bool:
        return account_id in self.data


class Stage:
    """`await stage.run("RunInstances", request)` as the account that was made first, or another."""

    def __init__(
        self,
        cloud: Cloud,
        zones: dict[str, PlayedZone],
        images: PlayedImages,
        callers: list[Caller],
        storage: dict[str, PlayedStorage],
    ) -> None:
        self.cloud, self.zones, self.images, self.callers, self.storage = cloud, zones, images, callers, storage
        self.now = START

    async def run(self, action: str, request: Any, *, caller: int = 0) -> Any:
        load_use_cases()
        call = Call(caller=self.callers[caller], request_id="r-1", now=self.now)
        return await USE_CASES[action if "." in action else f"ec2.{action}"](self.cloud, call, request)

    def of_the_other(self) -> Stage:
        """The same, where the second account comes first."""
        return Stage(self.cloud, self.zones, self.images, self.callers[::-1], self.storage)

    def instance(self, instance_id: str) -> record_pb2.InstanceRecord:
        stored = self.cloud.store.get(record_pb2.InstanceRecord, instance_id)
        assert stored is not None
        return stored.record


@contextlib.asynccontextmanager
async def stage_on(address: str) -> AsyncIterator[Stage]:
    """Starts from an empty /mallee/clc/."""
    async with Etcd([address], None) as etcd:
        await etcd.delete_prefix(PREFIX)
        async with Replica(etcd, PREFIX) as replica, asyncio.TaskGroup() as tasks:
            config = CloudConfig(
                cloud_id="abcd",
                home="/nowhere",
                zones=tuple(ZoneConfig(name=f"us-east-1{z}", cc_port=1, cc_metrics_port=2) for z in "ab"),
            )
            zones = {zone.name: PlayedZone(zone.name) for zone in config.zones}
            played = {zone.name: PlayedStorage(zone.name) for zone in config.zones}
            store, images = Store(etcd, replica), PlayedImages()
            clusters = Clusters(store, cast("dict[str, Peers]", zones), clock=lambda: stage.now)
            stage: Stage
            cloud = Cloud(
                config=config,
                store=store,
                clock=lambda: stage.now,
                master_key=b"k" * 32,
                clusters=clusters,
                addresses=AddressBook(store, config.network.public_pool),
                images=images,
                storage=Storage(store, cast("dict[str, Peers]", played)),
                attached=Attached(store),
            )
            stage = Stage(cloud, zones, images, [], played)
            for name in ("alice", "bob"):
                account, key_id, _ = await create_account(cloud, name)
                stage.callers.append(
                    Caller(
                        account_id=account.account_id,
                        arn=f"arn:aws:iam::{account.account_id}:root",
                        user_id=account.account_id,
                        access_key_id=key_id,
                    )
                )
            following = [tasks.create_task(cluster.follow_capacity()) for cluster in clusters]
            cloud.storage.follow(lambda work: following.append(tasks.create_task(work)))
            await eventually(lambda: all(zone.connected for zone in (*clusters, *cloud.storage)))
            yield stage
            for task in following:
                task.cancel()
