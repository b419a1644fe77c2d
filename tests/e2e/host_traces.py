"""What a cloud has on this host, found by its cloud id and its home: for tests that nothing is left."""

from __future__ import annotations

import subprocess
from pathlib import Path


def host_traces(cloud_id: str, home: Path) -> list[str]:
    """One line for each namespace, link, rule table, route, mount, process and folder."""
    mine = f"m{cloud_id}"
    traces = [f"namespace {line}" for line in _lines("ip", "netns", "list") if line.startswith(mine)]
    traces += [f"link {line}" for line in _lines("ip", "-o", "link", "show") if f" {mine}" in line]
    traces += [f"route {line}" for line in _lines("ip", "route", "show", "table", "all") if f" {mine}" in line]
    traces += [f"rules {line}" for line in _lines("nft", "list", "tables") if line.endswith(f"mallee_{cloud_id}")]
    traces += [f"mount {line}" for line in Path("/proc/mounts").read_text().splitlines() if str(home) in line]
    traces += [f"folder {path}" for path in (home, Path(f"/run/mallee-{cloud_id}")) if path.exists()]
    return traces + list(processes(cloud_id, home))


def processes(cloud_id: str, home: Path) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:
            continue
        if f"m{cloud_id}-" in command or f"/mallee-{cloud_id}/" in command or f"{home}/" in command:
            found.append(f"process {entry.name} {command[:100]}")
    return found


def traces_of_instances(cloud_id: str, home: Path, ids: list[str], *, vpcs: bool = True) -> list[str]:
    """Namespaces of VPCs, taps, guests' processes, and files that name an instance."""
    found = []
    for line in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.split("\n"):
        if vpcs and line.startswith(f"m{cloud_id}-") and "-vpc-" in line:
            found.append(f"namespace {line}")
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "qemu-system" in command and any(instance_id in command for instance_id in ids):
            found.append(f"process {command[:80]}")
    for path in (home / "nodes").rglob("*"):
        # What an instance wrote on its console is kept for an hour.
        if path.parent.name != "consoles" and any(instance_id in path.name for instance_id in ids):
            found.append(f"file {path}")
    return found


def _lines(*command: str) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
