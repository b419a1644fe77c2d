"""Where the threads meet that hand a volume's bytes to one another: on one core of their host, which only the volume's
name and the host's cores decide. Who starts one of them need not ask who starts the other.

A request of a guest goes from a thread of its QEMU to the volume's daemon and back. On one core the next thread is
woken without an interrupt to another that sleeps, and finds the bytes in the cache where the last one put them.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from common.shards import shard_of


def core_of(volume_id: str, usable: AbstractSet[int]) -> int:
    """One of the cores that a process may use; with one more of them, few volumes have another one than before."""
    return sorted(usable)[shard_of(volume_id, len(usable))]
