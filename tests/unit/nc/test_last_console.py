"""What a guest wrote outlives it on its node for as long as the journal tells that it was there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from common.ids import InstanceId
from mallee.nc.v1 import record_pb2
from services.nc.console import tail
from services.nc.gone import KEPT_S
from services.nc.instance import Goal, Phase
from services.nc.paths import NodePaths
from services.nc.store import InstanceStore
from tests.unit.nc.specs import spec

FIRST, SECOND = InstanceId(spec(1).instance_id), InstanceId(spec(2).instance_id)


class Node:
    def __init__(self, folder: Path) -> None:
        self.paths, self.now_s = NodePaths(folder), 1000.0
        self.store = self.opened()

    def opened(self) -> InstanceStore:
        store = InstanceStore(self.paths, now_s=lambda: self.now_s)
        store.open()
        return store

    async def ends(self, number: int, wrote: bytes) -> None:
        instance_id = InstanceId(spec(number).instance_id)
        record = record_pb2.InstanceRecord(spec=spec(number), goal=Goal.GONE.value, phase=Phase.CLEARING.value)
        await self.store.update(instance_id, lambda _: record)
        self.paths.console(instance_id).write_bytes(wrote)
        os.utime(self.paths.console(instance_id), (500, 500))
        await self.store.remove(instance_id)

    @property
    def kept(self) -> set[str]:
        return {path.stem for path in self.paths.consoles.iterdir()}


async def test_the_end_of_a_console_is_kept_with_its_time(tmp_path: Path) -> None:
    node = Node(tmp_path)
    await node.ends(1, b"x" * 70_000 + b"the last words")
    output, written_at_ms = tail(node.paths.last_console(FIRST))
    assert (len(output), output[-14:], written_at_ms) == (64 << 10, b"the last words", 500_000)
    await node.ends(2, b"")
    assert node.kept == {FIRST}


@pytest.mark.parametrize("restarted", [False, True])
async def test_after_an_hour_it_goes(tmp_path: Path, restarted: bool) -> None:
    node = Node(tmp_path)
    await node.ends(1, b"first")
    node.now_s += KEPT_S + 1
    if restarted:
        node.store.close()
        # And what a crash left that no journal tells of.
        node.paths.last_console(SECOND).write_bytes(b"second")
        node.store = node.opened()
        assert node.kept == set()
    await node.ends(2, b"second")
    assert node.kept == {SECOND}
