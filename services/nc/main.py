"""The node controller's process: configuration -> objects -> serve. Wiring alone.

    python -m services.nc.main --config FILE --member nc-us-east-1a-1
    python -m services.nc.main --config FILE --member nc-us-east-1a-1 --power-off-all

The second, while the first does not run, powers every VM of the node off; the node's next start boots them again.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import os
import pwd
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from common.config import CloudConfig, ConfigError, NodeConfig, load
from common.errors import CloudError, Unavailable
from common.etcd.client import Etcd
from common.etcd.election import Leaders
from common.etcd.membership import Membership
from common.host import host_id
from common.ids import InstanceId, VpcId
from common.log import get_logger
from common.metrics import gauge
from common.pki import DOCUMENT_SIGNER, load_self_signed
from common.process import EXIT_CONFIG, ServiceContext, run_service
from common.rpc.peers import Peers
from common.rpc.server import RpcServer
from mallee.common.v1.caller_pb2 import Member
from mallee.nc.v1 import service_pb2_grpc
from services.nc.bundle import Bundler
from services.nc.capacity import HostRoom, measure
from services.nc.check import GuestCheck
from services.nc.clients import StorageExports, WalrusImages
from services.nc.disk_metrics import DiskMetrics
from services.nc.disks import DiskReconciler, Exports
from services.nc.drivers.base import Hypervisor, Network
from services.nc.drivers.power import choose_kind
from services.nc.host import Host
from services.nc.identity_document import DocumentSigner, token_key
from services.nc.images import ImageCache, ImageSource
from services.nc.instance import Patience, Phase
from services.nc.metadata import MetadataServer
from services.nc.metadata_tree import Subject
from services.nc.orders import Orders
from services.nc.overlay import MakeOverlay, QemuOverlays, ensure_empty_overlay
from services.nc.paths import NodePaths
from services.nc.plans import Plans
from services.nc.power_off import power_off_all
from services.nc.reconcile import InstanceReconciler
from services.nc.service import NodeControllerService, NodeFacts
from services.nc.store import InstanceStore

_log = get_logger(__name__)

_JOIN_AGAIN_S: Final = 1.0
# How nice a pretended node is (nice(2)).
_YIELDS: Final = 10
_ENGINE_AGAIN_S: Final = 0.5
QEMU_USER: Final = "libvirt-qemu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drivers:
    hypervisor: Hypervisor
    network: Network
    make_overlay: MakeOverlay
    # uid and gid that QEMU runs as; None: there is no QEMU.
    owner: tuple[int, int] | None


def main() -> None:
    if "--power-off-all" in sys.argv:
        _power_off_all()
    run_service("nc", build)


async def build(ctx: ServiceContext) -> None:
    _, node = ctx.config.node(ctx.member)
    paths = paths_of(ctx.config, ctx.member)
    paths.make()
    images, exports = WalrusImages(ctx.config.walrus.shards), StorageExports(host_id(ctx.config.home_path))
    server = await assemble(ctx, drivers_of(ctx.config, node, paths), images, exports, walrus=lambda: images.walrus)
    await ctx.serve(server)
    if ctx.config.nodes.hypervisor == "fake":
        # It stands for another machine: the cores of this one go first to those whom it is to serve.
        os.nice(_YIELDS)
    ctx.tasks.create_task(_join(ctx, images, exports, f"{node.address}:{server.ports[0]}"))


async def assemble(
    ctx: ServiceContext,
    drivers: Drivers,
    source: ImageSource,
    exports: Exports,
    *,
    walrus: Callable[[], Peers | None],
    patience: Patience | None = None,
) -> RpcServer:
    """Everything of the node but its membership; what it recorded before is at work again when this returns."""
    config = ctx.config
    zone, node = config.node(ctx.member)
    store = InstanceStore(paths_of(config, ctx.member), now_s=time.time)
    store.open()
    ctx.stack.callback(store.close)
    host = await _host(ctx, drivers, source, exports, store)
    orders = Orders(
        store,
        paths=host.paths,
        hypervisor=host.hypervisor,
        images=host.images,
        room=HostRoom(
            total=measure(node, config.nodes, host.paths.root),
            folder=host.paths.root,
            disk_reserve_bytes=config.nodes.disk_reserve_bytes,
            memory_share=0.0 if host.hypervisor.kind == "fake" else 1 / config.nodes.memory_overcommit,
        ),
        nudge=_work(ctx, host, exports, store, patience),
        now_s=time.time,
    )
    _show(store)
    facts = NodeFacts(
        node=ctx.member,
        zone=zone.name,
        underlay_address=node.address,
        hypervisor=host.hypervisor.kind,
        host_boot_id=host_boot_id(),
    )
    guests = GuestCheck(store, host.network, now_s=time.time)
    bundler = _bundler(config, host, store, walrus)
    service = NodeControllerService(facts, orders=orders, store=store, plans=host.plans, guests=guests, bundler=bundler)
    server = RpcServer(ctx.identity, addresses=[f"{node.address}:{node.port}"])
    return server.add(service_pb2_grpc.add_NodeControllerServiceServicer_to_server, service)


def _bundler(config: CloudConfig, host: Host, store: InstanceStore, walrus: Callable[[], Peers | None]) -> Bundler:
    bundler = Bundler(
        store,
        host.hypervisor,
        host.paths.bundles,
        owner=host.owner,
        reserve_bytes=config.nodes.disk_reserve_bytes,
        walrus=walrus,
        shards=config.walrus.shards,
    )
    bundler.open()
    return bundler


def _work(
    ctx: ServiceContext, host: Host, exports: Exports, store: InstanceStore, patience: Patience | None
) -> Callable[[InstanceId], None]:
    """From now on everything is brought to where it should be. Returns what is to be called when a record changed."""
    instances = InstanceReconciler(store, host, patience=patience)
    disks = DiskReconciler(store, host.hypervisor, exports)
    metrics = DiskMetrics(store, host.hypervisor)
    ctx.stack.callback(metrics.close)
    for loop in (instances, disks, metrics):
        ctx.tasks.create_task(loop.run())

    def nudge(instance_id: InstanceId) -> None:
        instances.nudge(instance_id)
        disks.nudge(instance_id)

    return nudge


async def _host(
    ctx: ServiceContext, drivers: Drivers, source: ImageSource, exports: Exports, store: InstanceStore
) -> Host:
    """The engines, open; networks and metadata as they were recorded."""
    config = ctx.config
    _, node = config.node(ctx.member)
    paths = paths_of(config, ctx.member)
    hypervisor, network = drivers.hypervisor, drivers.network
    await _open(hypervisor)
    ctx.stack.push_async_callback(hypervisor.close)
    await network.open()
    ctx.stack.push_async_callback(network.close)
    plans = Plans(paths, network, node_address=node.address, is_used=lambda vpc_id: vpc_id in store.usage.vpcs)
    plans.open()
    metadata = MetadataServer(
        network,
        functools.partial(_find_subject, store, plans),
        signer=DocumentSigner(*load_self_signed(config.pki_path, DOCUMENT_SIGNER)),
        token_key=token_key(ctx.identity),
    )
    ctx.stack.push_async_callback(metadata.close)
    await plans.apply_all(store.usage.vpcs)
    await metadata.serve_all(set((await network.observe()).values()))
    cache = ImageCache(
        paths.cache,
        source,
        limit_bytes=config.nodes.cache_bytes,
        reserve_bytes=config.nodes.disk_reserve_bytes,
        in_use=lambda: store.usage.contents,
        group_id=drivers.owner[1] if drivers.owner else None,
    )
    cache.open()
    return Host(
        paths=paths,
        hypervisor=hypervisor,
        network=network,
        images=cache,
        exports=exports,
        make_overlay=drivers.make_overlay,
        plans=plans,
        metadata=metadata,
        other_vpcs=lambda but: store.usage.vpcs_without(store.get(but)),
        owner=drivers.owner,
    )


async def _open(hypervisor: Hypervisor) -> None:
    """Its engine may have been killed or started together with this process."""
    while True:
        try:
            return await hypervisor.open()
        except Unavailable as error:
            _log.warning("the hypervisor does not answer yet", error=str(error))
        await asyncio.sleep(_ENGINE_AGAIN_S)


def paths_of(config: CloudConfig, member: str) -> NodePaths:
    return NodePaths(config.home_path / "nodes" / member)


def drivers_of(config: CloudConfig, node: NodeConfig, paths: NodePaths) -> Drivers:
    """The fake ones import no libvirt."""
    if config.nodes.hypervisor == "fake":
        from services.nc.drivers.fake import FakeHypervisor
        from services.nc.drivers.network_fake import FakeNetwork

        return Drivers(
            hypervisor=FakeHypervisor(paths.fake),
            network=FakeNetwork(paths.root / "fake-network", node.address),
            make_overlay=ensure_empty_overlay,
            owner=None,
        )
    from services.nc.drivers.libvirt import LibvirtHypervisor
    from services.nc.drivers.network import HostNetwork

    user = pwd.getpwnam(QEMU_USER)
    return Drivers(
        hypervisor=LibvirtHypervisor(
            uri=f"qemu+unix:///system?socket={paths.libvirt_socket}",
            log_folder=paths.libvirt_logs,
            cloud_id=config.cloud_id,
            kind=choose_kind(config.nodes.hypervisor, Path("/proc/cpuinfo").read_text()),
            qemu_user=QEMU_USER,
        ),
        network=HostNetwork(config, node),
        make_overlay=QemuOverlays(),
        owner=(user.pw_uid, user.pw_gid),
    )


def host_boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


async def _join(ctx: ServiceContext, images: WalrusImages, exports: StorageExports, address: str) -> None:
    """Beside the rest: a node whose etcd is down still looks after its VMs."""
    zone, _ = ctx.config.node(ctx.member)
    member = Member(
        id=ctx.member,
        role="nc",
        zone=zone.name,
        address=address,
        metrics_address=ctx.metrics_address,
        boot_id=secrets.token_hex(8),
    )
    while True:
        try:
            async with (
                Etcd(ctx.config.etcd.endpoints, ctx.identity) as etcd,
                Membership(etcd) as membership,
                Leaders(etcd) as leaders,
                Peers(membership, ctx.identity, "walrus") as walrus,
                Peers(membership, ctx.identity, "sc", zone.name, leaders=leaders) as storage,
            ):
                images.walrus, exports.storage = walrus, storage
                await membership.register(member)
                await asyncio.get_running_loop().create_future()
        except* Unavailable as error:
            _log.warning("etcd does not answer, joining the cloud later", error=str(error.exceptions[0]))
        await asyncio.sleep(_JOIN_AGAIN_S)


def _find_subject(store: InstanceStore, plans: Plans, vpc_id: VpcId, private_ipv4: str) -> Subject | None:
    for record in store.all().values():
        interface = record.spec.interface
        if interface.vpc_id == vpc_id and interface.private_ipv4 == private_ipv4:
            return Subject.of(record.spec, plans.get(vpc_id))
    return None


def _show(store: InstanceStore) -> None:
    vms = gauge("mallee_nc_vms", "VMs on this node, by phase", ("phase",))

    def count(phase: Phase) -> float:
        return sum(record.phase == phase.value for record in store.all().values())

    for phase in Phase:
        vms.labels(phase.name.lower()).set_function(functools.partial(count, phase))


def _power_off_all() -> NoReturn:
    parser = argparse.ArgumentParser(prog="mallee-nc")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--member", required=True)
    parser.add_argument("--power-off-all", action="store_true", required=True)
    parser.add_argument("--grace", type=float, default=20.0, help="seconds a guest is given to shut down")
    arguments = parser.parse_args()
    try:
        config = load(arguments.config)
        _, node = config.node(arguments.member)
        paths = paths_of(config, arguments.member)
        paths.make()
        hypervisor = drivers_of(config, node, paths).hypervisor
        asyncio.run(power_off_all(InstanceStore(paths, now_s=time.time), hypervisor, grace_s=arguments.grace))
    except ConfigError as error:
        print(f"mallee-nc: {error}", file=sys.stderr)
        sys.exit(EXIT_CONFIG)
    except (CloudError, OSError) as error:
        print(f"mallee-nc: {error}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main()
