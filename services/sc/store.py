"""Records in etcd, /mallee/sc/<zone>/<kind>/<id>: written in the leader's term or not at all.

All of them are in memory as well: in its term nobody but this leader writes them.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, Generic, TypeVar

from common.errors import Unavailable
from common.etcd.client import Etcd
from common.etcd.election import Leadership
from common.etcd.types import OutcomeUnknown, Txn
from mallee.sc.v1.record_pb2 import ExportRecord, SnapshotRecord, VolumeRecord

# A comparison and a put each; etcd's own default of --max-txn-ops is 128.
BATCH: Final = 100
_TRIES: Final = 5

Record = TypeVar("Record", VolumeRecord, SnapshotRecord, ExportRecord)
# Changes the copy that it is given; None: there is none yet. What it returns is stored; None deletes.
Change = Callable[[Record | None], Record | None]


class Records(Generic[Record]):
    """One kind. Every write compares the leader's election key and the record's revision.

    Raises Unavailable when the term is over or etcd does not answer; then the outcome is unknown, and changing the
    same record again is safe.
    """

    def __init__(
        self, etcd: Etcd, prefix: str, kind: type[Record], leadership: Leadership, changed: Callable[[str], None]
    ) -> None:
        self._etcd = etcd
        self._prefix = prefix
        self._kind: type[Record] = kind
        self._leadership = leadership
        self._changed = changed
        self._records: dict[str, Record] = {}
        self._revisions: dict[str, int] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def load(self) -> None:
        for item in (await self._etcd.range(self._prefix)).items:
            record_id = item.key.removeprefix(self._prefix)
            self._records[record_id] = self._kind.FromString(item.value)
            self._revisions[record_id] = item.mod_revision

    def get(self, record_id: str) -> Record | None:
        """Not to be changed by the caller."""
        return self._records.get(record_id)

    def all(self) -> Mapping[str, Record]:
        return self._records

    async def update(self, record_id: str, change: Change[Record]) -> Record | None:
        """Replaces the record by what `change` makes of a copy of it, and answers that. What it raises flies out."""
        return (await self.update_all({record_id: change}))[record_id]

    async def update_all(self, changes: Mapping[str, Change[Record]]) -> Mapping[str, Record | None]:
        """All in one transaction or none: at most BATCH."""
        async with self._alone(changes):
            new = {record_id: change(self._copy(record_id)) for record_id, change in changes.items()}
            different = {key: value for key, value in new.items() if value != self._records.get(key)}
            if different:
                await self._write(different)
            return new

    @asynccontextmanager
    async def _alone(self, record_ids: Mapping[str, object]) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for record_id in sorted(record_ids):
                await stack.enter_async_context(self._locks[record_id])
            yield
        for record_id in record_ids:
            if record_id not in self._records and not self._locks[record_id].locked():
                del self._locks[record_id]

    def _copy(self, record_id: str) -> Record | None:
        if (record := self._records.get(record_id)) is None:
            return None
        copy: Record = self._kind.FromString(record.SerializeToString())
        return copy

    async def _write(self, new: Mapping[str, Record | None]) -> None:
        for _ in range(_TRIES):
            txn = self._leadership.guard(Txn())
            for record_id, record in new.items():
                key = self._prefix + record_id
                txn.if_mod_revision(key, self._revisions.get(record_id, 0))
                if record is None:
                    txn.delete(key)
                else:
                    txn.put(key, record.SerializeToString())
            try:
                result = await self._etcd.txn(txn)
                if result.succeeded:
                    return self._apply(new, dict.fromkeys(new, result.revision))
            except OutcomeUnknown:
                # It may have happened: what stands now says so.
                pass
            if (revisions := await self._found(new)) is not None:
                return self._apply(new, revisions)
        raise Unavailable("the record could not be written")

    async def _found(self, new: Mapping[str, Record | None]) -> dict[str, int] | None:
        """The revisions at which these records stand; None: they do not."""
        items = {record_id: await self._etcd.get(self._prefix + record_id) for record_id in new}
        await self._check_term()
        stand = {record_id: item and self._kind.FromString(item.value) for record_id, item in items.items()}
        revisions = {record_id: item.mod_revision if item else 0 for record_id, item in items.items()}
        if stand == dict(new):
            return revisions
        # In its term nobody but this leader writes, so what stands is an earlier try of its own.
        self._revisions.update(revisions)
        return None

    async def _check_term(self) -> None:
        key = await self._etcd.get(self._leadership.key)
        if key is None or key.create_revision != self._leadership.epoch:
            raise Unavailable("this storage controller no longer leads its zone")

    def _apply(self, new: Mapping[str, Record | None], revisions: Mapping[str, int]) -> None:
        for record_id, record in new.items():
            if record is None:
                self._records.pop(record_id, None)
                self._revisions.pop(record_id, None)
            else:
                self._records[record_id] = record
                self._revisions[record_id] = revisions[record_id]
        for record_id in new:
            self._changed(record_id)


class StorageStore:
    """`changed` is called with the id of what was written, after it was."""

    def __init__(self, etcd: Etcd, zone: str, leadership: Leadership) -> None:
        prefix = f"/mallee/sc/{zone}"
        self.volumes = Records(
            etcd, f"{prefix}/volume/", VolumeRecord, leadership, lambda key: self.volume_changed(key)
        )
        self.snapshots = Records(
            etcd, f"{prefix}/snapshot/", SnapshotRecord, leadership, lambda key: self.snapshot_changed(key)
        )
        self.exports = Records(
            etcd, f"{prefix}/export/", ExportRecord, leadership, lambda key: self.export_changed(key)
        )
        self.volume_changed: Callable[[str], None] = _nothing
        self.snapshot_changed: Callable[[str], None] = _nothing
        self.export_changed: Callable[[str], None] = _nothing

    async def load(self) -> None:
        for records in (self.volumes, self.snapshots, self.exports):
            await records.load()


def _nothing(record_id: str) -> None:
    return None
