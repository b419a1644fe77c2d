"""The store: its engines, its limits, and what requests in flight hold: space they will fill and blobs they read."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar, TypeVarTuple

from common.errors import Unavailable
from common.keyring import Keyring
from common.threads import to_the_end
from mallee.common.v1.caller_pb2 import Caller
from services.walrus import access, errors
from services.walrus.accounts import Ask
from services.walrus.drivers.base import BlobId, Bucket, Index, Object, Upload
from services.walrus.drivers.blobs import Blobs
from services.walrus.drivers.events import Event
from services.walrus.lifecycle import Calendar
from services.walrus.siblings import Siblings

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")

# Below this a thread costs more than the digests of a chunk.
IN_PLACE_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    # Objects up to this size stand in the index.
    inline_bytes: int = 32 << 10
    # Writes are refused when less than this would be left.
    reserve_bytes: int = 1 << 30
    # Of a part that is not the last.
    part_bytes: int = 5 << 20
    # A body that brings nothing for so long is given up.
    idle_s: float = 60.0


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(kw_only=True)
class Store:
    index: Index
    blobs: Blobs
    region: str = "us-east-1"
    limits: Limits = field(default_factory=Limits)
    # Without a key in it nothing is encrypted by the store itself.
    keyring: Keyring = field(default_factory=lambda: Keyring(()))
    # New buckets take ACLs, and are not kept from the public, where their owner does not say otherwise.
    opens_buckets: bool = False
    # Name -> address of what notifications may go to; the operator's.
    event_targets: Mapping[str, str] = field(default_factory=dict)
    # Who is there to be named by policies and ACLs; None: names are checked for their form alone.
    accounts: Ask = None
    now_ms: Callable[[], int] = _now_ms
    # Of lifecycle rules.
    calendar: Calendar = field(default_factory=Calendar)
    # Other processes that share the buckets with this one.
    siblings: Siblings = field(default_factory=Siblings)
    # Told when blobs were let go.
    reclaim: Callable[[], None] = lambda: None
    # Told when a step added events.
    tell: Callable[[], None] = lambda: None
    # Told when other buckets are to be logged.
    logging_changed: Callable[[], None] = lambda: None
    # Told when a bucket has other lifecycle rules.
    expire: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.readers = Readers()
        self._promised_bytes = 0
        self._keepers = 0
        self._hashers = ThreadPoolExecutor(2, thread_name_prefix="walrus-digests")

    async def bucket_for(self, request: Any, caller: Caller | None) -> Bucket:
        """The one that a request of mallee.s3.v1 names, if the caller may do that there.

        What depends on an object or an upload is decided by `check_object` and `check_upload`.

        Raises NotFound (NoSuchBucket), Denied (AccessDenied).
        """
        found = await self.index.find_bucket(request.bucket)
        if caller is None:
            raise errors.access_denied()
        if found is None:
            self.check_place(request.bucket)
            raise errors.no_such_bucket(request.bucket)
        access.check(found, request, caller, self.now_ms())
        return found

    def check_object(self, bucket: Bucket, request: Any, caller: Caller | None, found: Object | None) -> None:
        """Before anything is said about the object, also that it is not there (None). Raises Denied (AccessDenied)."""
        if caller is None:
            raise errors.access_denied()
        access.check_object(bucket, request, caller, self.now_ms(), found)

    def check_upload(self, bucket: Bucket, request: Any, caller: Caller | None, found: Upload | None) -> None:
        """As `check_object`, of an upload that is under way."""
        if caller is None:
            raise errors.access_denied()
        access.check_upload(bucket, request, caller, self.now_ms(), found.initiator_id if found else None)

    async def own_bucket(self, name: str, caller: Caller) -> Bucket:
        """For what an account does with buckets beside S3. Raises NotFound (NoSuchBucket), Denied (AccessDenied)."""
        found = await self.index.find_bucket(name)
        if found is None:
            self.check_place(name)
            raise errors.no_such_bucket(name)
        if not access.is_owner(found, caller):
            raise errors.access_denied()
        return found

    def check_place(self, bucket: str) -> None:
        """Who asks the wrong process is never told that a bucket is not there. Raises Unavailable."""
        if self.siblings.has(bucket):
            raise Unavailable(f"The bucket {bucket} is another process's: it was asked for in the wrong place.")

    @contextmanager
    def space(self, size: int, free_bytes: int) -> Iterator[None]:
        """Promises that many bytes to one write. Raises NoCapacity."""
        if free_bytes - self._promised_bytes - size < self.limits.reserve_bytes:
            raise errors.out_of_space(free_bytes - self._promised_bytes, self.limits.reserve_bytes)
        self._promised_bytes += size
        try:
            yield
        finally:
            self._promised_bytes -= size

    def changed(self, events: Sequence[Event]) -> None:
        """After a step that may have let go of blobs, and added these events."""
        self.reclaim()
        if events:
            self.tell()

    @contextmanager
    def keeping_garbage(self) -> Iterator[None]:
        """No blob is deleted meanwhile, whoever let it go."""
        self._keepers += 1
        try:
            yield
        finally:
            self._keepers -= 1
            self.reclaim()

    @property
    def keeps_garbage(self) -> bool:
        return self._keepers > 0

    async def in_thread(self, function: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
        """For work that keeps a core busy without the GIL; it has ended on return, also when cancelled."""
        return await to_the_end(partial(function, *arguments), executor=self._hashers)

    async def close(self) -> None:
        await asyncio.to_thread(self._hashers.shutdown)


class Readers:
    """Keeps the reclaimer from a blob between the moment a request reads its name and the end of its use.

    A look-up that began before a blob was let go may still bring its name back; one that began later cannot. So the
    reclaimer, with the garbage in hand, waits for the look-ups that run now, and then spares what is held.
    """

    def __init__(self) -> None:
        self._lookups: set[_Lookup] = set()
        self._held: Counter[BlobId] = Counter()

    def lookup(self) -> AbstractContextManager[None]:
        """Around reading names from the index; hold what is to be read before leaving it."""
        return _Lookup(self._lookups)

    @contextmanager
    def hold(self, blobs: Iterable[BlobId]) -> Iterator[None]:
        held = self.take(blobs)
        try:
            yield
        finally:
            self.give_back(held)

    def take(self, blobs: Iterable[BlobId]) -> Sequence[BlobId]:
        """`hold` for who gives them back himself."""
        held = tuple(blobs)
        self._held.update(held)
        return held

    def give_back(self, held: Sequence[BlobId]) -> None:
        for blob in held:
            self._held[blob] -= 1
            if self._held[blob] <= 0:
                del self._held[blob]

    async def settled(self) -> None:
        """The look-ups that run at the time of the call have ended."""
        for lookup in list(self._lookups):
            await lookup.ended()

    @property
    def held(self) -> frozenset[BlobId]:
        return frozenset(self._held)


class _Lookup(AbstractContextManager[None]):
    """One that runs. Every read makes one, so it costs nothing but to who waits for its end."""

    def __init__(self, running: set[_Lookup]) -> None:
        self._running = running
        self._end: asyncio.Event | None = None

    def __enter__(self) -> None:
        self._running.add(self)

    def __exit__(self, *_: object) -> None:
        self._running.discard(self)
        if self._end is not None:
            self._end.set()

    async def ended(self) -> None:
        if self in self._running:
            self._end = self._end or asyncio.Event()
            await self._end.wait()
