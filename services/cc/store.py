"""Placements in etcd, /mallee/cc/<zone>/placement/<instance id>: written in the leader's term or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from common.errors import Unavailable
from common.etcd.client import Etcd
from common.etcd.election import Leadership
from common.etcd.types import KeyValue, OutcomeUnknown, Txn
from mallee.cc.v1 import record_pb2
from services.cc.ledger import Placement

# A comparison and a put each; etcd's own default of --max-txn-ops is 128.
_BATCH: Final = 100
_TRIES: Final = 5


class PlacementStore:
    """Every write compares the leader's election key and the record's revision.

    Raises Unavailable when the term is over or etcd does not answer; then the outcome is unknown, and writing or
    deleting the same placement again is safe.
    """

    def __init__(self, etcd: Etcd, zone: str, leadership: Leadership) -> None:
        self._etcd = etcd
        self._prefix = f"/mallee/cc/{zone}/placement/"
        self._leadership = leadership

    async def load(self) -> list[Placement]:
        return [_decode(item) for item in (await self._etcd.range(self._prefix)).items]

    async def write(self, placements: Sequence[Placement]) -> None:
        """All of them, in as few transactions as can be; sets their `mod_revision`."""
        for start in range(0, len(placements), _BATCH):
            await self._write_batch(placements[start : start + _BATCH])

    async def delete(self, placement: Placement) -> None:
        key = self._key(placement)
        await self._commit(
            [placement],
            lambda txn: txn.if_mod_revision(key, placement.mod_revision).delete(key),
            lambda found: found == [None],
        )

    async def _write_batch(self, batch: Sequence[Placement]) -> None:
        wanted = [placement.to_record() for placement in batch]

        def put(txn: Txn) -> None:
            for placement, record in zip(batch, wanted, strict=True):
                key = self._key(placement)
                txn.if_mod_revision(key, placement.mod_revision).put(key, record.SerializeToString())

        def stands(found: Sequence[KeyValue | None]) -> bool:
            return [item and record_pb2.PlacementRecord.FromString(item.value) for item in found] == wanted

        revision = await self._commit(batch, put, stands)
        for placement in batch:
            placement.mod_revision, placement.written = revision, True

    async def _commit(
        self,
        batch: Sequence[Placement],
        change: Callable[[Txn], object],
        is_done: Callable[[Sequence[KeyValue | None]], bool],
    ) -> int:
        """The revision at which it happened, in this try or in one whose answer was lost."""
        for _ in range(_TRIES):
            txn = self._leadership.guard(Txn())
            change(txn)
            try:
                result = await self._etcd.txn(txn)
                if result.succeeded:
                    return result.revision
            except OutcomeUnknown:
                # It may have happened: what stands now says so.
                pass
            found = [await self._etcd.get(self._key(placement)) for placement in batch]
            await self._check_term()
            if is_done(found):
                return max((item.mod_revision for item in found if item), default=0)
            # In its term nobody but this leader writes, so what stands is an earlier try of its own.
            for placement, item in zip(batch, found, strict=True):
                placement.mod_revision = item.mod_revision if item else 0
        raise Unavailable("the placement could not be written")

    async def _check_term(self) -> None:
        key = await self._etcd.get(self._leadership.key)
        if key is None or key.create_revision != self._leadership.epoch:
            raise Unavailable("this cluster controller no longer leads its zone")

    def _key(self, placement: Placement) -> str:
        return f"{self._prefix}{placement.instance_id}"


def _decode(item: KeyValue) -> Placement:
    return Placement.from_record(record_pb2.PlacementRecord.FromString(item.value), item.mod_revision)
