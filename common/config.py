"""The cloud's configuration: one TOML file, read once into frozen dataclasses. An unknown key is an error.

`mallee up` writes it (deploy/ knows how); every process is started with `--config FILE --member ID` and takes from it
what it needs. Units stand in the names.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import itertools
import math
import re
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from common.config_values import CHECKS
from common.config_walrus import WalrusConfig


class ConfigError(ValueError):
    """The file says something that this cloud does not understand; the message names file, key and cause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdConfig:
    # host:port of every member.
    endpoints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """One virtual host on this machine."""

    # Member id and certificate name: nc-us-east-1a-1.
    name: str
    # Where its NC serves gRPC, and its underlay address.
    address: str
    port: int = 8776
    metrics_port: int = 9776
    # The network namespace it lives in. Empty (fake hypervisor): the machine's own.
    namespace: str = ""
    # What it offers, before overcommit.
    cores: int = 1
    memory_bytes: int = 0
    disk_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneConfig:
    name: str
    cc_port: int
    cc_metrics_port: int
    # 0: any that is free.
    sc_port: int = 0
    sc_metrics_port: int = 0
    nodes: tuple[NodeConfig, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FacadeConfig:
    # Addresses the HTTP server listens on, beside the management address.
    listen: tuple[str, ...] = ("127.0.0.1",)
    port: int = 8773
    # How many processes serve it, each for its share of the connections.
    processes: int = 1
    # Of the first process.
    metrics_port: int = 9773
    # Virtual-host buckets are BUCKET.<a domain>; a bucket's host, or one under it, is called as the bucket (CNAME).
    domains: tuple[str, ...] = ("localhost", "s3.localhost")
    bucket_hosts: tuple[str, ...] = ()
    # How far a client's clock may be off.
    clock_skew_s: int = 900
    # Addresses and networks of proxies in front: their X-Forwarded-For and X-Forwarded-Proto are believed.
    trusted_proxies: tuple[str, ...] = ()

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(f"facade-{number + 1}" for number in range(self.processes))

    def metrics_port_of(self, member: str) -> int:
        """Raises ConfigError for a member that is not there. 0: any."""
        if member not in self.members:
            raise ConfigError(f"no {member!r} in the configuration: [facade] processes is {self.processes}")
        place = self.members.index(member)
        # Beside the ports of all others (deploy/layout.py).
        return self.metrics_port + 140 + place if place and self.metrics_port else self.metrics_port


@dataclass(frozen=True, slots=True, kw_only=True)
class ClcConfig:
    port: int = 8774
    metrics_port: int = 9774
    # How long terminated instances and client tokens stay visible.
    terminated_visible_s: int = 3600
    # Elastic addresses that an account may have.
    addresses_per_account: int = 20
    # vCPUs that an account's instances may have together. 0: as many as there are.
    vcpus_per_account: int = 0
    # Volumes that an account may have. (EBS User Guide, "Quotas for Amazon EBS".)
    volumes_per_account: int = 5000
    # Security groups that an account may have. (VPC User Guide, "Amazon VPC quotas".)
    security_groups_per_account: int = 2500


PlacementPolicy = Literal["greedy", "round-robin", "spread", "pack"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CcConfig:
    # Which of the nodes with room gets the next instance. greedy: the first by name; round-robin: the next by name;
    # spread: the one with fewest instances of the same VPC, then the least used; pack: the most used.
    policy: PlacementPolicy = "round-robin"


VolumeEngine = Literal["auto", "qsd", "fake"]
VolumeTransport = Literal["auto", "tls"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScConfig:
    """What holds for the volumes of every zone."""

    # qsd: sparse files, each served by a qemu-storage-daemon. fake: the shipped fake. auto: as the hypervisor is.
    driver: VolumeEngine = "auto"
    # auto: a unix socket for nodes on the same host, TLS for others. tls: TLS for all.
    transport: VolumeTransport = "auto"
    # Volumes may be as large, together, as the room for them times this. Volumes are thin: with more than 1 they may
    # find the disk full; their guests then wait at their next write until there is room.
    overcommit: float = 1.0
    # Kept free for the host on the file system that volumes are on.
    reserve_bytes: int = 2 << 30

    def __post_init__(self) -> None:
        if not 0 < self.overcommit < math.inf:
            raise ConfigError("overcommit: expected more than 0")


Hypervisor = Literal["auto", "kvm", "qemu", "fake"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesConfig:
    """What holds for every node."""

    # auto: kvm where the CPU says vmx or svm, else qemu (TCG). fake: the shipped fake drivers.
    hypervisor: Hypervisor = "auto"
    # A node offers its cores, memory and disk times these. Memory that is offered twice may run out: the kernel then
    # ends a guest. Disk that is offered twice may fill up: guests then wait at their next write until there is room.
    cpu_overcommit: float = 4.0
    memory_overcommit: float = 1.0
    disk_overcommit: float = 1.0
    # What the images that a node keeps may take on its disk, at most.
    cache_bytes: int = 20 << 30
    # Kept free for the host on the file system of the cloud's home.
    disk_reserve_bytes: int = 2 << 30

    def __post_init__(self) -> None:
        for name in ("cpu_overcommit", "memory_overcommit", "disk_overcommit"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name}: expected more than 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    # The bridge that joins this machine's virtual hosts: its address is the management address.
    underlay_cidr: str = "100.64.77.0/24"
    # A documentation range (RFC 5737) that only this host routes.
    public_pool: str = "198.51.100.0/24"
    default_vpc_cidr: str = "172.31.0.0/16"
    # Interface by which guests may leave this machine. Empty: they may not.
    uplink: str = ""
    # Name servers beyond the uplink that answer guests for the world's names. Empty: they know the cloud's own alone.
    resolvers: tuple[str, ...] = ()
    # Where guests find the facade.
    guest_facade_address: str = "169.254.169.250"


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineConfig:
    """What this machine had when `up` last gave each node its part: by it `up` knows which parts were edited since."""

    cores: int = 0
    memory_bytes: int = 0
    disk_free_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceTypeConfig:
    name: str
    vcpus: int
    memory_mib: int
    disk_gib: int

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9-]+\.[a-z0-9-]+", self.name):
            raise ConfigError(f"instance type {self.name!r}: a name is like m5.large")
        for unit in ("vcpus", "memory_mib", "disk_gib"):
            if getattr(self, unit) < 1:
                raise ConfigError(f"instance type {self.name}: {unit} must be at least 1")


DEFAULT_TYPES = (
    InstanceTypeConfig(name="t2.nano", vcpus=1, memory_mib=128, disk_gib=1),
    InstanceTypeConfig(name="t2.micro", vcpus=1, memory_mib=256, disk_gib=2),
    InstanceTypeConfig(name="t2.small", vcpus=1, memory_mib=512, disk_gib=5),
    InstanceTypeConfig(name="t3.micro", vcpus=2, memory_mib=512, disk_gib=5),
    InstanceTypeConfig(name="t3.small", vcpus=2, memory_mib=1024, disk_gib=10),
    InstanceTypeConfig(name="t3.medium", vcpus=2, memory_mib=2048, disk_gib=10),
    InstanceTypeConfig(name="m5.large", vcpus=2, memory_mib=4096, disk_gib=20),
    InstanceTypeConfig(name="m5.xlarge", vcpus=4, memory_mib=8192, disk_gib=40),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudConfig:
    # Four lower-case hex digits: prefix of every namespace, link, rule table and domain this cloud makes on the host.
    cloud_id: str
    # The folder that holds all its data, sockets, certificates and logs.
    home: str
    # User the services run as; the NC is root. Empty: whoever started it.
    user: str = ""
    region: str = "us-east-1"
    # Where services listen for each other.
    management_address: str = "127.0.0.1"
    etcd: EtcdConfig = field(default_factory=EtcdConfig)
    facade: FacadeConfig = field(default_factory=FacadeConfig)
    clc: ClcConfig = field(default_factory=ClcConfig)
    cc: CcConfig = field(default_factory=CcConfig)
    walrus: WalrusConfig = field(default_factory=WalrusConfig)
    sc: ScConfig = field(default_factory=ScConfig)
    nodes: NodesConfig = field(default_factory=NodesConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)
    zones: tuple[ZoneConfig, ...] = ()
    instance_types: tuple[InstanceTypeConfig, ...] = DEFAULT_TYPES

    def __post_init__(self) -> None:
        nodes = [node for zone in self.zones for node in zone.nodes]
        for what, named in (("instance type", self.instance_types), ("zone", self.zones), ("node", nodes)):
            names = [one.name for one in named]
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise ConfigError(f"{what} {twice} is defined twice")
        _check_networks(self.network, len(self.zones))

    @property
    def facade_address(self) -> str:
        """host:port where clients find the public API. By address: a bucket in the host would need a name server."""
        host = self.facade.listen[0] if self.facade.listen else self.management_address
        return f"{'127.0.0.1' if host == '0.0.0.0' else host}:{self.facade.port}"

    @property
    def home_path(self) -> Path:
        return Path(self.home)

    def walrus_path(self, shard: int = 0) -> Path:
        """The store of one process of Walrus."""
        return self.home_path / (f"walrus-{shard + 1}" if shard else "walrus")

    @property
    def pki_path(self) -> Path:
        """ca.pem, and <member id>.pem with <member id>-key.pem beside it."""
        return self.home_path / "pki"

    @property
    def sockets_path(self) -> Path:
        """Short, as a socket's path has 107 bytes at most. Who may not write to /run has it in the home."""
        return Path(f"/run/mallee-{self.cloud_id}") if self.user else self.home_path / "run"

    def zone(self, name: str) -> ZoneConfig:
        """Raises ConfigError for a zone that is not there."""
        for zone in self.zones:
            if zone.name == name:
                return zone
        raise ConfigError(f"no zone {name!r} in the configuration")

    def node(self, name: str) -> tuple[ZoneConfig, NodeConfig]:
        for zone in self.zones:
            for node in zone.nodes:
                if node.name == name:
                    return zone, node
        raise ConfigError(f"no node {name!r} in the configuration")


def load(path: Path) -> CloudConfig:
    """Raises ConfigError with one line that says what is wrong where."""
    try:
        raw = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return parse(raw, where=str(path))


def parse(raw: dict[str, Any], *, where: str = "configuration") -> CloudConfig:
    return typing.cast(CloudConfig, _build(CloudConfig, raw, where))


def _build(cls: type[Any], raw: Any, where: str) -> Any:
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: expected a table")
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}
    if unknown := sorted(set(raw) - set(known)):
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")
    missing = [
        name
        for name, f in known.items()
        if name not in raw and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where}: key {missing[0]!r} is missing")
    values = {name: _convert(hints[name], value, f"{where}: {name}") for name, value in raw.items()}
    for name, value in values.items():
        if check := CHECKS.get(name):
            try:
                for one in value if isinstance(value, tuple) else (value,):
                    check(one)
            except ValueError as error:
                raise ConfigError(f"{where}: {name}: {error}") from error
    try:
        return cls(**values)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, where)
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            raise ConfigError(f"{where}: {value!r} is none of {', '.join(typing.get_args(hint))}")
        return value
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where}: expected a list")
        inner = typing.get_args(hint)[0]
        return tuple(_convert(inner, item, f"{where}[{i}]") for i, item in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, types.GenericAlias) or not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{where}: expected {getattr(hint, '__name__', hint)}, found {value!r}")
    if hint is int and value < 0:
        raise ConfigError(f"{where}: expected 0 or more, found {value}")
    return value


# Default subnets are /20 each, a quarter of a smaller VPC; smaller than /28 none is.
_SUBNET_BITS, _SMALLEST_SUBNET_BITS = 20, 28


def _check_networks(network: NetworkConfig, zones: int) -> None:
    ranges = {
        name: ipaddress.IPv4Network(getattr(network, name))
        for name in ("underlay_cidr", "public_pool", "default_vpc_cidr")
    }
    vpc = ranges["default_vpc_cidr"]
    bits = max(_SUBNET_BITS, vpc.prefixlen + 2)
    if bits > _SMALLEST_SUBNET_BITS or 1 << bits - vpc.prefixlen < zones:
        raise ConfigError(f"network: default_vpc_cidr: {vpc} has no room for a subnet in each of {zones} zones")
    for (one, mine), (other, theirs) in itertools.combinations(ranges.items(), 2):
        if mine.overlaps(theirs):
            raise ConfigError(f"network: {one} {mine} and {other} {theirs} overlap")
