"""What a cloud has on this host, seen by means that are not its own: virsh, ip, nft, /proc and the file system."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config import CloudConfig, NodeConfig
from common.ids import InterfaceId, VpcId
from mallee.clc.v1 import record_pb2 as clc
from services.nc.net import names
from tests.chaos.records import Records, difference


@dataclass(frozen=True, slots=True)
class RealEngines:
    config: CloudConfig

    def running(self) -> list[tuple[str, str]]:
        """(instance, which process of QEMU) for each that lives now."""
        name = re.compile(rf"guest=m{self.config.cloud_id}-(i-[0-9a-f]{{17}})")
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and (match := name.search((entry / "cmdline").read_text(errors="replace"))):
                    started = (entry / "stat").read_text().rpartition(")")[2].split()[19]
                    found.append((match[1], f"pid {entry.name} started at {started}"))
            except OSError:
                continue  # It ended at this moment.
        return found

    def faults(self, records: Records) -> list[str]:
        """One line for each place where the host and the records do not say the same."""
        processes = Counter(instance_id for instance_id, _ in self.running())
        found = [f"{n} processes of {i}" for i, n in processes.items() if n > 1]
        found += difference("processes", {i.instance_id for i in records.holding}, set(processes))
        for zone in self.config.zones:
            for node in zone.nodes:
                found += _Node(self.config, node, records.on(node.name), records.groups).faults()
        return found


@dataclass(frozen=True, slots=True)
class _Node:
    config: CloudConfig
    node: NodeConfig
    instances: list[clc.InstanceRecord]
    groups: dict[str, clc.SecurityGroupRecord]

    def faults(self) -> list[str]:
        cards = [instance.interface for instance in self.instances]
        public = {card.public_ipv4 for card in cards if card.public_ipv4}
        vpcs = {card.vpc_id for card in cards}
        links = {link["ifname"] for link in _ip(self.node.namespace, "link", "show")}
        found = [*self._domains(), *self._files()]
        found += [f"tap {link} waits" for link in links if names.interface_of(link)]
        found += difference("uplinks", {names.uplink_name(VpcId(v)) for v in vpcs}, {n for n in links if n[0] == "p"})
        answered = {entry["dst"] for entry in _ip(self.node.namespace, "neigh", "show", "proxy")}
        found += difference("public addresses", public, answered)
        standing = {
            str(vpc)
            for line in _run("ip", "netns", "list").splitlines()
            if line and (vpc := names.vpc_of_namespace(self.node.namespace, line.split()[0]))
        }
        found += difference("VPC namespaces", vpcs, standing)
        for vpc_id in vpcs & standing:
            found += self._vpc(vpc_id)
        return [f"{self.node.name}: {words}" for words in found]

    def _domains(self) -> list[str]:
        socket = self._folder / "run" / "libvirt" / "libvirt-sock"
        virsh = ["virsh", "-c", f"qemu+unix:///system?socket={socket}", "list", "--name"]
        wanted = {f"m{self.config.cloud_id}-{i.instance_id}" for i in self.instances}
        known, running = (set(_run(*virsh, state).split()) for state in ("--all", "--state-running"))
        return [*difference("domains", wanted, known), *difference("running domains", known, running)]

    def _files(self) -> list[str]:
        ids = {i.instance_id for i in self.instances}
        found = difference("folders", ids, {path.name for path in (self._folder / "instances").iterdir()})
        disks = {path.parent.name for path in (self._folder / "instances").glob("*/disk.qcow2")}
        found += difference("disks", ids, disks)
        logs = {path.name[6:25] for path in (self._folder / "libvirt" / "log" / "qemu").glob("m*-i-*.log*")}
        found += [f"log of {instance_id} is left" for instance_id in logs - ids]
        plans = {path.name for path in (self._folder / "plans").iterdir()}
        vpcs = {i.interface.vpc_id for i in self.instances}
        return found + difference("plans", {f"{vpc}.pb" for vpc in vpcs}, plans)

    def _vpc(self, vpc: str) -> Iterable[str]:
        namespace = names.vpc_namespace(self.node.namespace, VpcId(vpc))
        here = [i for i in self.instances if i.interface.vpc_id == vpc]
        cards = {names.tap_name(InterfaceId(i.interface.interface_id)): i.interface for i in here}
        public = {(card.public_ipv4, card.private_ipv4) for card in cards.values() if card.public_ipv4}
        taps = {link["ifname"] for link in _ip(namespace, "link", "show") if names.interface_of(link["ifname"])}
        yield from difference("taps", set(cards), taps)
        routes = {(route["dst"], route.get("dev", "")) for route in _ip(namespace, "route", "show")}
        to_taps = {(dst, dev) for dst, dev in routes if names.interface_of(dev)}
        yield from difference("routes", {(card.private_ipv4, tap) for tap, card in cards.items()}, to_taps)
        guard, plan = _table(namespace, "guard"), _table(namespace, "plan")
        bound = {(tap, card.mac, card.private_ipv4) for tap, card in cards.items()}
        yield from difference("spoofing rules", bound, {tuple(e["concat"]) for e in _elements(guard, "bound")})
        yield from difference("members", {c.private_ipv4 for c in cards.values()}, set(_elements(plan, "local")))
        mapped = {(a, b) for a, b in _elements(plan, "public_to_private")}
        yield from difference("translated addresses", public, mapped)
        yield from difference("open ports", self._open_ports(here), _ports_in(plan))
        dnsmasq = f"--conf-file=/run/mallee-{self.config.cloud_id}/{self.node.namespace}/{vpc}/dnsmasq.conf"
        if (count := sum(dnsmasq in command for command in _commands())) != 1:
            yield f"{count} dnsmasq serve {vpc}"

    def _open_ports(self, instances: Iterable[clc.InstanceRecord]) -> set[tuple[int, int]]:
        groups = {g for instance in instances for g in instance.interface.security_group_ids}
        rules = [rule for group_id in groups for rule in self.groups[group_id].rules]
        return {(rule.from_port, rule.to_port) for rule in rules if not rule.egress and rule.protocol == "tcp"}

    @property
    def _folder(self) -> Path:
        return self.config.home_path / "nodes" / self.node.name


def _table(namespace: str, table: str) -> list[dict[str, Any]]:
    text = _run("ip", "netns", "exec", namespace, "nft", "-j", "list", "table", "inet", table)
    listed: list[dict[str, Any]] = json.loads(text)["nftables"]
    return listed


def _elements(table: list[dict[str, Any]], name: str) -> list[Any]:
    for entry in table:
        for kind in ("set", "map"):
            if entry.get(kind, {}).get("name") == name:
                return list(entry[kind].get("elem", []))
    return []


def _ports_in(plan: list[dict[str, Any]]) -> set[tuple[int, int]]:
    """Destination ports that the chains of incoming packets let pass."""
    found = set()
    for rule in (entry["rule"] for entry in plan if entry.get("rule", {}).get("chain", "").startswith("in_")):
        for match in (part["match"] for part in rule["expr"] if "match" in part):
            if match["left"].get("payload", {}).get("field") == "dport":
                right = match["right"]
                found.add(tuple(right["range"]) if isinstance(right, dict) else (right, right))
    return found


def _commands() -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            found.append((entry / "cmdline").read_text(errors="replace"))
        except OSError:
            continue
    return found


def _ip(namespace: str, *words: str) -> list[Any]:
    shown: list[Any] = json.loads(_run("ip", "-j", "-n", namespace, *words) or "[]")
    return shown


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
