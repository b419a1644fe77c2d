"""What a new cloud looks like: zones, nodes, ports and shares of the machine. Pure: the host is an argument.

Ports follow one base P (default 8773): facade P, CLC P+1, Walrus P+2, NC P+3, etcd P+6 and P+7, of the nth zone the CC
P+10+n and the SC P+110+n, with the fake hypervisor, whose nodes share one address, the nth NC P+40+n, and of the nth
Walrus but the first P+160+n. Each /metrics is 1000 above, that of the nth facade but the first P+1139+n.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from common.config import (
    ClcConfig,
    CloudConfig,
    EtcdConfig,
    FacadeConfig,
    Hypervisor,
    MachineConfig,
    NetworkConfig,
    NodeConfig,
    NodesConfig,
    ZoneConfig,
)
from common.config_walrus import WalrusConfig
from common.shards import MOST

DEFAULT_PORT_BASE: Final = 8773
METRICS_ABOVE: Final = 1000
MAX_ZONES: Final = 26
MAX_NODES: Final = 64
_CC_FROM, _FAKE_NC_FROM, _SC_FROM = 10, 40, 110
# The last Walrus there can be.
_HIGHEST: Final = 160 + MOST
# The first node's place in the underlay; the management address is the first of the range.
_NODES_FROM: Final = 11
# vCPUs per core: three guests of one vCPU run on two cores, with room to spare.
CPU_OVERCOMMIT: Final = 4.0
_MOST_WALRUSES: Final = 8
_MIB: Final = 1 << 20
# A machine with less memory for each, which takes 320 MiB of it with 25,000 instances, has fewer facades.
_FACADE_BYTES: Final = 2 << 30
# Whoever has use for more says so in the configuration.
_MOST_FACADES: Final = 4
_Edited = TypeVar("_Edited", NodeConfig, NodesConfig)
# Of a pretended cloud, which takes nothing of the machine and routes nothing: a range for benchmarks (RFC 2544).
PRETENDED_POOL: Final = "198.18.0.0/15"


class LayoutError(ValueError):
    """What was asked for does not fit; the message says what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What this machine has to share out."""

    cores: int
    memory_bytes: int
    # Free on the file system of the cloud's home.
    disk_free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the operator asked for."""

    zones: int = 1
    nodes_per_zone: int = 1
    hypervisor: Hypervisor = "auto"
    port_base: int = DEFAULT_PORT_BASE
    underlay_cidr: str = NetworkConfig().underlay_cidr
    public_pool: str = NetworkConfig().public_pool
    uplink: str = ""
    # 0: as many as there are, in a new cloud as the machine's cores suggest.
    walrus_processes: int = 0

    @property
    def fake(self) -> bool:
        return self.hypervisor == "fake"


def default_shape(hypervisor: str | None) -> Shape:
    """Of a new cloud, where the operator asks for nothing else."""
    if hypervisor == "fake":
        return Shape(hypervisor="fake", public_pool=PRETENDED_POOL)
    return Shape()


def shape_of(config: CloudConfig) -> Shape:
    """The shape that a cloud was made with."""
    return Shape(
        zones=len(config.zones),
        nodes_per_zone=max((len(zone.nodes) for zone in config.zones), default=0),
        hypervisor=config.nodes.hypervisor,
        port_base=config.facade.port,
        underlay_cidr=config.network.underlay_cidr,
        public_pool=config.network.public_pool,
        uplink=config.network.uplink,
        walrus_processes=config.walrus.processes,
    )


def new_config(shape: Shape, host: Host, *, cloud_id: str, home: str, user: str) -> CloudConfig:
    """Raises LayoutError."""
    _check(shape)
    base = shape.port_base
    share = _PRETENDED if shape.fake else _share(host, shape.zones * shape.nodes_per_zone)
    management = "127.0.0.1" if shape.fake else str(_host_address(shape.underlay_cidr, 1))
    return CloudConfig(
        cloud_id=cloud_id,
        home=home,
        user=user,
        management_address=management,
        etcd=EtcdConfig(endpoints=(f"{management}:{base + 6}",)),
        facade=FacadeConfig(port=base, metrics_port=base + METRICS_ABOVE, processes=_facades(host)),
        clc=ClcConfig(port=base + 1, metrics_port=base + 1 + METRICS_ABOVE),
        walrus=WalrusConfig(
            processes=shape.walrus_processes or _walrus_processes(shape, host),
            port=base + 2,
            metrics_port=base + 2 + METRICS_ABOVE,
        ),
        nodes=NodesConfig(hypervisor=shape.hypervisor, cpu_overcommit=share.cpu_overcommit),
        network=NetworkConfig(underlay_cidr=shape.underlay_cidr, public_pool=shape.public_pool, uplink=shape.uplink),
        machine=MachineConfig(**dataclasses.asdict(host)),
        zones=tuple(_zone(shape, zone, share, cloud_id) for zone in range(shape.zones)),
    )


def reshaped(config: CloudConfig, shape: Shape, host: Host) -> CloudConfig:
    """The same cloud with more zones or nodes; what the operator wrote into the file by hand stays.

    Raises LayoutError where that would take away what is there.
    """
    old = shape_of(config)
    if not shape.walrus_processes:
        shape = dataclasses.replace(shape, walrus_processes=old.walrus_processes)
    if shape == old:
        return config
    if shape.zones < old.zones or shape.nodes_per_zone < old.nodes_per_zone:
        raise LayoutError(
            f"this cloud cannot shrink, it has --zones {old.zones} --nodes {old.nodes_per_zone}: "
            "ask for as many or more, or remove it first with 'mallee destroy'"
        )
    if shape.walrus_processes != old.walrus_processes:
        raise LayoutError(
            f"the buckets of this cloud are shared out among --walrus-processes {old.walrus_processes} for good: leave "
            "the option out, or remove the cloud first with 'mallee destroy'"
        )
    if dataclasses.replace(shape, zones=old.zones, nodes_per_zone=old.nodes_per_zone, uplink=old.uplink) != old:
        raise LayoutError(
            "hypervisor, ports and networks of a cloud cannot change: leave these options out, "
            "or remove it first with 'mallee destroy'"
        )
    return dataclasses.replace(
        _grown(config, old, shape, host), network=dataclasses.replace(config.network, uplink=shape.uplink)
    )


def _grown(config: CloudConfig, old: Shape, shape: Shape, host: Host) -> CloudConfig:
    """Shares are dealt anew among more nodes, but for those that are no longer what was given: the operator's own."""
    if (shape.zones, shape.nodes_per_zone) == (old.zones, old.nodes_per_zone):
        return config
    then = Host(**dataclasses.asdict(config.machine)) if config.machine.cores else host
    gave, new = (
        new_config(size, what, cloud_id=config.cloud_id, home=config.home, user=config.user)
        for size, what in ((old, then), (shape, host))
    )
    factor = _edited(new.nodes, config.nodes, gave.nodes, "cpu_overcommit").cpu_overcommit
    now, before = ({node.name: node for zone in c.zones for node in zone.nodes} for c in (config, gave))

    def dealt(node: NodeConfig) -> NodeConfig:
        if node.name not in now or node.name not in before:
            return node
        return _edited(node, now[node.name], before[node.name], "cores", "memory_bytes", "disk_bytes")

    return dataclasses.replace(
        config,
        nodes=dataclasses.replace(config.nodes, cpu_overcommit=factor),
        machine=new.machine,
        zones=tuple(dataclasses.replace(zone, nodes=tuple(map(dealt, zone.nodes))) for zone in new.zones),
    )


def _edited(new: _Edited, now: _Edited, gave: _Edited, *keys: str) -> _Edited:
    """`new`, with what `now` says of these keys where that is not what `gave` said."""
    edits = {key: getattr(now, key) for key in keys if getattr(now, key) != getattr(gave, key)}
    return dataclasses.replace(new, **edits)


def ports(config: CloudConfig) -> Iterator[tuple[str, int, str]]:
    """(address, port, whose) of everything that listens on the machine's own addresses."""
    own = config.management_address
    for endpoint in config.etcd.endpoints:
        address, _, port = endpoint.rpartition(":")
        yield address, int(port), "etcd"
        yield "127.0.0.1", peer_port(config), "etcd"
    for address in {own, *config.facade.listen}:
        yield address, config.facade.port, "the facade"
    for member in config.facade.members:
        yield own, config.facade.metrics_port_of(member), f"the metrics of {member}"
    yield own, config.clc.port, "the CLC"
    yield own, config.clc.metrics_port, "the CLC's metrics"
    for shard, member in enumerate(config.walrus.shards):
        yield own, config.walrus.port_of(shard), member
        yield own, config.walrus.metrics_port_of(shard), f"the metrics of {member}"
    for zone in config.zones:
        yield own, zone.cc_port, f"the CC of {zone.name}"
        yield own, zone.cc_metrics_port, f"the metrics of the CC of {zone.name}"
        yield own, zone.sc_port, f"the SC of {zone.name}"
        yield own, zone.sc_metrics_port, f"the metrics of the SC of {zone.name}"
        for node in zone.nodes:
            if not node.namespace:
                yield node.address, node.port, node.name
                yield node.address, node.metrics_port, f"the metrics of {node.name}"


def peer_port(config: CloudConfig) -> int:
    """Where the one etcd member waits for others: loopback, beside its client port."""
    return int(config.etcd.endpoints[0].rpartition(":")[2]) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Share:
    cores: int
    memory_bytes: int
    disk_bytes: int
    cpu_overcommit: float


# What a pretended node has: large, as whoever tests a tool wants the API and not the walls of this machine.
_PRETENDED: Final = _Share(cores=1 << 12, memory_bytes=3 << 40, disk_bytes=1 << 48, cpu_overcommit=CPU_OVERCOMMIT)


def _facades(host: Host) -> int:
    """Of a small request of S3 they do two thirds of the work: so many cores, as far as memory goes."""
    return max(1, min(host.cores * 2 // 3, host.memory_bytes // _FACADE_BYTES, _MOST_FACADES))


def _walrus_processes(shape: Shape, host: Host) -> int:
    """One for each four cores: a request costs its facade about twice what it costs Walrus, and guests want theirs. Two
    cores are full with one of each."""
    return 1 if shape.fake else max(1, min(_MOST_WALRUSES, host.cores // 4))


def _share(host: Host, count: int) -> _Share:
    """An equal part for each node. A node has whole cores: where there are more nodes than cores, each has one and the
    factor shrinks instead, so that the whole cloud never promises more than the machine's cores times the factor."""
    cores = max(1, host.cores // count)
    kept = max(1 << 30, host.memory_bytes // 5)
    memory = max(0, host.memory_bytes - kept) // count
    overcommit = min(CPU_OVERCOMMIT, max(1.0, CPU_OVERCOMMIT * host.cores / (cores * count)))
    disk = max(0, host.disk_free_bytes - NodesConfig().disk_reserve_bytes) // count
    return _Share(
        cores=cores,
        memory_bytes=memory // _MIB * _MIB,
        disk_bytes=disk // _MIB * _MIB,
        cpu_overcommit=round(overcommit, 2),
    )


def _zone(shape: Shape, zone: int, share: _Share, cloud_id: str) -> ZoneConfig:
    cc_port, sc_port = shape.port_base + _CC_FROM + zone, shape.port_base + _SC_FROM + zone
    return ZoneConfig(
        name=f"us-east-1{string.ascii_lowercase[zone]}",
        cc_port=cc_port,
        cc_metrics_port=cc_port + METRICS_ABOVE,
        sc_port=sc_port,
        sc_metrics_port=sc_port + METRICS_ABOVE,
        nodes=tuple(_node(shape, zone, number, share, cloud_id) for number in range(shape.nodes_per_zone)),
    )


def _node(shape: Shape, zone: int, number: int, share: _Share, cloud_id: str) -> NodeConfig:
    place = f"1{string.ascii_lowercase[zone]}-{number + 1}"
    if shape.fake:
        address, namespace = "127.0.0.1", ""
        port = shape.port_base + _FAKE_NC_FROM + zone * shape.nodes_per_zone + number
    else:
        # By zone and number, so that a cloud that grows keeps the addresses that its nodes have.
        address = str(_host_address(shape.underlay_cidr, _NODES_FROM + zone + number * MAX_ZONES))
        namespace, port = f"m{cloud_id}-{place}", shape.port_base + 3
    return NodeConfig(
        name=f"nc-us-east-{place}",
        address=address,
        port=port,
        metrics_port=port + METRICS_ABOVE,
        namespace=namespace,
        cores=share.cores,
        memory_bytes=share.memory_bytes,
        disk_bytes=share.disk_bytes,
    )


def _host_address(cidr: str, index: int) -> ipaddress.IPv4Address:
    network = ipaddress.IPv4Network(cidr)
    if index >= network.num_addresses - 1:
        raise LayoutError(f"{cidr} has too few addresses for this many nodes: choose a larger --underlay")
    return network[index]


def _check(shape: Shape) -> None:
    if not 1 <= shape.zones <= MAX_ZONES:
        raise LayoutError(f"--zones {shape.zones}: choose 1 to {MAX_ZONES}")
    if not 1 <= shape.nodes_per_zone <= MAX_NODES // shape.zones:
        raise LayoutError(
            f"--nodes {shape.nodes_per_zone}: choose 1 to {MAX_NODES // shape.zones} for {shape.zones} zones"
        )
    if not 0 <= shape.walrus_processes <= MOST:
        raise LayoutError(f"--walrus-processes {shape.walrus_processes}: choose 1 to {MOST}")
    if not 1024 <= shape.port_base <= 65535 - METRICS_ABOVE - _HIGHEST:
        raise LayoutError(f"--port-base {shape.port_base}: choose 1024 to 64000")
    for option, cidr in (("--underlay", shape.underlay_cidr), ("--public-pool", shape.public_pool)):
        try:
            network = ipaddress.IPv4Network(cidr)
        except ValueError as error:
            raise LayoutError(f"{option} {cidr}: {error}") from error
        if network.prefixlen > 29:
            raise LayoutError(f"{option} {cidr}: choose a range of at least 8 addresses (/29)")
    if ipaddress.IPv4Network(shape.underlay_cidr).overlaps(ipaddress.IPv4Network(shape.public_pool)):
        raise LayoutError("--underlay and --public-pool overlap: choose two ranges")
