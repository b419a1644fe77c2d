"""The CLC's records: all of them in memory, fed by one watch, written to etcd by compare-and-swap.

Keys are /mallee/clc/<kind>/<id>. Uniqueness (names, addresses, client tokens) is a claim: a key of its own under
/mallee/clc/claim/…, taken in the same transaction as the record that needs it. A commit returns when this replica has
seen it, so whoever asks here next finds it.

Records that the store hands out are shared: change a copy (`Stored.draft()`).
"""

from __future__ import annotations

import asyncio
import secrets
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final, Generic, TypeVar

from google.protobuf.message import Message

from common.errors import Stale, Unavailable
from common.etcd.client import Etcd
from common.etcd.replica import Change, Replica
from common.etcd.types import Compacted, KeyValue, OutcomeUnknown, Txn, TxnResult
from mallee.clc.v1 import record_pb2
from services.clc.group_commit import GroupCommit

PREFIX: Final = "/mallee/clc/"
_CLAIMS: Final = f"{PREFIX}claim/"
# Put by every commit, with a mark of its own: its revision is that of the latest one, which a read barrier asks for.
HEAD: Final = f"{PREFIX}head"
_MARK_BYTES: Final = 12
# How far behind a replica may be whose transaction failed.
_CATCH_UP_S: Final = 5.0
# How often a use case runs again after it lost a compare-and-swap.
ATTEMPTS: Final = 20

R = TypeVar("R", bound=Message)
T = TypeVar("T")


class Conflict(Stale):
    """Somebody else wrote first: read again, decide again."""

    def __init__(self) -> None:
        super().__init__("the record has changed meanwhile", code="ResourceConflict")


# Kind of record → its folder, and the field that is its id.
_KINDS: Final[dict[type[Message], tuple[str, str]]] = {
    record_pb2.AccountRecord: ("account", "account_id"),
    record_pb2.AccessKeyRecord: ("access-key", "access_key_id"),
    record_pb2.KeyPairRecord: ("key-pair", "key_pair_id"),
    record_pb2.ImageRecord: ("image", "image_id"),
    record_pb2.VpcRecord: ("vpc", "vpc_id"),
    record_pb2.SubnetRecord: ("subnet", "subnet_id"),
    record_pb2.SecurityGroupRecord: ("security-group", "group_id"),
    record_pb2.AddressRecord: ("address", "allocation_id"),
    record_pb2.ReservationRecord: ("reservation", "reservation_id"),
    record_pb2.InstanceRecord: ("instance", "instance_id"),
    record_pb2.ClientTokenRecord: ("token", "token"),
    record_pb2.VolumeRecord: ("volume", "volume_id"),
    record_pb2.SnapshotRecord: ("snapshot", "snapshot_id"),
    record_pb2.TaskRecord: ("task", "task_id"),
    record_pb2.BundleTaskRecord: ("bundle-task", "bundle_id"),
}
_TYPES: Final = {folder: kind for kind, (folder, _) in _KINDS.items()}


@dataclass(frozen=True, slots=True)
class Stored(Generic[R]):
    """A record as it stands at a revision. Compare-and-swap goes by `revision`."""

    key: str
    record: R
    revision: int
    created_revision: int

    def draft(self) -> R:
        """A copy to change."""
        copy = type(self.record)()
        copy.CopyFrom(self.record)
        return copy


class Changes:
    """What one transaction is to do: all of it or nothing."""

    def __init__(self) -> None:
        self.txn = Txn()
        self._keys: list[str] = []

    def create(self, record: Message) -> None:
        key = key_of(record)
        self.txn.if_absent(key).put(key, record.SerializeToString())
        self._keys.append(key)

    def update(self, old: Stored[R], new: R) -> None:
        self.txn.if_mod_revision(old.key, old.revision).put(old.key, new.SerializeToString())
        self._keys.append(old.key)

    def delete(self, old: Stored[R]) -> None:
        self.txn.if_mod_revision(old.key, old.revision).delete(old.key)
        self._keys.append(old.key)

    def require(self, old: Stored[Any]) -> None:
        """It stands unchanged when the rest is written: what was decided from it still holds."""
        self.txn.if_mod_revision(old.key, old.revision)
        self._keys.append(old.key)

    def claim(self, name: str, holder: str) -> None:
        """Takes a unique name; a conflict if it is taken."""
        key = _CLAIMS + name
        self.txn.if_absent(key).put(key, holder.encode())
        self._keys.append(key)

    def release(self, name: str) -> None:
        self.txn.delete(_CLAIMS + name)

    def bump(self, name: str) -> None:
        """Marks that something hangs on `name` now; a transaction that says `unchanged` of it fails after this."""
        self.txn.put(_CLAIMS + name, b"")

    def unchanged(self, name: str, revision: int) -> None:
        """Nothing was bumped since this replica looked (`Store.bumped`)."""
        key = _CLAIMS + name
        self.txn.if_mod_revision(key, revision)
        self._keys.append(key)

    @property
    def keys(self) -> Sequence[str]:
        """Those whose revision the transaction compares."""
        return self._keys

    def __bool__(self) -> bool:
        return len(self.txn) > 0


Listener = Callable[[type[Message], Message, Message | None], None]


class Store:
    """Reads never wait. `listen` hears (kind, latest record, its new self or None when deleted) for every change."""

    def __init__(self, etcd: Etcd, replica: Replica) -> None:
        self._etcd = etcd
        self._replica = replica
        self._group = GroupCommit(self._commit)
        self._records: dict[type[Message], dict[str, Stored[Message]]] = {kind: {} for kind in _KINDS}
        self._owned: dict[tuple[type[Message], str], dict[str, Stored[Message]]] = defaultdict(dict)
        # (place, id) of the account's own, sorted.
        self._ordered: dict[tuple[type[Message], str], list[tuple[str, str]]] = defaultdict(list)
        self._listeners: list[Listener] = []
        self._changed: asyncio.Future[None] | None = None
        replica.subscribe(self._apply)

    @property
    def revision(self) -> int:
        return self._replica.revision

    def get(self, kind: type[R], record_id: str) -> Stored[R] | None:
        return self._records[kind].get(record_id)  # type: ignore[return-value]

    def all(self, kind: type[R]) -> Iterator[Stored[R]]:
        yield from self._records[kind].values()  # type: ignore[misc]

    def count(self, kind: type[Message]) -> int:
        return len(self._records[kind])

    def owned(self, kind: type[R], account_id: str) -> Iterator[Stored[R]]:
        """The account's own, in no order."""
        yield from self._owned.get((kind, account_id), {}).values()  # type: ignore[misc]

    def in_order(self, kind: type[R], account_id: str, *, after: str = "") -> Iterator[Stored[R]]:
        """The account's own by place, from the first that is beyond the place `after`. Do not await while iterating."""
        ordered, records = self._ordered.get((kind, account_id), []), self._records[kind]
        for at in range(bisect_right(ordered, after, key=itemgetter(0)), len(ordered)):
            yield records[ordered[at][1]]  # type: ignore[misc]

    def holder(self, name: str) -> str | None:
        """Who holds a claim."""
        found = self._replica.get(_CLAIMS + name)
        return found.value.decode() if found else None

    def bumped(self, name: str) -> int:
        """Revision of the last bump; 0: never."""
        return _revision(self._replica.get(_CLAIMS + name))

    def claims(self, prefix: str) -> Iterator[str]:
        """Names of the claims whose folder is `prefix` (it ends with a slash)."""
        for item in self._replica.iterate(_CLAIMS + prefix):
            yield item.key[len(_CLAIMS) + len(prefix) :]

    def listen(self, listener: Listener) -> None:
        """It must neither block nor raise."""
        self._listeners.append(listener)

    def unlisten(self, listener: Listener) -> None:
        self._listeners.remove(listener)

    async def commit(self, changes: Changes) -> int:
        """Returns the revision when this replica has seen it. Raises Conflict when a comparison fails."""
        return await self._group.do(changes.txn)

    async def _commit(self, txn: Txn) -> int:
        """Where etcd's answer was lost, HEAD tells whether it happened."""
        mark, before = secrets.token_bytes(_MARK_BYTES), self.revision
        txn.put(HEAD, mark)
        for compare in txn.request.compare:
            txn.else_get(compare.key.decode())
        try:
            result = await self._etcd.txn(txn)
        except OutcomeUnknown:
            result = await self._what_happened(mark, before)
        if not result.succeeded:
            await self._catch_up(result.found)
            raise Conflict
        await self._replica.wait_for(result.revision)
        return result.revision

    async def _what_happened(self, mark: bytes, before: int) -> TxnResult:
        """Every commit leaves its mark in HEAD: we look for ours among those since `before`, the latest first.

        The records do not tell: a deletion leaves nothing, and a bump what stood there already.
        """
        at_revision = 0
        try:
            while (head := await self._etcd.get(HEAD, revision=at_revision)) and head.mod_revision > before:
                if head.value == mark:
                    return TxnResult(True, head.mod_revision, {})
                at_revision = head.mod_revision - 1
        except Compacted as error:
            raise Unavailable("The cloud's store did not answer; look before you try again.") from error
        raise Unavailable("The cloud's store did not answer; nothing was changed. Try again.")

    async def _catch_up(self, found: Mapping[str, KeyValue | None]) -> None:
        """Until this replica has seen what made a transaction fail, so that the next attempt decides on it."""
        try:
            async with asyncio.timeout(_CATCH_UP_S):
                await self._seen(found)
        except TimeoutError:
            raise Unavailable("The cloud's records are behind; nothing was changed. Try again.") from None

    async def _seen(self, found: Mapping[str, KeyValue | None]) -> None:
        while any(_revision(self._replica.get(key)) < _revision(kv) for key, kv in found.items()) or any(
            kv is None and self._replica.get(key) is not None for key, kv in found.items()
        ):
            if self._changed is None:
                self._changed = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._changed)

    def _apply(self, changes: Sequence[Change]) -> None:
        told: list[tuple[type[Message], Message, Message | None]] = []
        for change in changes:
            folder, _, record_id = change.key[len(PREFIX) :].partition("/")
            if kind := _TYPES.get(folder):
                told.append(self._set(kind, record_id, change.new))
        for listener in self._listeners:
            for kind, latest, new in told:
                listener(kind, latest, new)
        if self._changed is not None:
            self._changed.set_result(None)
            self._changed = None

    def _set(
        self, kind: type[Message], record_id: str, new: KeyValue | None
    ) -> tuple[type[Message], Message, Message | None]:
        records = self._records[kind]
        if new is None:
            old = records.pop(record_id, None)
            latest = old.record if old else kind()
            self._owned[kind, getattr(latest, "account_id", "")].pop(record_id, None)
            self._reorder(kind, record_id, old, None)
            return kind, latest, None
        stored = Stored(new.key, kind.FromString(new.value), new.mod_revision, new.create_revision)
        self._reorder(kind, record_id, records.get(record_id), stored)
        records[record_id] = stored
        self._owned[kind, getattr(stored.record, "account_id", "")][record_id] = stored
        return kind, stored.record, stored.record

    def _reorder(
        self, kind: type[Message], record_id: str, old: Stored[Message] | None, new: Stored[Message] | None
    ) -> None:
        if old is not None and new is not None and old.created_revision == new.created_revision:
            return  # What a place is made of never changes.
        if old is not None:
            ordered = self._ordered[kind, getattr(old.record, "account_id", "")]
            del ordered[bisect_left(ordered, (place_of(old), record_id))]
        if new is not None:
            insort(self._ordered[kind, getattr(new.record, "account_id", "")], (place_of(new), record_id))


def key_of(record: Message) -> str:
    folder, field = _KINDS[type(record)]
    if isinstance(record, record_pb2.ClientTokenRecord):
        return PREFIX + folder + "/" + token_id(record.account_id, record.action, record.token)
    return f"{PREFIX}{folder}/{getattr(record, field)}"


def place_of(stored: Stored[Any]) -> str:
    """Sorts by age; instances of one launch were created together and go by their index in it."""
    record = stored.record
    if isinstance(record, record_pb2.InstanceRecord):
        return f"{stored.created_revision:020}{record.reservation_id}{record.launch_index:05}"
    return f"{stored.created_revision:020}{stored.key}"


def token_id(account_id: str, action: str, token: str) -> str:
    return f"{account_id}.{action}.{token}"


async def until_committed(attempt: Callable[[], Awaitable[T]]) -> T:
    """Runs a use case again after a lost compare-and-swap, up to ATTEMPTS times; it reads afresh each time. The
    cloud's own progress, written over and over, must not make a user's call fail."""
    for _ in range(ATTEMPTS - 1):
        try:
            return await attempt()
        except Conflict:
            continue
    return await attempt()


def sorted_by_creation(stored: Iterable[Stored[R]]) -> list[Stored[R]]:
    return sorted(stored, key=lambda s: (s.created_revision, s.key))


def _revision(kv: KeyValue | None) -> int:
    return kv.mod_revision if kv else 0
