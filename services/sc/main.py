"""The storage controller of one zone: membership, election, and the server that answers while it leads."""

from __future__ import annotations

import functools
import secrets
import sys

from common.config import CloudConfig
from common.etcd.client import Etcd
from common.etcd.election import Election
from common.etcd.membership import Membership
from common.host import host_id
from common.pki import Identity
from common.process import ServiceContext, run_service
from common.rpc.peers import Peers
from common.rpc.server import RpcServer
from mallee.common.v1.caller_pb2 import Member
from mallee.sc.v1.service_pb2_grpc import add_StorageControllerServiceServicer_to_server
from mallee.walrus.v1.service_pb2_grpc import WalrusServiceStub
from services.sc.drivers.base import VolumeDriver
from services.sc.drivers.fake import FakeVolumes
from services.sc.drivers.qsd.driver import QsdVolumes
from services.sc.import_image import Imports
from services.sc.nbd.fetch import fetch
from services.sc.objects import WalrusObjects
from services.sc.paths import ScPaths, paths_of
from services.sc.service import StorageController
from services.sc.source import WalrusSources
from services.sc.term import Parts
from services.sc.upload import WalrusUploader


def main() -> None:
    run_service("sc", build)


async def build(ctx: ServiceContext) -> None:
    zone = ctx.config.zone(ctx.member.removeprefix("sc-"))
    etcd = await ctx.stack.enter_async_context(Etcd(ctx.config.etcd.endpoints, ctx.identity))
    membership = await ctx.stack.enter_async_context(Membership(etcd))
    paths = paths_of(ctx.config, ctx.member)
    peers = await ctx.stack.enter_async_context(Peers(membership, ctx.identity, "walrus"))
    shards = ctx.config.walrus.shards
    # Snapshots are not shared out: their blocks are the first one's.
    walrus = functools.partial(peers.stub, WalrusServiceStub, shards.first)
    uploader = WalrusUploader(walrus)
    objects = WalrusObjects(lambda bucket: peers.stub(WalrusServiceStub, shards.of(bucket)))
    ctx.stack.push_async_callback(uploader.close)
    command = [
        sys.executable,
        "-m",
        "services.sc.source_main",
        "--config",
        str(ctx.config_path),
        "--member",
        ctx.member,
    ]
    sources = WalrusSources(
        paths.sources,
        paths.sockets / "source",
        command=command,
        holder=ctx.member,
        walrus=walrus,
    )
    parts = Parts(
        driver=driver_of(ctx.config, ctx.identity, paths),
        uploader=uploader,
        sources=sources,
        objects=objects,
        import_image=Imports(objects, uploader, reserve_bytes=ctx.config.sc.reserve_bytes).run,
        work=paths.work,
        overcommit=ctx.config.sc.overcommit,
        share=1 / len(ctx.config.zones),
        reserve_bytes=ctx.config.sc.reserve_bytes,
    )
    here = host_id(ctx.config.home_path) if ctx.config.sc.transport == "auto" else ""
    controller = StorageController(zone.name, ctx.member, host_id=here)
    server = RpcServer(ctx.identity, addresses=[f"{ctx.config.management_address}:{zone.sc_port}"])
    await ctx.serve(server.add(add_StorageControllerServiceServicer_to_server, controller))
    ctx.on_stop(controller.stop)
    ctx.tasks.create_task(
        Election(etcd, f"sc/{zone.name}", ctx.member).run(lambda term: controller.lead(term, etcd, parts))
    )
    await membership.register(
        Member(
            id=ctx.member,
            role="sc",
            zone=zone.name,
            address=f"{ctx.config.management_address}:{server.ports[0]}",
            metrics_address=ctx.metrics_address,
            boot_id=secrets.token_hex(8),
        )
    )


def driver_of(config: CloudConfig, identity: Identity, paths: ScPaths) -> VolumeDriver:
    kind = config.sc.driver
    if kind == "auto":
        kind = "fake" if config.nodes.hypervisor == "fake" else "qsd"
    if kind == "fake":
        return FakeVolumes(paths.volumes, fetch=fetch)
    return QsdVolumes(
        folder=paths.volumes,
        sockets=paths.sockets,
        address=config.management_address,
        identity=identity,
        reserve_bytes=config.sc.reserve_bytes,
    )


if __name__ == "__main__":
    main()
