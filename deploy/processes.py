"""The processes of a cloud, as the supervisor runs them: commands, users, namespaces. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from common.config import CloudConfig, NodeConfig
from deploy.config_file import FILE_NAME
from deploy.libvirt import daemon_service, log_daemon_service
from deploy.names import CLC
from deploy.s6 import Service

# Our children exec at once and never speak gRPC.
_GRPC: Final = {"GRPC_ENABLE_FORK_SUPPORT": "0"}

# glibc gives memory back to the kernel after every body that passes, and gets it again page by page: with these, bodies
# stream about twice as fast at half the CPU.
_MALLOC: Final = {
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TRIM_THRESHOLD_": "536870912",
    "MALLOC_TOP_PAD_": "16777216",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """Where the services' code is: a snapshot, a checkout or an installed wheel."""

    python: str
    folder: Path

    @property
    def search_path(self) -> str:
        """The folder itself, and the generated stubs where they are not installed beside it."""
        return f"{self.folder}:{self.folder / 'gen'}"


def engine_services(config: CloudConfig) -> Iterator[Service]:
    """What runs the guests."""
    for zone in config.zones:
        for node in zone.nodes:
            if node.namespace:
                yield log_daemon_service(config, node)
                yield daemon_service(config, node)


def services(config: CloudConfig, code: Code) -> Iterator[Service]:
    """All but etcd, which comes first."""
    yield from engine_services(config)
    yield _python(config, code, "services.clc.main", CLC)
    for walrus in config.walrus.shards:
        yield _python(config, code, "services.walrus.main", walrus)
    for facade in config.facade.members:
        yield _python(config, code, "ec2_facade.main", facade)
    for zone in config.zones:
        yield _python(config, code, "services.cc.main", f"cc-{zone.name}")
        yield _python(config, code, "services.sc.main", f"sc-{zone.name}")
        for node in zone.nodes:
            yield _python(config, code, "services.nc.main", node.name, node)


def power_off_services(config: CloudConfig, code: Code) -> Iterator[Service]:
    """One for each node, which ends by itself when its guests are off. Its node controller must not run meanwhile."""
    for zone in config.zones:
        for node in zone.nodes:
            controller = _python(config, code, "services.nc.main", node.name, node)
            yield replace(controller, command=[*controller.command, "--power-off-all"])


def _python(config: CloudConfig, code: Code, module: str, member: str, node: NodeConfig | None = None) -> Service:
    file = config.home_path / FILE_NAME
    privileged = node is not None and bool(node.namespace)
    return Service(
        name=member,
        command=[code.python, "-P", "-m", module, "--config", str(file), "--member", member],
        user="" if privileged else config.user,
        namespace=node.namespace if node else "",
        environment={"PYTHONPATH": code.search_path, "PYTHONUNBUFFERED": "1", **_GRPC, **_MALLOC},
        reads=[file],
    )
