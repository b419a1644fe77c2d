"""`mallee status` and `mallee nodes`: what runs, who leads, how much room there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from cli.client import Client
from cli.options import Home, site
from cli.output import Json, err, gib, out, plain_errors, print_json, print_table
from common.errors import Unavailable
from deploy.cloud import Site
from mallee.cc.v1.service_pb2 import NodeCapacity
from mallee.clc.v1 import service_pb2 as clc
from mallee.sc.v1.service_pb2 import StorageCapacity


def status(home: Home, as_json: Json = False) -> None:
    """Shows services, leaders, nodes and instances. Exit status 1 when a part is down."""
    with plain_errors():
        shown = describe(site(home))
    if as_json:
        print_json(shown)
    else:
        _print(shown)
    if shown["State"] != "up":
        raise typer.Exit(1)


def nodes(home: Home, as_json: Json = False) -> None:
    """Shows the nodes with their used and free cores and memory."""
    with plain_errors():
        answer = Client.of(site(home)).ask(lambda cloud: cloud.DescribeCloud(clc.DescribeCloudRequest()))
    shown = _nodes(answer)
    if as_json:
        print_json(shown)
    else:
        _print_nodes(shown)


def describe(place: Site) -> dict[str, Any]:
    """Also when parts of it are down: what cannot be asked is left out, and `State` says so."""
    client = Client.of(place)
    services = [
        {"Name": s.name, "State": "ready" if s.ready else "up" if s.up else "down", "Pid": s.pid}
        for s in place.supervisor.states()
    ]
    state = "up" if services and all(s["State"] != "down" for s in services) else "degraded"
    shown: dict[str, Any] = {"State": state, "Home": str(place.home), "Services": services}
    if not place.supervisor.pid():
        return shown | {"State": "down"}
    try:
        members = client.members()
        shown["Members"] = [
            {"Id": m.id, "Role": m.role, "Zone": m.zone, "Address": m.address, "Metrics": m.metrics_address}
            for m in members
        ]
        shown["Leaders"] = client.leaders()
        answer = client.ask(lambda cloud: cloud.DescribeCloud(clc.DescribeCloudRequest()))
    except Unavailable as error:
        return shown | {"State": "degraded", "Problem": error.message}
    shown["Nodes"] = _nodes(answer)
    shown["Instances"] = dict(sorted(answer.instances_by_state.items()))
    storage = client.storage(members)
    shown["Storage"] = _storage(storage)
    shown["PublicAddresses"] = {"Total": answer.public_addresses_total, "Free": answer.public_addresses_free}
    if any(not zone.connected or zone.zone not in storage for zone in answer.zones) or any(
        not node["Alive"] for node in shown["Nodes"]
    ):
        shown["State"] = "degraded"
    return shown


def _storage(zones: Mapping[str, StorageCapacity]) -> list[dict[str, Any]]:
    return [
        {
            "Zone": zone,
            "TotalBytes": of.total_bytes,
            "UsedBytes": of.used_bytes,
            "PromisedBytes": of.promised_bytes,
            "FreeBytes": of.free_bytes,
        }
        for zone, of in sorted(zones.items())
    ]


def _nodes(answer: clc.DescribeCloudResponse) -> list[dict[str, Any]]:
    there = ((zone.zone, node) for zone in answer.zones for node in zone.nodes)
    return [_node(zone, node) for zone, node in sorted(there, key=lambda pair: (pair[0], pair[1].node))]


def _node(zone: str, node: NodeCapacity) -> dict[str, Any]:
    def room(of: Any, less: Any = None) -> dict[str, int]:
        return {
            "Vcpus": of.vcpus - (less.vcpus if less else 0),
            "MemoryBytes": of.memory_bytes - (less.memory_bytes if less else 0),
            "DiskBytes": of.disk_bytes - (less.disk_bytes if less else 0),
        }

    return {
        "Node": node.node,
        "Zone": zone,
        "Alive": node.alive,
        "Address": node.underlay_address,
        "Hypervisor": node.hypervisor,
        "Instances": node.instances,
        "Total": room(node.total),
        "Used": room(node.total, node.free),
        "Free": room(node.free),
    }


def _print(shown: dict[str, Any]) -> None:
    colour = {"up": "green", "degraded": "yellow", "down": "red"}[shown["State"]]
    out.print(f"The cloud in {shown['Home']} is [{colour}]{shown['State']}[/{colour}].")
    if shown["State"] == "down":
        out.print("'mallee up' starts it.")
        return
    leads = {member: election for election, member in shown.get("Leaders", {}).items()}
    addresses = {member["Id"]: member["Address"] for member in shown.get("Members", ())}
    rows = [
        (s["Name"], s["State"], str(s["Pid"] or ""), addresses.get(s["Name"], ""), leads.get(s["Name"], ""))
        for s in shown["Services"]
    ]
    print_table(("Service", "State", "Pid", "Address", "Leads"), rows)
    if "Nodes" in shown:
        out.print()
        _print_nodes(shown["Nodes"])
        for zone in shown["Storage"]:
            told = f"{gib(zone['UsedBytes'])} used, {gib(zone['PromisedBytes'])} promised"
            out.print(f"Volumes of {zone['Zone']}: {told} of {gib(zone['TotalBytes'])}.", markup=False)
        count = ", ".join(f"{n} {state}" for state, n in shown["Instances"].items()) or "none"
        free = shown["PublicAddresses"]
        out.print(f"\nInstances: {count}. Public addresses: {free['Free']} of {free['Total']} free.")
    if problem := shown.get("Problem"):
        err.print(problem, markup=False, style="red")


def _print_nodes(shown: list[dict[str, Any]]) -> None:
    rows = [
        (
            node["Node"],
            node["Zone"],
            "alive" if node["Alive"] else "silent",
            node["Hypervisor"],
            str(node["Instances"]),
            f"{node['Used']['Vcpus']} / {node['Total']['Vcpus']}",
            f"{gib(node['Used']['MemoryBytes'])} / {gib(node['Total']['MemoryBytes'])}",
            f"{gib(node['Used']['DiskBytes'])} / {gib(node['Total']['DiskBytes'])}",
        )
        for node in shown
    ]
    print_table(("Node", "Zone", "State", "Engine", "Instances", "vCPUs used", "Memory used", "Disk used"), rows)
