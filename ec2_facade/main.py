"""The facade as a process: AWS's HTTP APIs in front, gRPC to the CLC and to Walrus behind. Wiring only."""

from __future__ import annotations

import secrets

from common.etcd.client import Etcd
from common.etcd.membership import Membership
from common.process import ServiceContext, run_service
from common.rpc.local import socket_path
from common.rpc.local.channel import LocalChannel
from common.rpc.peers import Peers
from ec2_facade.auth.authenticate import Authenticator
from ec2_facade.auth.keys import KeyCache
from ec2_facade.auth.legacy import LegacyAuthenticator
from ec2_facade.auth.legacy_query import LegacyQueryAuthenticator
from ec2_facade.auth.mechanisms import Authentication
from ec2_facade.auth.watch import follow_access_keys
from ec2_facade.backends import Backends, ClcIdentities
from ec2_facade.limits import Limits
from ec2_facade.pipeline import Pipeline, Protocols
from ec2_facade.proxies import Proxies
from ec2_facade.s3.access_log import AccessLogs
from ec2_facade.server import FacadeServer
from ec2_facade.services import Endpoint
from mallee.common.v1.caller_pb2 import Member

_STOP_GRACE_S = 5.0


async def build(ctx: ServiceContext) -> None:
    config, facade = ctx.config, ctx.config.facade
    limits, keys = Limits().of_one_among(facade.processes), KeyCache()
    etcd = await ctx.stack.enter_async_context(Etcd(config.etcd.endpoints, ctx.identity))
    membership = await ctx.stack.enter_async_context(Membership(etcd))
    clc = await ctx.stack.enter_async_context(
        Peers(membership, ctx.identity, "clc", speak_for_callers=True, wait_for_ready=True)
    )
    walrus = await ctx.stack.enter_async_context(
        Peers(membership, ctx.identity, "walrus", speak_for_callers=True, wait_for_ready=True)
    )
    shards = config.walrus.shards
    local = [LocalChannel(socket_path(config, "walrus", shard)) for shard in range(shards.count)]
    for channel in local:
        ctx.stack.callback(channel.close)
    identities = ClcIdentities(clc)
    access_log = AccessLogs(walrus, shards)
    ctx.tasks.create_task(access_log.run(), name="access log")
    pipeline = Pipeline(
        Protocols.load(),
        Authentication(
            current=Authenticator(keys, identities, region=config.region, clock_skew_s=facade.clock_skew_s),
            legacy=LegacyAuthenticator(identities, clock_skew_s=facade.clock_skew_s),
            legacy_query=LegacyQueryAuthenticator(identities, clock_skew_s=facade.clock_skew_s),
        ),
        Backends(clc=clc, walrus=walrus, local=local, shards=shards),
        limits=limits,
        endpoint=Endpoint(
            region=config.region,
            domains=facade.domains,
            bucket_hosts=facade.bucket_hosts,
            proxies=Proxies(facade.trusted_proxies),
        ),
        note=access_log.note,
    )
    ctx.tasks.create_task(follow_access_keys(keys, identities), name="access keys")
    hosts = dict.fromkeys((config.management_address, *facade.listen))
    server = FacadeServer(pipeline, limits, [(host, facade.port) for host in hosts])
    await server.start()
    ctx.on_stop(lambda: server.stop(_STOP_GRACE_S))
    await membership.register(
        Member(
            id=ctx.member,
            role="facade",
            address=f"{config.management_address}:{facade.port}",
            metrics_address=ctx.metrics_address,
            boot_id=secrets.token_hex(8),
        )
    )


def main() -> None:
    run_service("facade", build)


if __name__ == "__main__":
    main()
