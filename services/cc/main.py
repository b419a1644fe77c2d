"""The cluster controller of one zone: membership, election, and the server that answers while it leads."""

from __future__ import annotations

import secrets

from common.etcd.client import Etcd
from common.etcd.election import Election
from common.etcd.membership import Membership
from common.process import ServiceContext, run_service
from common.rpc.server import RpcServer
from mallee.cc.v1.service_pb2_grpc import add_ClusterControllerServiceServicer_to_server
from mallee.common.v1.caller_pb2 import Member
from services.cc.service import ClusterController
from services.cc.term import ZoneRules


def main() -> None:
    run_service("cc", build)


async def build(ctx: ServiceContext) -> None:
    zone = ctx.config.zone(ctx.member.removeprefix("cc-"))
    etcd = await ctx.stack.enter_async_context(Etcd(ctx.config.etcd.endpoints, ctx.identity))
    membership = await ctx.stack.enter_async_context(Membership(etcd))
    controller = ClusterController(zone.name)
    address = f"{ctx.config.management_address}:{zone.cc_port}"
    server = RpcServer(ctx.identity, addresses=[address])
    await ctx.serve(server.add(add_ClusterControllerServiceServicer_to_server, controller))
    ctx.on_stop(controller.stop)
    rules = ZoneRules(underlay_cidr=ctx.config.network.underlay_cidr, policy=ctx.config.cc.policy)
    ctx.tasks.create_task(
        Election(etcd, f"cc/{zone.name}", ctx.member).run(
            lambda term: controller.lead(term, etcd, membership, ctx.identity, rules=rules)
        )
    )
    await membership.register(
        Member(
            id=ctx.member,
            role="cc",
            zone=zone.name,
            address=address,
            metrics_address=ctx.metrics_address,
            boot_id=secrets.token_hex(8),
        )
    )


if __name__ == "__main__":
    main()
