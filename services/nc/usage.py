"""What the records of a node add up to, kept with every change of one: an order costs the same on a full node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set
from typing import TypeVar

from common.ids import VpcId
from mallee.nc.v1 import record_pb2, service_pb2
from services.nc.capacity import need_of
from services.nc.images import images_of
from services.nc.instance import Phase

Record = record_pb2.InstanceRecord
T = TypeVar("T")


class Usage:
    def __init__(self) -> None:
        self._vcpus = self._memory_bytes = self._disk_bytes = 0
        self._contents: Counter[str] = Counter()
        self._sizes: dict[str, int] = {}
        self._vpcs: Counter[VpcId] = Counter()

    def change(self, old: Record | None, new: Record | None) -> None:
        """None: there was none, or there is none any more."""
        if old is not None:
            self._count(old, -1)
        if new is not None:
            self._count(new, 1)

    @property
    def resources(self) -> service_pb2.Resources:
        """Of all instances but those that failed."""
        return service_pb2.Resources(vcpus=self._vcpus, memory_bytes=self._memory_bytes, disk_bytes=self._disk_bytes)

    @property
    def contents(self) -> Mapping[str, int]:
        """SHA-256 of the images that instances stand on, and their sizes."""
        return self._sizes

    @property
    def vpcs(self) -> Set[VpcId]:
        return self._vpcs.keys()

    def vpcs_without(self, record: Record | None) -> set[VpcId]:
        """Those of the other instances."""
        mine = VpcId(record.spec.interface.vpc_id) if record is not None else None
        return {vpc_id for vpc_id, count in self._vpcs.items() if count > (vpc_id == mine)}

    def _count(self, record: Record, step: int) -> None:
        spec = record.spec
        if Phase(record.phase) is not Phase.FAILED:
            need = need_of(spec)
            self._vcpus += step * need.vcpus
            self._memory_bytes += step * need.memory_bytes
            self._disk_bytes += step * need.disk_bytes
        _add(self._vpcs, VpcId(spec.interface.vpc_id), step)
        for image in images_of(spec):
            _add(self._contents, image.sha256, step)
            if image.sha256 in self._contents:
                self._sizes[image.sha256] = image.size_bytes
            else:
                self._sizes.pop(image.sha256, None)


def _add(counts: Counter[T], key: T, step: int) -> None:
    """A key that counts nothing any more is gone."""
    counts[key] += step
    if not counts[key]:
        del counts[key]
