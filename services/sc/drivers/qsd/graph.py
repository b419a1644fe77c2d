"""QEMU's block nodes of a volume, as its daemon is told them. Pure.

    top (throttle; carries the bitmaps) → [c<number>-<point> (copy-before-write), the latest first …] → base
    base: data (file), or while a source comes: map (qcow2 over data) → pad (qcow2 without data) → source
    a point keeps what is overwritten in t-<point> (throttle: its gate) → f-<point> (file)

https://www.qemu.org/docs/master/interop/qemu-storage-daemon-qmp-ref.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from common.ids import SnapshotId
from services.sc.drivers.base import Limits, NbdSource
from services.sc.drivers.qsd.layout import VolumePlace

Node = dict[str, Any]

TOP: Final = "top"
DATA: Final = "data"
MAP: Final = "map"
# Zeros behind the source's end: while it streams, QEMU 7.2 (copy-on-read.c) answers reads behind the end of a backing
# file with whatever is in its memory.
_PAD: Final = "pad"
GROUP: Final = "limits"
# Of one operation, as EC2 counts them.
_OPERATION_BYTES: Final = 256 << 10
_SOURCE_PATIENCE_S: Final = 3600
_SOURCE_OPEN_S: Final = 5


def file_node(name: str, path: str, *, direct: bool) -> Node:
    return {
        "driver": "file",
        "node-name": name,
        "filename": path,
        "cache": {"direct": direct, "no-flush": False},
        "aio": "native" if direct else "threads",
        "discard": "unmap",
    }


def base_nodes(place: VolumePlace, source: NbdSource | None, *, direct: bool) -> list[Node]:
    nodes = [file_node(DATA, str(place.data), direct=direct)]
    if source is not None:
        nodes += [
            {
                "driver": "nbd",
                "node-name": "source",
                "server": {"type": "unix", "path": str(source.socket)},
                "export": source.name,
                "read-only": True,
                "reconnect-delay": _SOURCE_PATIENCE_S,
                "open-timeout": _SOURCE_OPEN_S,
            },
            file_node("pad-file", str(place.pad), direct=False) | {"read-only": True},
            {"driver": "qcow2", "node-name": _PAD, "file": "pad-file", "backing": "source", "read-only": True},
            file_node("map-file", str(place.map), direct=direct),
            {
                "driver": "qcow2",
                "node-name": MAP,
                "file": "map-file",
                "data-file": DATA,
                "backing": _PAD,
                "discard": "unmap",
            },
        ]
    return nodes


def top_node(below: str) -> Node:
    return {"driver": "throttle", "node-name": TOP, "throttle-group": GROUP, "file": below, "discard": "unmap"}


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class PointName:
    """A point of its volume, and how it stands to the others: later ones have greater numbers."""

    number: int
    snapshot_id: SnapshotId

    @property
    def filter(self) -> str:
        """At most 31 characters, as QEMU has it."""
        return f"c{self.number:05d}-{self.snapshot_id}"

    @property
    def bitmap(self) -> str:
        """What has changed from this point on, up to the next."""
        return f"{self.number:05d}-{self.snapshot_id}"

    @property
    def target(self) -> str:
        """What is overwritten goes in here: a gate, which is closed while other volumes have their points."""
        return f"t-{self.snapshot_id}"

    @property
    def file(self) -> str:
        return f"f-{self.snapshot_id}"

    @property
    def gate(self) -> str:
        """The limits of its target."""
        return f"gate-{self.snapshot_id}"

    @property
    def access(self) -> str:
        return f"a-{self.snapshot_id}"

    @staticmethod
    def parse(name: str) -> PointName | None:
        """Of a filter's or a bitmap's name."""
        number, _, snapshot_id = name.removeprefix("c").partition("-")
        if not number.isdecimal() or not SnapshotId.matches(snapshot_id):
            return None
        return PointName(number=int(number), snapshot_id=SnapshotId(snapshot_id))


def target_nodes(point: PointName, path: str) -> list[Node]:
    return [
        file_node(point.file, path, direct=False),
        {"driver": "throttle", "node-name": point.target, "throttle-group": point.gate, "file": point.file},
    ]


def gate(*, closed: bool) -> dict[str, int]:
    """Closed, the first request goes through, the next one waits a second for each byte of it."""
    return throttle(Limits(throughput_bytes_per_s=1 if closed else 0))


def filter_node(point: PointName, below: str) -> Node:
    """What is overwritten is kept first. If that fails the point is lost, and the client is not disturbed."""
    return {
        "driver": "copy-before-write",
        "node-name": point.filter,
        "file": below,
        "target": point.target,
        "on-cbw-error": "break-snapshot",
        "discard": "unmap",
    }


def access_node(point: PointName) -> Node:
    """The point itself, for reading."""
    return {"driver": "snapshot-access", "node-name": point.access, "file": point.filter}


def throttle(limits: Limits, *, paused: bool = False) -> dict[str, int]:
    """Every field, since QEMU leaves the others as they were. `paused`: writes wait."""
    kinds = ("total", "read", "write")
    told = {f"{unit}-{kind}{what}": 0 for unit in ("iops", "bps") for kind in kinds for what in ("", "-max")}
    told |= {f"{unit}-{kind}-max-length": 1 for unit in ("iops", "bps") for kind in kinds}
    told["iops-size"] = _OPERATION_BYTES if limits.iops else 0
    if paused:
        return told | {"bps-write": 1, "bps-read": limits.throughput_bytes_per_s, "iops-read": limits.iops}
    told |= {"iops-total": limits.iops, "bps-total": limits.throughput_bytes_per_s}
    if limits.iops and limits.burst_iops > limits.iops and limits.burst_s:
        told |= {"iops-total-max": limits.burst_iops, "iops-total-max-length": limits.burst_s}
    return told
