"""What Walrus needs of its index, the truth: values, and a Protocol with promises. Its place for blobs: blobs.py.

An object exists exactly when the index says so. Blobs are immutable bytes under random names: one is sealed (durable)
before the index names it, and whatever the index does not name is garbage that the reclaimer deletes. Implementations
pass tests/contract/test_walrus_index.py.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, Self, TypeVar

from common.errors import CloudError
from services.walrus.drivers.events import NO_EVENTS, Event, EventQueue
from services.walrus.drivers.versions import ANYTHING, NULL, Deletion, Expectation, Extras, Gone, Marker

if TYPE_CHECKING:
    from services.walrus.drivers.blocks import BlockIndex
    from services.walrus.drivers.inspection import Inspection
    from services.walrus.drivers.quotas import Quotas

_HEX = re.compile(r"[0-9a-f]{32}\Z")


class BlobId(str):
    """32 random hex digits."""

    __slots__ = ()

    def __new__(cls, value: str) -> Self:
        if not cls.fits(value):
            raise ValueError(f"not a blob id: {value!r}")
        return super().__new__(cls, value)

    @staticmethod
    def fits(value: str) -> bool:
        return _HEX.match(value) is not None

    @classmethod
    def new(cls) -> Self:
        return cls(secrets.token_hex(16))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    # The engine's own, never used again: what belongs to a deleted bucket never shows up in a later one of that name.
    id: int
    name: str
    account_id: str
    # Canonical user id of the account.
    owner_id: str
    created_ms: int
    # What its owner configured, as services/walrus/configs.py names and reads it. Listings of buckets leave it out.
    configs: Mapping[str, bytes] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checksum:
    """As S3 shows it: base64, and `-N` after it for a composite of N parts."""

    # CRC32, CRC32C, CRC64NVME, SHA1, SHA256
    algorithm: str
    value: str
    composite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What the client said about an object and wants back: system headers and its own metadata."""

    # By the name of their member in S3's API: ContentType, CacheControl, StorageClass …
    headers: Mapping[str, str] = field(default_factory=dict)
    # Lower-case names without x-amz-meta-.
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inline:
    """The bytes stand in the index."""

    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Single:
    """The bytes are one blob."""

    blob: BlobId


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembled:
    """The bytes are the parts of a completed multipart upload, in order."""

    upload_id: str
    part_count: int


Content = Inline | Single | Assembled


@dataclass(frozen=True, slots=True, kw_only=True)
class Object(Extras):
    key: bytes
    size: int
    # Lower-case hex without quotes; `-N` after it for N parts.
    etag: str
    modified_ms: int
    checksum: Checksum | None
    attributes: Attributes
    content: Content
    version_id: str = NULL


class Summary(NamedTuple):
    """A version of an object as listings show it. A page has a thousand: a tuple is made in a third of the time."""

    key: bytes
    size: int
    etag: str
    modified_ms: int
    algorithm: str
    composite: bool
    storage_class: str
    version_id: str = NULL
    owner_id: str = ""
    latest: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload(Extras):
    """With the extras that the object will have."""

    bucket_id: int
    key: bytes
    # Sorts by time of initiation.
    id: str
    # Who began it: canonical user id and ARN.
    initiator_id: str
    initiator_name: str
    started_ms: int
    algorithm: str
    composite: bool
    # False: the client named no algorithm, S3's default holds.
    algorithm_chosen: bool
    attributes: Attributes


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    number: int
    size: int
    etag: str
    modified_ms: int
    checksum: Checksum
    blob: BlobId
    # Of its first byte in the object; 0 until the upload is completed.
    start: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What CompleteMultipartUpload answered, kept for a while so that repeating it is safe."""

    upload_id: str
    etag: str
    checksum: Checksum | None
    completed_ms: int
    version_id: str = NULL


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """An image's bytes, kept under their content name whatever happens to the object."""

    image_id: str
    sha256: str
    size: int
    # raw or qcow2
    format: str
    virtual_size: int
    account_id: str
    # What was pinned, so that repeating the request is known from asking for something else: bucket/key and kind.
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """A page of names in byte order: those that begin with `prefix` and sort after `after` (or `after_id`)."""

    prefix: bytes = b""
    # Names that share what stands up to the first delimiter after the prefix are one entry. Empty: none do.
    delimiter: bytes = b""
    # Exclusive; also of the entries that the delimiter makes. None: from the beginning.
    after: bytes | None = None
    # Of `after`, those behind this one still come: uploads with a greater id, versions that are older than this one,
    # `null` for the null version (all, if it is gone). Empty: none do.
    after_id: str = ""
    limit: int = 1000


NOTHING: Mapping[str, bytes] = MappingProxyType({})

Entry = TypeVar("Entry")


@dataclass(frozen=True, slots=True)
class Page(Generic[Entry]):
    # In byte order; a bare `bytes` is a common prefix.
    entries: list[Entry | bytes]
    truncated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    buckets: int
    # All versions, with delete markers.
    objects: int
    # Of them; parts of open uploads do not count.
    size: int
    pins: int


class Index(Protocol):
    """The directory of all buckets, objects, uploads and pins.

    Each method that changes something is one atomic step, durable when it returns, and seen by every read that begins
    after that. Cancelling one waits until its outcome is known. Where a step lets go of a blob it also notes the blob
    as garbage, in the same step. Raises CloudError kinds in S3's words; the step then changed nothing. Unavailable
    (ServiceUnavailable) means that the engine could not write.
    """

    @property
    def blocks(self) -> BlockIndex:
        """Its part for snapshots."""

    @property
    def inspection(self) -> Inspection:
        """Its part that looks at all of it."""

    @property
    def events(self) -> EventQueue:
        """What is still to be told. Steps that take `events` add them, in the same step."""

    @property
    def quotas(self) -> Quotas:
        """Its part that counts."""

    async def open(self) -> None:
        """Brings the stored schema up to this version. Raises StoreTooNew for one of a later version."""

    async def close(self) -> None: ...

    async def usage(self, account_id: str = "") -> Usage:
        """Of one account, or of all."""

    # Buckets

    async def create_bucket(
        self, name: str, *, account_id: str, owner_id: str, created_ms: int, configs: Mapping[str, bytes] = NOTHING
    ) -> Bucket:
        """The bucket of that name: made now with `configs`, or the one that stood there, whoever owns it."""

    async def put_config(self, bucket: Bucket, kind: str, body: bytes | None) -> None:
        """Replaces what is configured under `kind`; None: nothing is any more. Raises NotFound (NoSuchBucket)."""

    async def find_bucket(self, name: str) -> Bucket | None: ...

    async def buckets_with(self, kind: str) -> list[Bucket]:
        """All that have something configured under `kind`."""

    async def list_buckets(self, account_id: str, *, prefix: str, after: str, limit: int) -> list[Bucket]: ...

    async def delete_bucket(self, bucket: Bucket) -> None:
        """Open uploads in it are aborted. Any version or marker keeps it.

        Raises WrongState (BucketNotEmpty), NotFound (NoSuchBucket).
        """

    # Objects

    async def find_object(self, bucket: Bucket, key: bytes, version_id: str | None = None) -> Object | Marker | None:
        """That version, or the newest one."""

    async def put_object(
        self, bucket: Bucket, new: Object, expect: Expectation = ANYTHING, events: Sequence[Event] = NO_EVENTS
    ) -> None:
        """It becomes the newest version. With a version id of its own it replaces nothing; the null version replaces
        the null version, wherever that stands, unless that is locked.

        Raises NotFound (NoSuchBucket; NoSuchKey by `expect`), PreconditionFailed, Denied (QuotaExceeded, AccessDenied).
        """

    async def change_object(
        self,
        bucket: Bucket,
        key: bytes,
        version_id: str | None,
        change: Callable[[Object], Object],
        events: Sequence[Event] = NO_EVENTS,
    ) -> Object:
        """Gives a version other extras, in one step with what `change` looks at; nothing else of it may change.

        Raises NotFound (NoSuchKey, NoSuchVersion), WrongState (MethodNotAllowed) for a marker, and what `change` does.
        """

    async def delete(self, bucket: Bucket, deletions: Sequence[Deletion], *, now_ms: int) -> list[Gone | CloudError]:
        """All of them in one step; each one's outcome: one that is refused changes nothing. Raises NoSuchBucket."""

    async def list_objects(self, bucket: Bucket, scan: Scan) -> Page[Summary]:
        """Newest versions that are no markers. Costs what the page holds, however much lies under a common prefix."""

    async def list_versions(self, bucket: Bucket, scan: Scan) -> Page[Summary | Marker]:
        """All versions by key, newest first. Costs the same."""

    # Multipart uploads

    async def create_upload(self, upload: Upload) -> None:
        """Raises NotFound (NoSuchBucket)."""

    async def find_upload(self, bucket: Bucket, key: bytes, upload_id: str) -> Upload | None: ...

    async def list_uploads(self, bucket: Bucket, scan: Scan) -> Page[Upload]: ...

    async def put_part(self, upload: Upload, part: Part) -> None:
        """Replaces the part of that number. Raises NotFound (NoSuchUpload), Denied (QuotaExceeded)."""

    async def list_parts(self, upload_id: str, *, after: int = 0, limit: int) -> list[Part]: ...

    async def parts_of(self, content: Assembled, *, start: int, end: int) -> list[Part]:
        """Those of a completed upload that hold bytes of [start, end)."""

    async def part_at(self, content: Assembled, number: int) -> Part | None:
        """The number-th part of a completed upload, counted from 1 in the order of the object."""

    async def complete_upload(
        self,
        bucket: Bucket,
        upload: Upload,
        parts: Sequence[Part],
        new: Object,
        expect: Expectation,
        events: Sequence[Event] = NO_EVENTS,
    ) -> None:
        """The chosen parts become the object; the other parts are garbage. Nothing is copied.

        Raises Stale if a chosen part was replaced meanwhile, NotFound (NoSuchUpload) if the upload is gone, Denied
        (QuotaExceeded).
        """

    async def find_completion(self, bucket: Bucket, key: bytes, upload_id: str) -> Completion | None: ...

    async def forget_completions(self, before_ms: int) -> None: ...

    async def abort_upload(self, upload: Upload) -> None:
        """Raises NotFound (NoSuchUpload)."""

    # Garbage

    async def garbage(self, limit: int) -> list[BlobId]:
        """Blobs that were let go, oldest first."""

    async def forget_garbage(self, blobs: Sequence[BlobId]) -> None: ...

    async def named(self, blobs: Sequence[BlobId]) -> set[BlobId]:
        """Those that the index knows: as content, part, pack of blocks or garbage."""

    # Pins

    async def put_pin(self, pin: Pin) -> None: ...

    async def find_pin(self, image_id: str) -> Pin | None: ...

    async def delete_pin(self, image_id: str) -> None:
        """One that is not there is no error."""

    async def pinned_contents(self) -> set[str]:
        """The sha256 of every pin."""


class BodyDamaged(RuntimeError):
    """Bytes that stand in the index are not what was written."""


class StoreTooNew(Exception):
    """The data was written by a later version of Walrus."""
