"""Rules of objects: keys, metadata, and members of S3's API that are honoured at AWS's default value only. Pure.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html and UsingMetadata.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from common.errors import InvalidArgument, Unsupported
from services.walrus import errors
from services.walrus.drivers.base import Attributes

KEY_BYTES: Final = 1024
METADATA_BYTES: Final = 2048
_REDIRECT_BYTES: Final = 2048
PUT_BYTES: Final = 5 << 30
OBJECT_BYTES: Final = 5 << 40
PART_COUNT: Final = 10_000

DEFAULT_CONTENT_TYPE: Final = "binary/octet-stream"
_STORAGE_CLASSES: Final = frozenset(
    {
        "STANDARD",
        "REDUCED_REDUNDANCY",
        "STANDARD_IA",
        "ONEZONE_IA",
        "INTELLIGENT_TIERING",
        "GLACIER",
        "DEEP_ARCHIVE",
        "GLACIER_IR",
    }
)


def checked_key(key: str) -> bytes:
    encoded = key.encode()
    if not encoded:
        raise errors.invalid_argument("Object key must not be empty.", name="Key", value="")
    if len(encoded) > KEY_BYTES:
        raise InvalidArgument(
            "Your key is too long",
            code="KeyTooLongError",
            details={"Size": str(len(encoded)), "MaxSizeAllowed": str(KEY_BYTES)},
        )
    return encoded


def checked_attributes(headers: Mapping[str, str], metadata: Mapping[str, str]) -> Attributes:
    size = sum(len(name.encode()) + len(value.encode()) for name, value in metadata.items())
    if size > METADATA_BYTES:
        raise InvalidArgument(
            "Your metadata headers exceed the maximum allowed metadata size",
            code="MetadataTooLarge",
            details={"Size": str(size), "MaxSizeAllowed": str(METADATA_BYTES)},
        )
    storage_class = headers.get("StorageClass") or "STANDARD"
    if storage_class not in _STORAGE_CLASSES:
        raise InvalidArgument(
            "The storage class you specified is not valid",
            code="InvalidStorageClass",
            details={"StorageClassRequested": storage_class},
        )
    check_redirect(headers.get("WebsiteRedirectLocation", ""))
    kept = {name: value for name, value in headers.items() if value}
    return Attributes(headers={**kept, "StorageClass": storage_class}, metadata=dict(metadata))


def check_redirect(location: str) -> None:
    if location and not location.startswith(("/", "http://", "https://")):
        raise InvalidArgument(
            "The website redirect location must have a prefix of 'http://' or 'https://' or '/'.",
            code="InvalidRedirectLocation",
        )
    if len(location.encode()) > _REDIRECT_BYTES:
        raise InvalidArgument(
            f"The length of website redirect location cannot exceed {_REDIRECT_BYTES} characters.",
            code="InvalidRedirectLocation",
        )


def check_copy_size(size: int) -> None:
    if size > PUT_BYTES:
        raise errors.invalid_request(
            f"The specified copy source is larger than the maximum allowable size for a copy source: {PUT_BYTES}"
        )


def default_only(name: str, value: str, *defaults: str) -> None:
    """For a member that means nothing else here yet: a silent success would be a lie."""
    if value and value not in defaults:
        raise Unsupported(
            f"A header or query you provided implies functionality that is not implemented: {name} {value}",
            code="NotImplemented",
            details={"Header": name},
        )


def check_size(size: int, most: int) -> None:
    if size > most:
        raise InvalidArgument(
            "Your proposed upload exceeds the maximum allowed size",
            code="EntityTooLarge",
            details={"ProposedSize": str(size), "MaxSizeAllowed": str(most)},
        )
