"""RPC between two processes of one host, over a unix socket: the way of small requests and of bodies beside gRPC."""

from __future__ import annotations

from pathlib import Path

from common.config import CloudConfig


def socket_path(config: CloudConfig, role: str, shard: int = 0) -> Path:
    """Where the member of that role serves who runs on its host."""
    return config.sockets_path / (f"{role}-{shard + 1}" if shard else role) / "rpc"
