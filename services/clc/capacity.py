"""Admission: how many more instances of a shape a zone can take, from what its CC reported. Pure.

The CC alone places; this only spares the user a launch that cannot fit. Launches of ours that the CC has not taken over
yet are counted as if they were placed, where room is most.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """vCPUs after overcommit, bytes of memory and disk: free on a node, or needed by an instance."""

    vcpus: int
    memory_bytes: int
    disk_bytes: int

    def fits(self, other: Room) -> int:
        """How many of `other` fit in here."""
        counts = [
            have // need
            for have, need in (
                (self.vcpus, other.vcpus),
                (self.memory_bytes, other.memory_bytes),
                (self.disk_bytes, other.disk_bytes),
            )
            if need > 0
        ]
        return max(0, min(counts)) if counts else 0

    def less(self, other: Room) -> Room:
        return Room(
            vcpus=self.vcpus - other.vcpus,
            memory_bytes=self.memory_bytes - other.memory_bytes,
            disk_bytes=self.disk_bytes - other.disk_bytes,
        )


def admissible(free: Sequence[Room], pending: Iterable[Room], shape: Room, wanted: int) -> int:
    """How many of `wanted` instances of `shape` fit on nodes with `free` room, after `pending` took theirs."""
    rooms = list(free)
    heap: list[tuple[tuple[int, int], int]] = []
    for need in pending:
        if not heap:
            heap = [((-room.memory_bytes, -room.vcpus), i) for i, room in enumerate(rooms)]
            heapq.heapify(heap)
        _take(heap, rooms, need)
    count = 0
    for room in rooms:
        count += room.fits(shape)
        if count >= wanted:
            return wanted
    return count


def _take(heap: list[tuple[tuple[int, int], int]], rooms: list[Room], need: Room) -> None:
    """From the node with most memory that can hold it; what fits nowhere takes nothing."""
    passed = []
    while heap:
        entry = heapq.heappop(heap)
        index = entry[1]
        if rooms[index].fits(need):
            rooms[index] = rooms[index].less(need)
            heapq.heappush(heap, ((-rooms[index].memory_bytes, -rooms[index].vcpus), index))
            break
        passed.append(entry)
    for entry in passed:
        heapq.heappush(heap, entry)
