"""Random writes, snapshots, copies and deletions against a plain model: what is left reads as it was, and no more is
kept than is needed."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mallee.walrus.v1 import service_pb2
from services.walrus.drivers.embedded.index import SqliteIndex
from services.walrus.reclaim import Reclaimer
from services.walrus.store import Store
from tests.service.walrus_fixtures import certificates, stage
from tests.service.walrus_snapshots import ACCOUNT, block_of, download, missing, store, upload
from tests.service.walrus_stage import WalrusStage
from tests.walrus_store import content_bytes, files_of

__all__ = ["certificates", "stage"]

_STEPS = 120
# In three pages of a manifest.
_PLACES = (0, 1, 2, 3, 254, 255, 256, 257, 600, 601)

# Index -> content; zero blocks are left out.
Blocks = dict[int, bytes]


class Model:
    def __init__(self, stage: WalrusStage, walrus: Any, chance: random.Random) -> None:
        self.snapshots: dict[str, Blocks] = {}
        self._reclaimer = Reclaimer(stage.store)
        self._store = stage.store
        self._walrus = walrus
        self._chance = chance
        self._made = 0
        # A volume, and the snapshot it was last like.
        self._volume: Blocks = {}
        self._dirty: set[int] = set()
        self._base = ""
        # Digests that uploads which nobody ended keep.
        self.unsealed: dict[str, list[bytes]] = {}

    async def step(self) -> None:
        match self._chance.randrange(10):
            case 0 | 1 | 2:
                self._write()
            case 3 | 4 | 5:
                await self._snapshot()
            case 6 | 7:
                await self._delete()
            case 8:
                await self._copy()
            case 9:
                await self._half()

    def _name(self) -> str:
        self._made += 1
        return f"snap-{self._made}"

    def _write(self) -> None:
        for place in self._chance.sample(_PLACES, self._chance.randrange(1, 5)):
            # Few contents, so that blocks are shared.
            seed = self._chance.randrange(12)
            self._volume[place] = hashlib.sha256(bytes([seed])).digest() * (1 + 100 * seed)
            if seed == 0:
                del self._volume[place]
            self._dirty.add(place)

    async def _snapshot(self) -> None:
        name = self._name()
        known = self._base in self.snapshots and self._chance.random() < 0.8
        changed = self._dirty if known else _PLACES
        blocks = {place: self._volume.get(place, b"") for place in changed}
        await upload(self._walrus, name, blocks, base=self._base if known else "")
        self.snapshots[name], self._dirty, self._base = dict(self._volume), set(), name

    async def _delete(self) -> None:
        names = [*self.snapshots, *self.unsealed]
        if not names:
            return
        name = self._chance.choice(names)
        await self._walrus.ForgetSnapshot(service_pb2.ForgetSnapshotRequest(snapshot_id=name))
        self.snapshots.pop(name, None)
        self.unsealed.pop(name, None)
        if self._chance.random() < 0.5:
            await self.reclaim()

    async def _copy(self) -> None:
        if self.snapshots:
            source, name = self._chance.choice(list(self.snapshots)), self._name()
            await self._walrus.CopySnapshot(
                service_pb2.CopySnapshotRequest(source_snapshot_id=source, snapshot_id=name, account_id=ACCOUNT)
            )
            self.snapshots[name] = self.snapshots[source]

    async def _half(self) -> None:
        """An upload that is not sealed."""
        name = self._name()
        found = [block_of(content) for content in self._volume.values()]
        wanted = set(await missing(self._walrus, name, [block.digest for block in found]))
        await store(self._walrus, name, [block for block in found if block.digest in wanted])
        self.unsealed[name] = [block.digest for block in found]

    async def reclaim(self) -> None:
        while (
            await self._store.index.blocks.drain(3) or await self._reclaimer.collect() or await self._reclaimer.repack()
        ):
            pass

    async def check(self, root: Path) -> None:
        for name, blocks in self.snapshots.items():
            assert await download(self._walrus, name) == blocks, name
        await self.reclaim()
        contents = {content for blocks in self.snapshots.values() for content in blocks.values()}
        needed = {hashlib.sha256(content).digest() for content in contents}
        needed |= {digest for digests in self.unsealed.values() for digest in digests}
        usage = await self._store.index.blocks.block_usage()
        assert (usage.snapshots, usage.uploads) == (len(self.snapshots), len(self.unsealed))
        assert usage.pack_bytes <= usage.block_bytes * 4 / 3 + 1
        assert sum(content_bytes(path) for path in files_of(root)) == usage.pack_bytes
        await _check_counts(self._store, needed)


async def _check_counts(store: Store, needed: set[bytes]) -> None:
    """What is counted is what a look at all of it finds."""
    assert isinstance(store.index, SqliteIndex)
    refs: Counter[bytes] = Counter()
    pages, counted, live = await store.index._read(
        lambda db: (
            db.execute(
                "SELECT p.refs, count(m.page), p.digests FROM pages AS p LEFT JOIN manifests AS m ON m.page = p.id "
                "GROUP BY p.id"
            ).fetchall(),
            dict(db.execute("SELECT digest, refs FROM blocks")),
            db.execute(
                "SELECT p.live, sum(b.length) FROM packs AS p LEFT JOIN blocks AS b ON b.pack = p.id GROUP BY p.id"
            ).fetchall(),
        )
    )
    for said, found, digests in pages:
        assert said == found > 0
        refs.update(digests[start : start + 32] for start in range(0, len(digests), 32))
    del refs[bytes(32)]
    claims = await store.index._read(lambda db: db.execute("SELECT digest FROM claims").fetchall())
    refs.update(digest for (digest,) in claims)
    assert counted == refs
    assert counted.keys() == needed
    assert all(said == found for said, found in live)


@pytest.mark.parametrize("seed", range(4))
async def test_any_history_leaves_what_was_kept_and_nothing_else(stage: WalrusStage, seed: int) -> None:
    model = Model(stage, await stage.walrus("sc-a"), random.Random(seed))
    for step in range(_STEPS):
        await model.step()
        if step % 20 == 19:
            await model.check(stage.root)
    assert len(model.snapshots) > 3
    for name in [*model.snapshots, *model.unsealed]:
        await model._walrus.ForgetSnapshot(service_pb2.ForgetSnapshotRequest(snapshot_id=name))
    model.snapshots.clear()
    model.unsealed.clear()
    await model.check(stage.root)
    assert files_of(stage.root) == []
