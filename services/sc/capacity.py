"""What a zone's volumes may take, what they were promised, and whether one more fits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from common.errors import NoCapacity
from mallee.sc.v1 import service_pb2 as sc
from mallee.sc.v1.record_pb2 import VolumeRecord
from mallee.sc.v1.volume_pb2 import VOLUME_STATE_FAILED
from services.sc.engine import Engine
from services.sc.store import Records


class Capacity:
    """A volume counts with its whole size from the moment it is asked for until nothing of it is left.

    `share`: the part of what is free that is this zone's; others have the rest of the same disk.
    """

    def __init__(
        self, volumes: Records[VolumeRecord], engine: Engine, *, overcommit: float, share: float = 1.0
    ) -> None:
        self._volumes = volumes
        self._engine = engine
        self._overcommit = overcommit
        self._share = share
        self._asked: dict[str, int] = {}

    @contextlib.contextmanager
    def reserve(self, volume_id: str, size_bytes: int) -> Iterator[None]:
        """For as long as it takes to record it. Raises NoCapacity."""
        record = self._volumes.get(volume_id)
        before = max(record.spec.size_bytes if record else 0, self._asked.get(volume_id, 0))
        if size_bytes - before > max(0, self.free_bytes) and size_bytes > before:
            raise NoCapacity(
                f"the zone has room for volumes of {self.free_bytes >> 30} GiB more, and {size_bytes - before >> 30} "
                "are asked for",
                code="InsufficientVolumeCapacity",
            )
        self._asked[volume_id] = size_bytes
        try:
            yield
        finally:
            self._asked.pop(volume_id, None)

    @property
    def promised_bytes(self) -> int:
        sizes = {
            volume_id: record.spec.size_bytes
            for volume_id, record in self._volumes.all().items()
            # Of one that failed nothing is left but its record, until its owner deletes that.
            if record.state != VOLUME_STATE_FAILED
        }
        for volume_id, size_bytes in self._asked.items():
            sizes[volume_id] = max(size_bytes, sizes.get(volume_id, 0))
        return sum(sizes.values())

    @property
    def free_bytes(self) -> int:
        return max(0, int(self.total_bytes * self._overcommit) - self.promised_bytes)

    @property
    def total_bytes(self) -> int:
        used = self._engine.used_bytes
        return used + int(max(0, self._engine.total_bytes - used) * self._share)

    def describe(self) -> sc.StorageCapacity:
        return sc.StorageCapacity(
            total_bytes=self.total_bytes,
            used_bytes=self._engine.used_bytes,
            promised_bytes=self.promised_bytes,
            free_bytes=self.free_bytes,
        )
