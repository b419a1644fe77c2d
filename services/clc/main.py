"""The cloud controller's process: configuration → objects → serve."""

from __future__ import annotations

import uuid

from common.etcd.client import Etcd
from common.etcd.election import Election, Leaders
from common.etcd.membership import Membership
from common.etcd.replica import Replica
from common.etcd.space import keep_small
from common.process import ServiceContext, run_service
from common.rpc.peers import Peers
from common.rpc.server import RpcServer
from mallee.clc.v1 import service_pb2_grpc
from mallee.common.v1.caller_pb2 import Member
from services.clc.account.administration import AdministrationService
from services.clc.account.identity import IdentityService
from services.clc.barrier import ReadBarrier
from services.clc.clock import system_clock
from services.clc.clusters import Clusters
from services.clc.metrics import report
from services.clc.reconcile import Leader
from services.clc.service import handlers
from services.clc.storage import Storage
from services.clc.store import PREFIX, Store
from services.clc.use_case import Cloud
from services.clc.volume.attached import Attached
from services.clc.vpc.addresses import AddressBook
from services.clc.walrus import WalrusImages


async def build(ctx: ServiceContext) -> None:
    config, enter = ctx.config, ctx.stack.enter_async_context
    etcd = await enter(Etcd(config.etcd.endpoints, ctx.identity))
    replica = await enter(Replica(etcd, PREFIX))
    membership = await enter(Membership(etcd))
    leaders = await enter(Leaders(etcd))
    zones = {
        zone.name: await enter(Peers(membership, ctx.identity, "cc", zone.name, leaders=leaders))
        for zone in config.zones
    }
    storage_zones = {
        zone.name: await enter(Peers(membership, ctx.identity, "sc", zone.name, leaders=leaders))
        for zone in config.zones
    }
    walrus = await enter(Peers(membership, ctx.identity, "walrus", speak_for_callers=True))

    store = Store(etcd, replica)
    clusters = Clusters(store, zones)
    cloud = Cloud(
        config=config,
        store=store,
        clock=system_clock,
        master_key=(config.pki_path / "master.key").read_bytes(),
        clusters=clusters,
        addresses=AddressBook(store, config.network.public_pool),
        images=WalrusImages(walrus, ctx.config.walrus.shards),
        storage=Storage(store, storage_zones),
        attached=Attached(store),
    )
    report(cloud)
    clusters.follow(ctx.tasks.create_task)
    cloud.storage.follow(ctx.tasks.create_task)

    address = f"{config.management_address}:{config.clc.port}"
    barrier = ReadBarrier(etcd, replica, membership)
    server = RpcServer(ctx.identity, addresses=[address])
    server.add_generic(*handlers(cloud, barrier.wait))
    server.add(service_pb2_grpc.add_IdentityServiceServicer_to_server, IdentityService(cloud))
    server.add(
        service_pb2_grpc.add_AdministrationServiceServicer_to_server,
        AdministrationService(cloud, membership, leaders),
    )
    await ctx.serve(server)

    ctx.tasks.create_task(keep_small(etcd))
    ticket_key = (config.pki_path / "ticket.key").read_bytes()
    election = Election(etcd, "clc", ctx.member)
    ctx.tasks.create_task(election.run(lambda leadership: Leader(cloud, ticket_key).lead(leadership)))
    await membership.register(
        Member(
            id=ctx.member,
            role="clc",
            address=address,
            metrics_address=ctx.metrics_address,
            boot_id=uuid.uuid4().hex,
        )
    )


def main() -> None:
    run_service("clc", build)


if __name__ == "__main__":
    main()
