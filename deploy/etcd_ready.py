"""Waits for etcd, which cannot tell the supervisor by itself: it answers gRPC's health question."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.config import CloudConfig
from common.etcd.client import SERVER_NAME
from common.pki import Identity
from deploy.s6 import SupervisorError


def wait_until_answers(config: CloudConfig, identity: Identity, deadline_s: float) -> None:
    """Raises SupervisorError."""
    options = [
        ("grpc.ssl_target_name_override", SERVER_NAME),
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.min_reconnect_backoff_ms", 50),
        ("grpc.max_reconnect_backoff_ms", 200),
        ("grpc.enable_http_proxy", 0),
    ]
    address = config.etcd.endpoints[0]
    with grpc.secure_channel(address, identity.channel_credentials(), options=options) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        try:
            health.Check(health_pb2.HealthCheckRequest(), timeout=deadline_s, wait_for_ready=True)
        except grpc.RpcError as error:
            log = config.home_path / "log" / "etcd-1" / "current"
            raise SupervisorError(f"etcd does not answer at {address} after {deadline_s:.0f} s (log: {log})") from error
