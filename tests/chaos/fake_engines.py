"""What the fake engines of a cloud have, read from their own files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.config import CloudConfig
from mallee.nc.v1 import network_pb2
from services.nc.drivers.base import Power
from tests.chaos.records import Records, difference


@dataclass(frozen=True, slots=True)
class FakeEngines:
    config: CloudConfig

    def running(self) -> list[tuple[str, str]]:
        """(instance, where) of each VM that runs now."""
        return [(i, node) for (node, i), power in self._domains().items() if power == Power.RUNNING.value]

    def faults(self, records: Records) -> list[str]:
        """One line for each place where an engine and the records do not say the same."""
        wanted = {(i.node, i.instance_id) for i in records.holding}
        domains = self._domains()
        found = difference("engine", wanted, set(domains))
        found += [f"{key} is {power}" for key, power in domains.items() if power != Power.RUNNING.value]
        options = {(i.node, i.instance_id, i.metadata_options.http_put_response_hop_limit) for i in records.holding}
        found += difference("metadata", options, set(self._hop_limits(wanted)))
        recorded = {(node, path.name) for node, at in self._folders() for path in (at / "instances").iterdir()}
        found += difference("node's records", wanted, recorded)
        interfaces = {
            (node, path.name.partition(".")[0])
            for node, folder in self._folders()
            for path in (folder / "fake-network").glob("vpc-*/eni-*")
        }
        return found + difference("network", {(i.node, i.interface.interface_id) for i in records.holding}, interfaces)

    def _folders(self) -> list[tuple[str, Path]]:
        nodes = [node.name for zone in self.config.zones for node in zone.nodes]
        return [(node, self.config.home_path / "nodes" / node) for node in nodes]

    def _hop_limits(self, wanted: set[tuple[str, str]]) -> Iterator[tuple[str, str, int]]:
        """(node, instance, limit) as the node answers, of its own instances."""
        for node, folder in self._folders():
            for path in (folder / "plans").glob("vpc-*.pb"):
                for interface in network_pb2.VpcPlan.FromString(path.read_bytes()).interfaces:
                    if (node, interface.instance_id) in wanted:
                        yield node, interface.instance_id, interface.metadata.options.hop_limit

    def _domains(self) -> dict[tuple[str, str], str]:
        """(node, instance) → what the engine says."""
        found = {}
        for node, folder in self._folders():
            for path in (folder / "fake" / "domains").glob("*.json"):
                try:
                    found[node, path.stem] = str(json.loads(path.read_text())["power"])
                except FileNotFoundError:
                    continue  # Removed at this moment.
        return found
