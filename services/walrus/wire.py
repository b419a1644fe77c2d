"""Walrus' values in the words of mallee.s3.v1, and back."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from mallee.s3.v1 import bucket_pb2
from services.walrus import errors, ownership
from services.walrus.digests import COMPOSITE, FULL_OBJECT
from services.walrus.drivers.base import Bucket, Checksum

# Algorithm -> the field that carries its value.
CHECKSUM_FIELDS: Final = {
    "CRC32": "checksum_crc32",
    "CRC32C": "checksum_crc32_c",
    "CRC64NVME": "checksum_crc64_nvme",
    "SHA1": "checksum_sha1",
    "SHA256": "checksum_sha256",
}
_TRAILERS: Final = {f"x-amz-checksum-{algorithm.lower()}": algorithm for algorithm in CHECKSUM_FIELDS}

# Member of S3's API -> field, of what PutObject takes and GetObject gives back.
HEADER_FIELDS: Final = {
    "CacheControl": "cache_control",
    "ContentDisposition": "content_disposition",
    "ContentEncoding": "content_encoding",
    "ContentLanguage": "content_language",
    "ContentType": "content_type",
    "Expires": "expires",
    "StorageClass": "storage_class",
    "WebsiteRedirectLocation": "website_redirect_location",
}


def headers_of(request: Any) -> dict[str, str]:
    """Of PutObject and CreateMultipartUpload."""
    return {member: getattr(request, field) for member, field in HEADER_FIELDS.items()}


def checksum_sent(request: Any) -> Checksum | None:
    """The one that came in a header. Raises InvalidArgument if there are several."""
    found = [
        Checksum(algorithm=algorithm, value=getattr(request, field))
        for algorithm, field in CHECKSUM_FIELDS.items()
        if request.HasField(field)
    ]
    if len(found) > 1:
        raise errors.invalid_request(
            "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."
        )
    return found[0] if found else None


def checksum_trailed(trailers: Any) -> Checksum | None:
    """The one that came behind the body."""
    found = [Checksum(algorithm=_TRAILERS[name], value=value) for name, value in trailers.items() if name in _TRAILERS]
    if len(found) > 1:
        raise errors.invalid_request(
            "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."
        )
    return found[0] if found else None


def set_checksum(message: Any, checksum: Checksum | None, *, with_kind: bool = True) -> None:
    if checksum is None:
        return
    setattr(message, CHECKSUM_FIELDS[checksum.algorithm], checksum.value)
    if with_kind:
        message.checksum_type = kind_of(checksum.composite)


def kind_of(composite: bool) -> str:
    return COMPOSITE if composite else FULL_OBJECT


def quoted(etag: str) -> str:
    return f'"{etag}"'


def timestamp(milliseconds: int) -> Timestamp:
    """S3 tells whole seconds."""
    return Timestamp(seconds=milliseconds // 1000)


def moment(milliseconds: int) -> Timestamp:
    return Timestamp(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)


def seconds_of(request: Any, field: str) -> int | None:
    return getattr(request, field).seconds if request.HasField(field) else None


def owner(bucket: Bucket, owner_id: str = "") -> bucket_pb2.Owner:
    """`owner_id`: of who wrote an object in it, and owns it where the bucket's owner does not own everything."""
    theirs = owner_id and not ownership.is_enforced(bucket)
    return bucket_pb2.Owner(id=owner_id if theirs else bucket.owner_id)
