"""The real network of a node: a namespace per VPC, routed taps, nftables, dnsmasq and VXLAN. Passes test_network.py.

Blocking work runs in a bounded pool of threads, one at a time for each VPC. A cancelled call lets its thread finish:
half a change is never left behind by a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import pwd
import shutil
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from common import netns
from common.config import CloudConfig, NodeConfig
from common.errors import CloudError, Unavailable
from common.ids import InterfaceId, VpcId
from common.log import get_logger
from mallee.nc.v1 import instance_pb2, network_pb2
from services.nc.net import names
from services.nc.net.ruleset import Doors
from services.nc.net.site import Site
from services.nc.net.vpc import Vpc

_log = get_logger(__name__)

_THREADS: Final = 4
_ANSWER_WITHIN_S: Final = 0.9
# A neighbour that looked just before the address moved asks again; whoever missed one announcement hears the next.
_ANNOUNCE_AGAIN_S: Final = (0.25, 1.0, 3.0)

# How long a VPC may be without its dnsmasq, or without rules that somebody flushed.
_LOOK_AFTER_S: Final = 2.0

T = TypeVar("T")


def doors_of(config: CloudConfig) -> Doors:
    return Doors(
        facade_address=config.network.guest_facade_address,
        management_address=config.management_address,
        facade_port=config.facade.port,
        public_pool=config.network.public_pool,
        underlay_cidr=config.network.underlay_cidr,
        leads_out=bool(config.network.uplink),
        resolvers=config.network.resolvers if config.network.uplink else (),
    )


def state_folder(config: CloudConfig) -> Path:
    """Records of all nodes of the cloud on this machine; as short-lived as the namespaces they tell of."""
    return Path(f"/run/mallee-{config.cloud_id}")


class HostNetwork:
    """services.nc.drivers.base.Network on this machine."""

    def __init__(self, config: CloudConfig, node: NodeConfig) -> None:
        self._site = Site(
            namespace=node.namespace,
            address=node.address,
            region=config.region,
            doors=doors_of(config),
            folder=state_folder(config) / node.namespace,
            tap_owner=_tap_owner(),
        )
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="network")
        # Apart: they wait for guests, and no change waits for them.
        self._askers = ThreadPoolExecutor(_THREADS, thread_name_prefix="network-ask")
        self._locks: dict[VpcId, threading.Lock] = {}
        self._next_look: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        await self._run(self._open)
        self._look_again()

    async def close(self) -> None:
        if self._next_look:
            self._next_look.cancel()
        # What still runs finishes first, off the loop.
        await asyncio.get_running_loop().run_in_executor(None, self._pool.shutdown)
        self._askers.shutdown(wait=False, cancel_futures=True)

    async def prepare_interface(self, interface: instance_pb2.NetworkInterface) -> str:
        return await self._on(VpcId(interface.vpc_id), lambda vpc: vpc.prepare(interface))

    async def plug_interface(self, interface: instance_pb2.NetworkInterface) -> None:
        await self._on(VpcId(interface.vpc_id), lambda vpc: vpc.plug(interface))

    async def remove_interface(self, interface_id: InterfaceId, vpc_id: VpcId) -> None:
        await self._on(vpc_id, lambda vpc: vpc.remove(interface_id))

    async def apply_plan(self, plan: network_pb2.VpcPlan) -> None:
        if fresh := await self._on(VpcId(plan.vpc_id), lambda vpc: vpc.apply(plan)):
            for delay_s in _ANNOUNCE_AGAIN_S:
                asyncio.get_running_loop().call_later(delay_s, self._announce_again, fresh)

    async def observe(self) -> Mapping[InterfaceId, VpcId]:
        return await self._run(self._observe)

    async def answering(self, interfaces: Iterable[instance_pb2.NetworkInterface]) -> set[InterfaceId]:
        by_vpc: dict[VpcId, set[InterfaceId]] = {}
        for interface in interfaces:
            by_vpc.setdefault(VpcId(interface.vpc_id), set()).add(InterfaceId(interface.interface_id))

        def ask(vpc_id: VpcId, ids: set[InterfaceId]) -> set[InterfaceId]:
            return Vpc(self._site, vpc_id).answering(ids, within_s=_ANSWER_WITHIN_S)

        loop = asyncio.get_running_loop()
        try:
            found = await asyncio.gather(
                *(loop.run_in_executor(self._askers, ask, vpc_id, ids) for vpc_id, ids in by_vpc.items())
            )
        except OSError as error:
            raise Unavailable(f"the guests could not be asked: {error}") from error
        return set().union(*found)

    async def metadata_socket(self, vpc_id: VpcId) -> socket.socket:
        return await self._on(vpc_id, Vpc.metadata_socket)

    async def destroy(self) -> None:
        await self._run(self._destroy)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def _on(self, vpc_id: VpcId, work: Callable[[Vpc], T]) -> T:
        return await self._run(lambda: self._alone(vpc_id, work))

    def _alone(self, vpc_id: VpcId, work: Callable[[Vpc], T]) -> T:
        with self._locks.setdefault(vpc_id, threading.Lock()):
            return work(Vpc(self._site, vpc_id))

    def _look_again(self) -> None:
        loop = asyncio.get_running_loop()

        def look() -> None:
            with contextlib.suppress(RuntimeError):  # closed meanwhile
                self._pool.submit(self._look_after)
                self._look_again()

        self._next_look = loop.call_later(_LOOK_AFTER_S, look)

    def _look_after(self) -> None:
        """dnsmasq is nobody's child, links go down and up, and rules are flushed: all are missed by looking."""
        try:
            self._site.mend()
            for vpc_id in self._site.vpcs():
                self._alone(vpc_id, Vpc.keep_serving)
        except (CloudError, OSError) as error:
            _log.warning("the network could not be looked after", error=str(error))

    def _open(self) -> None:
        self._site.open()
        for vpc_id in self._known():
            vpc = Vpc(self._site, vpc_id)
            if vpc.observe():
                vpc.repair()
            else:
                vpc.destroy()

    def _known(self) -> list[VpcId]:
        folder = self._site.folder
        recorded = (
            [VpcId(path.name) for path in folder.iterdir() if VpcId.matches(path.name)] if folder.exists() else []
        )
        return sorted({*self._site.vpcs(), *recorded})

    def _observe(self) -> dict[InterfaceId, VpcId]:
        found = self._site.waiting_taps()
        for vpc_id in self._known():
            found.update(dict.fromkeys(Vpc(self._site, vpc_id).observe(), vpc_id))
        return found

    def _destroy(self) -> None:
        for vpc_id in self._known():
            Vpc(self._site, vpc_id).destroy()
        shutil.rmtree(self._site.folder, ignore_errors=True)
        if netns.namespace_stands(self._site.namespace):
            present = netns.link_kinds(self._site.namespace)
            ours = [link for link in present if names.interface_of(link) or names.vpc_of_uplink(link)]
            netns.links((f"link del {link}" for link in ours), namespace=self._site.namespace)
            netns.rules(
                "".join(f"table {t}\ndelete table {t}\n" for t in ("arp node", "inet node", "inet wire")),
                namespace=self._site.namespace,
            )

    def _announce_again(self, addresses: list[str]) -> None:
        with contextlib.suppress(RuntimeError):  # closed meanwhile
            self._pool.submit(self._announce_what_is_here, addresses)

    def _announce_what_is_here(self, addresses: list[str]) -> None:
        """An address may have moved on since; announcing it then would steal it."""
        self._site.announce(sorted(self._site.published() & set(addresses)))


def _tap_owner() -> str:
    try:
        return pwd.getpwnam("libvirt-qemu").pw_name
    except KeyError:
        return ""
