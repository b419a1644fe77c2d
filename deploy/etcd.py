"""The cloud's own etcd: its command line, the wait for it, and who may touch what in it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.config import CloudConfig
from common.etcd.auth import EtcdUser, ensure_auth
from common.etcd.client import SERVER_NAME, Etcd
from common.etcd.space import QUOTA_BYTES, make_room
from common.pki import Identity
from deploy.layout import METRICS_ABOVE, peer_port
from deploy.names import CLC, ETCD
from deploy.s6 import Service, SupervisorError

# Of members that etcd asks about health.
_BACKOFF_MS: Final = 50
# What a disk of 20 MB/s needs for a file that may not be larger than the quota.
_DEFRAGMENT_S: Final = 240.0


def service(config: CloudConfig) -> Service:
    home, pki = config.home_path, config.pki_path
    client = f"https://{config.etcd.endpoints[0]}"
    address, _, port = config.etcd.endpoints[0].rpartition(":")
    peer = f"https://127.0.0.1:{peer_port(config)}"
    certificate, key, authority = str(pki / f"{ETCD}.pem"), str(pki / f"{ETCD}-key.pem"), str(pki / "ca.pem")
    options = {
        "name": ETCD,
        "data-dir": str(home / "etcd"),
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"{ETCD}={peer}",
        "initial-cluster-token": f"mallee-{config.cloud_id}",
        "listen-metrics-urls": f"http://{address}:{int(port) + METRICS_ABOVE}",
        "client-cert-auth": "true",
        "trusted-ca-file": authority,
        "cert-file": certificate,
        "key-file": key,
        "peer-client-cert-auth": "true",
        "peer-trusted-ca-file": authority,
        "peer-cert-file": certificate,
        "peer-key-file": key,
        # Its JSON gateway would be a second way in, with a certificate of etcd's own.
        "enable-grpc-gateway": "false",
        # Watchers that were away for longer list afresh.
        "auto-compaction-mode": "periodic",
        "auto-compaction-retention": "30m",
        "quota-backend-bytes": str(QUOTA_BYTES),
        # A launch of a hundred instances with their index keys is one transaction.
        "max-txn-ops": "4096",
        "logger": "zap",
        "log-outputs": "stderr",
        "log-level": "warn",
    }
    return Service(
        name=ETCD,
        command=["/usr/bin/etcd", *(f"--{name}={value}" for name, value in options.items())],
        user=config.user,
        notifies=False,
    )


def wait_until_answers(config: CloudConfig, identity: Identity, deadline_s: float) -> None:
    """It cannot tell the supervisor by itself: it answers gRPC's health question. Raises SupervisorError."""
    options = [
        ("grpc.ssl_target_name_override", SERVER_NAME),
        ("grpc.initial_reconnect_backoff_ms", _BACKOFF_MS),
        ("grpc.min_reconnect_backoff_ms", _BACKOFF_MS),
        ("grpc.max_reconnect_backoff_ms", 4 * _BACKOFF_MS),
        ("grpc.enable_http_proxy", 0),
    ]
    address = config.etcd.endpoints[0]
    with grpc.secure_channel(address, identity.channel_credentials(), options=options) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        try:
            health.Check(health_pb2.HealthCheckRequest(), timeout=deadline_s, wait_for_ready=True)
        except grpc.RpcError as error:
            log = config.home_path / "log" / ETCD / "current"
            raise SupervisorError(f"etcd does not answer at {address} after {deadline_s:.0f} s (log: {log})") from error


def allow_members(config: CloudConfig, identity: Identity) -> None:
    """Each member gets its own prefixes and no more. `identity` is admin's."""

    async def allow() -> None:
        async with Etcd(config.etcd.endpoints, identity) as client:
            await ensure_auth(client, users(config))

    asyncio.run(allow())


def ensure_room(config: CloudConfig, identity: Identity) -> bool:
    """True: it had none, and takes writes again. `identity` is admin's."""

    async def ensure() -> bool:
        made = []
        for endpoint in config.etcd.endpoints:
            async with Etcd([endpoint], identity, write_timeout_s=_DEFRAGMENT_S) as client:
                made.append(await make_room(client))
        return any(made)

    return asyncio.run(ensure())


def users(config: CloudConfig) -> Iterator[EtcdUser]:
    walruses = ((member, "walrus") for member in config.walrus.shards)
    facades = ((member, "facade") for member in config.facade.members)
    for member, role in ((CLC, "clc"), *walruses, *facades):
        yield EtcdUser(member_id=member, role=role)
    for zone in config.zones:
        for role in ("cc", "sc"):
            yield EtcdUser(member_id=f"{role}-{zone.name}", role=role, zone=zone.name)
        for node in zone.nodes:
            yield EtcdUser(member_id=node.name, role="nc")
