"""The index in memory, with knobs for faults: for tests, and to try Walrus without a disk. Blobs: fake_blobs.py.

It passes the same contract suite as the embedded one, but what it holds goes with the object. `storage` may be handed
from one to the next, as a disk outlives a process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, TypeVar

from common.errors import CloudError, Stale
from services.walrus import errors
from services.walrus.drivers import fake_quotas, fake_versions
from services.walrus.drivers.base import (
    NOTHING,
    Assembled,
    BlobId,
    Bucket,
    Completion,
    Object,
    Page,
    Part,
    Pin,
    Scan,
    Single,
    Summary,
    Upload,
    Usage,
)
from services.walrus.drivers.events import NO_EVENTS, Event
from services.walrus.drivers.fake_blocks import BlockStorage, FakeBlockIndex
from services.walrus.drivers.fake_events import EventStorage, FakeEvents
from services.walrus.drivers.fake_inspection import FakeInspection
from services.walrus.drivers.fake_quotas import FakeQuotas
from services.walrus.drivers.quotas import Elsewhere, Quota
from services.walrus.drivers.versions import ANYTHING, NULL, NULL_SHOWN, Deletion, Expectation, Gone, Marker

Named = TypeVar("Named")
_CHUNK_BYTES: Final = 1 << 20


@dataclass(kw_only=True)
class Faults:
    # The next so many changes of the index fail, and change nothing.
    failing_commits: int = 0
    # What the disk still takes; None: everything.
    room_bytes: int | None = None
    # The next so many blobs cannot be sealed.
    failing_seals: int = 0
    # Blobs and the bytes of them that are not what was written.
    damaged: set[tuple[BlobId, int]] = field(default_factory=set)


@dataclass(kw_only=True)
class Storage:
    """What an index has on its disk."""

    buckets: dict[str, Bucket] = field(default_factory=dict)
    versions: fake_versions.Versions = field(default_factory=dict)
    uploads: dict[tuple[int, bytes, str], Upload] = field(default_factory=dict)
    parts: dict[str, dict[int, Part]] = field(default_factory=dict)
    completions: dict[tuple[int, bytes, str], Completion] = field(default_factory=dict)
    garbage: list[BlobId] = field(default_factory=list)
    pins: dict[str, Pin] = field(default_factory=dict)
    last_bucket_id: int = 0
    blocks: BlockStorage = field(default_factory=BlockStorage)
    notes: dict[str, str] = field(default_factory=dict)
    events: EventStorage = field(default_factory=EventStorage)
    # By account, and by bucket's id; 0: of the account.
    quotas: dict[tuple[str, int], Quota] = field(default_factory=dict)
    elsewhere: dict[str, Elsewhere] = field(default_factory=dict)


class FakeIndex:
    def __init__(self, storage: Storage | None = None, faults: Faults | None = None) -> None:
        self.storage = storage or Storage()
        self.faults = faults or Faults()
        self.blocks = FakeBlockIndex(self._step, lambda: self.storage)
        self.quotas = FakeQuotas(self._step, lambda: self.storage)
        self.inspection = FakeInspection(self._step, lambda: self.storage)
        self.events = FakeEvents(self._step, lambda: self.storage)

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def usage(self, account_id: str = "") -> Usage:
        s = self.storage
        ids = {one.id for one in s.buckets.values() if account_id in ("", one.account_id)}
        stacks = (stack for (bucket, _), stack in s.versions.items() if bucket in ids)
        sizes = [one.size if isinstance(one, Object) else 0 for stack in stacks for one in stack]
        pins = [one for one in s.pins.values() if account_id in ("", one.account_id)]
        return Usage(buckets=len(ids), objects=len(sizes), size=sum(sizes), pins=len(pins))

    async def create_bucket(
        self, name: str, *, account_id: str, owner_id: str, created_ms: int, configs: Mapping[str, bytes] = NOTHING
    ) -> Bucket:
        with self._step() as s:
            if name not in s.buckets:
                s.last_bucket_id += 1
                s.buckets[name] = Bucket(
                    id=s.last_bucket_id,
                    name=name,
                    account_id=account_id,
                    owner_id=owner_id,
                    created_ms=created_ms,
                    configs=dict(configs),
                )
            return s.buckets[name]

    async def put_config(self, bucket: Bucket, kind: str, body: bytes | None) -> None:
        with self._step() as s:
            self._check_bucket(s, bucket)
            now = s.buckets[bucket.name]
            others = {name: value for name, value in now.configs.items() if name != kind}
            s.buckets[bucket.name] = replace(now, configs=others if body is None else {**others, kind: body})

    async def find_bucket(self, name: str) -> Bucket | None:
        return self.storage.buckets.get(name)

    async def buckets_with(self, kind: str) -> list[Bucket]:
        return [bucket for bucket in self.storage.buckets.values() if kind in bucket.configs]

    async def list_buckets(self, account_id: str, *, prefix: str, after: str, limit: int) -> list[Bucket]:
        own = (one for name, one in sorted(self.storage.buckets.items()) if one.account_id == account_id)
        return [one for one in own if one.name > after and one.name.startswith(prefix)][:limit]

    async def delete_bucket(self, bucket: Bucket) -> None:
        with self._step() as s:
            stacks = [stack for (owner, _), stack in s.versions.items() if owner == bucket.id]
            if any(isinstance(stack[0], Object) for stack in stacks):
                raise errors.bucket_not_empty(bucket.name)
            if stacks:
                raise errors.bucket_has_versions(bucket.name)
            self._check_bucket(s, bucket)
            for key in [key for key in s.uploads if key[0] == bucket.id]:
                self._drop_parts(s, s.uploads.pop(key).id)
            del s.buckets[bucket.name]
            s.quotas.pop((bucket.account_id, bucket.id), None)

    async def find_object(self, bucket: Bucket, key: bytes, version_id: str | None = None) -> Object | Marker | None:
        return fake_versions.find(self.storage.versions, (bucket.id, key), version_id)

    @fake_quotas.within_quota
    async def put_object(
        self, bucket: Bucket, new: Object, expect: Expectation = ANYTHING, events: Sequence[Event] = NO_EVENTS
    ) -> None:
        with self._step() as s:
            self._put(s, bucket, new, expect)
            s.events.add(events)

    async def change_object(
        self,
        bucket: Bucket,
        key: bytes,
        version_id: str | None,
        change: Callable[[Object], Object],
        events: Sequence[Event] = NO_EVENTS,
    ) -> Object:
        with self._step() as s:
            s.events.add(events)
            return fake_versions.change(s.versions, (bucket.id, key), version_id, change)

    async def delete(self, bucket: Bucket, deletions: Sequence[Deletion], *, now_ms: int) -> list[Gone | CloudError]:
        with self._step() as s:
            self._check_bucket(s, bucket)
            drop = partial(self._drop, s)
            outcomes = [fake_versions.delete(s.versions, bucket.id, one, now_ms, drop) for one in deletions]
            for one, outcome in zip(deletions, outcomes, strict=True):
                if isinstance(outcome, Gone) and outcome is not Gone.NOTHING:
                    s.events.add(one.events)
            return outcomes

    async def list_objects(self, bucket: Bucket, scan: Scan) -> Page[Summary]:
        stacks = ((key, stack[0]) for (owner, key), stack in self.storage.versions.items() if owner == bucket.id)
        return _page([(key, "", fake_versions.summary(one)) for key, one in stacks if isinstance(one, Object)], scan)

    async def list_versions(self, bucket: Bucket, scan: Scan) -> Page[Summary | Marker]:
        after = NULL if scan.after_id == NULL_SHOWN else scan.after_id
        named: list[tuple[bytes, str, Summary | Marker]] = []
        for (owner, key), stack in self.storage.versions.items():
            if owner == bucket.id:
                for place, one in enumerate(stack):
                    named.append((key, f"{place + 1:09}", fake_versions.shown(one, latest=place == 0)))
        if scan.after is not None and scan.after_id:
            ids = [one.version_id for one in self.storage.versions.get((bucket.id, scan.after), [])]
            scan = replace(scan, after_id=f"{ids.index(after) + 1 if after in ids else 0:09}")
        return _page(named, scan)

    async def create_upload(self, upload: Upload) -> None:
        with self._step() as s:
            if all(one.id != upload.bucket_id for one in s.buckets.values()):
                raise errors.no_such_bucket("")
            s.uploads[upload.bucket_id, upload.key, upload.id] = upload

    async def find_upload(self, bucket: Bucket, key: bytes, upload_id: str) -> Upload | None:
        return self.storage.uploads.get((bucket.id, key, upload_id))

    async def list_uploads(self, bucket: Bucket, scan: Scan) -> Page[Upload]:
        own = [one for (owner, _, _), one in self.storage.uploads.items() if owner == bucket.id]
        return _page([(one.key, one.id, one) for one in own], scan)

    @fake_quotas.within_quota
    async def put_part(self, upload: Upload, part: Part) -> None:
        with self._step() as s:
            self._check_open(s, upload)
            parts = s.parts.setdefault(upload.id, {})
            if old := parts.get(part.number):
                s.garbage.append(old.blob)
            parts[part.number] = replace(part, checksum=replace(part.checksum, composite=False))
            fake_quotas.check(self.storage, s, upload.bucket_id)

    async def list_parts(self, upload_id: str, *, after: int = 0, limit: int) -> list[Part]:
        parts = sorted(self.storage.parts.get(upload_id, {}).items())
        return [part for number, part in parts if number > after][:limit]

    async def parts_of(self, content: Assembled, *, start: int, end: int) -> list[Part]:
        parts = await self.list_parts(content.upload_id, limit=content.part_count)
        return [part for part in parts if part.start < end and part.start + part.size > start]

    async def part_at(self, content: Assembled, number: int) -> Part | None:
        parts = await self.list_parts(content.upload_id, limit=content.part_count)
        return parts[number - 1] if number <= len(parts) else None

    @fake_quotas.within_quota
    async def complete_upload(
        self,
        bucket: Bucket,
        upload: Upload,
        parts: Sequence[Part],
        new: Object,
        expect: Expectation,
        events: Sequence[Event] = NO_EVENTS,
    ) -> None:
        with self._step() as s:
            s.events.add(events)
            self._check_open(s, upload)
            stored = s.parts.get(upload.id, {})
            start, kept = 0, {}
            for part in parts:
                if (old := stored.get(part.number)) is None or old.blob != part.blob:
                    raise Stale(f"part {part.number} was replaced while the upload was being completed")
                kept[part.number] = replace(old, start=start)
                start += part.size
            s.garbage.extend(part.blob for number, part in stored.items() if number not in kept)
            s.parts[upload.id] = kept
            del s.uploads[bucket.id, upload.key, upload.id]
            self._put(s, bucket, new, expect)
            s.completions[bucket.id, upload.key, upload.id] = Completion(
                upload_id=upload.id,
                etag=new.etag,
                checksum=new.checksum,
                completed_ms=new.modified_ms,
                version_id=new.version_id,
            )

    async def find_completion(self, bucket: Bucket, key: bytes, upload_id: str) -> Completion | None:
        return self.storage.completions.get((bucket.id, key, upload_id))

    async def forget_completions(self, before_ms: int) -> None:
        with self._step() as s:
            s.completions = {key: one for key, one in s.completions.items() if one.completed_ms >= before_ms}

    async def abort_upload(self, upload: Upload) -> None:
        with self._step() as s:
            self._check_open(s, upload)
            self._drop_parts(s, upload.id)
            del s.uploads[upload.bucket_id, upload.key, upload.id]

    async def garbage(self, limit: int) -> list[BlobId]:
        return self.storage.garbage[:limit]

    async def forget_garbage(self, blobs: Sequence[BlobId]) -> None:
        with self._step() as s:
            s.garbage = [blob for blob in s.garbage if blob not in set(blobs)]

    async def named(self, blobs: Sequence[BlobId]) -> set[BlobId]:
        s = self.storage
        objects = (one for stack in s.versions.values() for one in stack if isinstance(one, Object))
        known = {one.content.blob for one in objects if isinstance(one.content, Single)}
        known |= {part.blob for parts in s.parts.values() for part in parts.values()}
        return (known | set(s.blocks.packs) | set(s.garbage)) & set(blobs)

    async def put_pin(self, pin: Pin) -> None:
        with self._step() as s:
            s.pins[pin.image_id] = pin

    async def find_pin(self, image_id: str) -> Pin | None:
        return self.storage.pins.get(image_id)

    async def delete_pin(self, image_id: str) -> None:
        with self._step() as s:
            s.pins.pop(image_id, None)

    async def pinned_contents(self) -> set[str]:
        return {pin.sha256 for pin in self.storage.pins.values()}

    @contextmanager
    def _step(self) -> Iterator[Storage]:
        """All of it or nothing."""
        if self.faults.failing_commits:
            self.faults.failing_commits -= 1
            raise errors.store_failed("the fake was told to fail")
        draft = deepcopy(self.storage)
        yield draft
        self.storage.__dict__.update(draft.__dict__)

    def _put(self, s: Storage, bucket: Bucket, new: Object, expect: Expectation) -> None:
        fake_versions.put(s.versions, (bucket.id, new.key), new, expect, partial(self._drop, s))
        self._check_bucket(s, bucket)
        fake_quotas.check(self.storage, s, bucket.id)

    def _drop(self, s: Storage, old: Object) -> None:
        match old.content:
            case Single(blob=blob):
                s.garbage.append(blob)
            case Assembled(upload_id=upload_id):
                self._drop_parts(s, upload_id)

    def _drop_parts(self, s: Storage, upload_id: str) -> None:
        s.garbage.extend(part.blob for part in s.parts.pop(upload_id, {}).values())

    def _check_bucket(self, s: Storage, bucket: Bucket) -> None:
        if s.buckets.get(bucket.name) != bucket:
            raise errors.no_such_bucket(bucket.name)

    def _check_open(self, s: Storage, upload: Upload) -> None:
        if (upload.bucket_id, upload.key, upload.id) not in s.uploads:
            raise errors.no_such_upload(upload.id)


def _page(named: Sequence[tuple[bytes, str, Named]], scan: Scan) -> Page[Named]:
    """The plain way: all entries, sorted, cut."""
    entries: dict[tuple[bytes, str], Named | bytes] = {}
    for key, id_, one in named:
        if not key.startswith(scan.prefix):
            continue
        head, found, _ = key[len(scan.prefix) :].partition(scan.delimiter) if scan.delimiter else (b"", b"", b"")
        common = scan.prefix + head + found if found else b""
        entries[(common, "") if common else (key, id_)] = common or one
    after = scan.after
    kept = [
        entry
        for (name, id_), entry in sorted(entries.items(), key=lambda item: item[0])
        if after is None or name > after or (scan.after_id and name == after and id_ > scan.after_id)
    ]
    return Page(kept[: scan.limit], len(kept) > scan.limit)
