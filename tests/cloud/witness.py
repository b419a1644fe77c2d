"""What a cloud with fake engines really has, read past its API: etcd through `etcd3`, and the engines' own files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Set
from dataclasses import dataclass

from common.config import CloudConfig
from common.etcd.sync import connected
from common.pki import Identity
from mallee.cc.v1 import record_pb2 as cc
from mallee.clc.v1 import record_pb2 as clc
from services.nc.drivers.base import Power

_RUNNING = clc.INSTANCE_STATE_RUNNING
_TERMINATED = clc.INSTANCE_STATE_TERMINATED


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    instances: list[clc.InstanceRecord]
    # Instance → node, by the cluster controllers.
    placements: dict[str, str]
    # Names under /mallee/clc/claim/ → holder.
    claims: dict[str, str]
    # (node, instance) → what the fake engine says.
    domains: dict[tuple[str, str], str]
    # (node, instance) in the node controllers' records.
    recorded: set[tuple[str, str]]
    # (node, interface) in the fake networks.
    interfaces: set[tuple[str, str]]


def look(config: CloudConfig) -> Seen:
    identity = Identity.load(config.pki_path, "admin")
    nodes = [node.name for zone in config.zones for node in zone.nodes]
    folders = {node: config.home_path / "nodes" / node for node in nodes}
    with connected(config.etcd.endpoints[0], identity) as etcd:

        def under(prefix: str) -> dict[str, bytes]:
            return {meta.key.decode()[len(prefix) :]: value for value, meta in etcd.get_prefix(prefix)}

        placements = {
            place.instance_id: place.node
            for zone in config.zones
            for value in under(f"/mallee/cc/{zone.name}/placement/").values()
            for place in [cc.PlacementRecord.FromString(value)]
        }
        return Seen(
            instances=[clc.InstanceRecord.FromString(value) for value in under("/mallee/clc/instance/").values()],
            placements=placements,
            claims={name: value.decode() for name, value in under("/mallee/clc/claim/").items()},
            domains={
                (node, path.stem): json.loads(path.read_text())["power"]
                for node, folder in folders.items()
                for path in (folder / "fake" / "domains").glob("*.json")
            },
            recorded={
                (node, path.name) for node, folder in folders.items() for path in (folder / "instances").iterdir()
            },
            interfaces={
                (node, path.name.partition(".")[0])
                for node, folder in folders.items()
                for path in (folder / "fake-network").glob("vpc-*/eni-*")
            },
        )


def faults(seen: Seen) -> list[str]:
    """One line for each place where the engines, the controllers and the records do not say the same."""
    holding = [instance for instance in seen.instances if instance.state != _TERMINATED]
    found = [f"{i.instance_id} is in state {i.state}" for i in holding if i.state != _RUNNING]
    wanted = {(i.node, i.instance_id) for i in holding}
    found += _difference("engine", wanted, set(seen.domains))
    found += [f"{key} is {power}" for key, power in seen.domains.items() if power != Power.RUNNING.value]
    found += _difference("node's records", wanted, seen.recorded)
    found += _difference("placements", wanted, {(node, i) for i, node in seen.placements.items()})
    found += _difference("network", {(i.node, i.interface.interface_id) for i in holding}, seen.interfaces)
    for kind, addresses in (
        ("public", [(i.interface.public_ipv4,) for i in holding if i.interface.public_ipv4]),
        ("private", [(i.interface.subnet_id, i.interface.private_ipv4) for i in holding]),
    ):
        found += [f"{kind} {a} is held {n} times" for a, n in Counter(addresses).items() if n > 1]
        claimed = {tuple(name.split("/")[1:]) for name in seen.claims if name.startswith(f"{kind}/")}
        found += _difference(f"{kind} claims", set(addresses), claimed)
    return found


def _difference(where: str, wanted: Set[tuple[str, ...]], real: Set[tuple[str, ...]]) -> list[str]:
    return [f"{where}: {it} is missing" for it in wanted - real] + [f"{where}: {it} is left" for it in real - wanted]
