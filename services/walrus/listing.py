"""ListObjects, ListObjectsV2, ListObjectVersions and ListMultipartUploads: pages of names in byte order."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import Any, Final

from common.errors import InvalidArgument
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import listing_pb2, multipart_pb2
from services.walrus import errors, versioning, wire
from services.walrus.drivers.base import Bucket, Page, Scan, Summary, Upload
from services.walrus.drivers.versions import Marker
from services.walrus.store import Store

_PAGE: Final = 1000
_UPLOAD_ID: Final = re.compile(r"[0-9a-f]{52}\Z")


async def list_objects(
    store: Store, request: listing_pb2.ListObjectsRequest, caller: Caller | None
) -> listing_pb2.ListObjectsOutput:
    bucket = await store.bucket_for(request, caller)
    _check_optional(request)
    shown = _shower(request)
    limit = _limit(request, "max_keys", "max-keys")
    scan = Scan(
        prefix=request.prefix.encode(),
        delimiter=request.delimiter.encode(),
        after=request.marker.encode() if request.marker else None,
        limit=limit,
    )
    page = await _objects(store, bucket, scan)
    answer = listing_pb2.ListObjectsOutput(
        name=bucket.name,
        prefix=shown(scan.prefix),
        marker=shown(request.marker.encode()),
        max_keys=limit,
        is_truncated=page.truncated,
    )
    _describe(answer, request, shown)
    _fill(answer, page, shown, bucket=bucket, owned=True)
    # Without a delimiter clients go on from the last key, and AWS does not repeat it.
    if page.truncated and request.delimiter:
        answer.next_marker = shown(_name(page.entries[-1]))
    return answer


async def list_objects_v2(
    store: Store, request: listing_pb2.ListObjectsV2Request, caller: Caller | None
) -> listing_pb2.ListObjectsV2Output:
    bucket = await store.bucket_for(request, caller)
    _check_optional(request)
    shown = _shower(request)
    limit = _limit(request, "max_keys", "max-keys")
    after = request.start_after.encode() or None
    if request.HasField("continuation_token"):
        after = read_token(request.continuation_token)
    scan = Scan(prefix=request.prefix.encode(), delimiter=request.delimiter.encode(), after=after, limit=limit)
    page = await _objects(store, bucket, scan)
    answer = listing_pb2.ListObjectsV2Output(
        name=bucket.name,
        prefix=shown(scan.prefix),
        max_keys=limit,
        key_count=len(page.entries),
        is_truncated=page.truncated,
    )
    _describe(answer, request, shown)
    if request.start_after:
        answer.start_after = shown(request.start_after.encode())
    if request.HasField("continuation_token"):
        answer.continuation_token = request.continuation_token
    if page.truncated:
        answer.next_continuation_token = token_of(_name(page.entries[-1]))
    _fill(answer, page, shown, bucket=bucket, owned=request.fetch_owner)
    return answer


async def list_object_versions(
    store: Store, request: listing_pb2.ListObjectVersionsRequest, caller: Caller | None
) -> listing_pb2.ListObjectVersionsOutput:
    bucket = await store.bucket_for(request, caller)
    _check_optional(request)
    shown = _shower(request)
    limit = _limit(request, "max_keys", "max-keys")
    if request.version_id_marker and not request.key_marker:
        raise errors.invalid_argument(
            "A version-id marker cannot be specified without a key marker.",
            name="version-id-marker",
            value=request.version_id_marker,
        )
    versioning.asked(request.version_id_marker)
    scan = Scan(
        prefix=request.prefix.encode(),
        delimiter=request.delimiter.encode(),
        after=request.key_marker.encode() if request.key_marker else None,
        after_id=request.version_id_marker,
        limit=limit,
    )
    none: Page[Summary | Marker] = Page([], False)
    page = await store.index.list_versions(bucket, scan) if limit else none
    answer = listing_pb2.ListObjectVersionsOutput(
        name=bucket.name,
        prefix=shown(scan.prefix),
        key_marker=shown(request.key_marker.encode()),
        version_id_marker=request.version_id_marker,
        max_keys=limit,
        is_truncated=page.truncated,
    )
    _describe(answer, request, shown)
    for entry in page.entries:
        _add_version(answer, entry, bucket, shown)
    if page.truncated:
        last = page.entries[-1]
        answer.next_key_marker = shown(last if isinstance(last, bytes) else last.key)
        if not isinstance(last, bytes):
            answer.next_version_id_marker = versioning.shown(last.version_id)
    return answer


async def list_multipart_uploads(
    store: Store, request: multipart_pb2.ListMultipartUploadsRequest, caller: Caller | None
) -> multipart_pb2.ListMultipartUploadsOutput:
    bucket = await store.bucket_for(request, caller)
    shown = _shower(request)
    limit = _limit(request, "max_uploads", "max-uploads")
    scan = Scan(
        prefix=request.prefix.encode(),
        delimiter=request.delimiter.encode(),
        after=request.key_marker.encode() if request.key_marker else None,
        # S3 ignores it without a key marker.
        after_id=request.upload_id_marker if request.key_marker else "",
        limit=limit,
    )
    # An upload that is over marks its place, too.
    if scan.after_id and not _UPLOAD_ID.match(scan.after_id):
        raise errors.invalid_argument("Invalid uploadId marker", name="upload-id-marker", value=scan.after_id)
    none: Page[Upload] = Page([], False)
    page = await store.index.list_uploads(bucket, scan) if limit else none
    answer = multipart_pb2.ListMultipartUploadsOutput(
        bucket=bucket.name,
        key_marker=shown(request.key_marker.encode()),
        upload_id_marker=scan.after_id,
        prefix=shown(scan.prefix),
        max_uploads=limit,
        is_truncated=page.truncated,
    )
    _describe(answer, request, shown)
    for entry in page.entries:
        if isinstance(entry, bytes):
            answer.common_prefixes.add(prefix=shown(entry))
        else:
            answer.uploads.append(_upload(entry, bucket, shown))
    # Unlike other lists this one says where it ends even if nothing follows.
    ends = page.entries if page.truncated else [entry for entry in page.entries if not isinstance(entry, bytes)]
    last = ends[-1] if ends else b""
    answer.next_key_marker = shown(last if isinstance(last, bytes) else last.key)
    answer.next_upload_id_marker = "" if isinstance(last, bytes) else last.id
    return answer


async def _objects(store: Store, bucket: Bucket, scan: Scan) -> Page[Summary]:
    # Asked for nothing, S3 says that there is no more.
    return await store.index.list_objects(bucket, scan) if scan.limit else Page([], False)


def _add_version(
    answer: listing_pb2.ListObjectVersionsOutput,
    entry: Summary | Marker | bytes,
    bucket: Bucket,
    shown: Callable[[bytes], str],
) -> None:
    if isinstance(entry, bytes):
        answer.common_prefixes.add(prefix=shown(entry))
        return
    one = answer.delete_markers.add() if isinstance(entry, Marker) else _described(answer.versions.add(), entry)
    one.key = shown(entry.key)
    one.version_id = versioning.shown(entry.version_id)
    one.is_latest = entry.latest
    one.last_modified.CopyFrom(wire.timestamp(entry.modified_ms))
    one.owner.CopyFrom(wire.owner(bucket, entry.owner_id))


def _described(one: Any, entry: Summary) -> Any:
    """What Object and ObjectVersion share. Field by field: a page has a thousand, and keywords cost a third more."""
    one.e_tag = wire.quoted(entry.etag)
    one.size = entry.size
    one.storage_class = entry.storage_class
    if entry.algorithm:
        one.checksum_algorithm.append(entry.algorithm)
        one.checksum_type = wire.kind_of(entry.composite)
    return one


def _fill(answer: Any, page: Page[Summary], shown: Callable[[bytes], str], *, bucket: Bucket, owned: bool) -> None:
    for entry in page.entries:
        if isinstance(entry, bytes):
            answer.common_prefixes.add(prefix=shown(entry))
            continue
        one = _described(answer.contents.add(), entry)
        one.key = shown(entry.key)
        one.last_modified.seconds = entry.modified_ms // 1000
        if owned:
            one.owner.CopyFrom(wire.owner(bucket, entry.owner_id))


def _upload(upload: Upload, bucket: Bucket, shown: Callable[[bytes], str]) -> multipart_pb2.MultipartUpload:
    one = multipart_pb2.MultipartUpload(
        upload_id=upload.id,
        key=shown(upload.key),
        initiated=wire.timestamp(upload.started_ms),
        storage_class=upload.attributes.headers.get("StorageClass", "STANDARD"),
        owner=wire.owner(bucket, upload.owner_id),
        initiator=multipart_pb2.Initiator(id=upload.initiator_id, display_name=upload.initiator_name),
    )
    if upload.algorithm_chosen:
        one.checksum_algorithm = upload.algorithm
        one.checksum_type = wire.kind_of(upload.composite)
    return one


def _describe(answer: Any, request: Any, shown: Callable[[bytes], str]) -> None:
    if request.delimiter:
        answer.delimiter = shown(request.delimiter.encode())
    if request.encoding_type:
        answer.encoding_type = request.encoding_type


def _name(entry: Summary | bytes) -> bytes:
    return entry if isinstance(entry, bytes) else entry.key


def _limit(request: Any, field: str, name: str) -> int:
    asked = getattr(request, field) if request.HasField(field) else _PAGE
    if asked < 0:
        raise errors.invalid_argument(
            f"Argument {name} must be an integer between 0 and 2147483647", name=name, value=str(asked)
        )
    return min(asked, _PAGE)


def _check_optional(request: Any) -> None:
    """RestoreStatus is shown of what is being restored, and nothing is: archives can be read at any time here."""
    for name in request.optional_object_attributes:
        if name != "RestoreStatus":
            raise errors.invalid_argument(
                "Invalid attribute name specified.", name="x-amz-optional-object-attributes", value=name
            )


def _shower(request: Any) -> Callable[[bytes], str]:
    """Names go out as they are: the facade writes them in the encoding asked for."""
    encoding = request.encoding_type
    if request.HasField("encoding_type") and encoding != "url":
        raise errors.invalid_argument(
            "Invalid Encoding Method specified in Request", name="encoding-type", value=encoding
        )
    return errors.shown


def token_of(name: bytes) -> str:
    return base64.urlsafe_b64encode(b"1" + name).decode()


def read_token(token: str) -> bytes:
    try:
        decoded = base64.b64decode(token, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if not decoded.startswith(b"1"):
        raise InvalidArgument(
            "The continuation token provided is incorrect",
            code="InvalidArgument",
            details={"ArgumentName": "continuation-token"},
        )
    return decoded[1:]
