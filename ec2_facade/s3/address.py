"""Bucket and key of an S3 request: in the path, or the bucket in the host name. Keys stay byte for byte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from ec2_facade.errors import Refused
from ec2_facade.services import bare_host, bucket_of_host
from ec2_facade.wire import WireRequest, to_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    # None: the service itself.
    bucket: str | None
    # None: the bucket itself.
    key: str | None


def read_address(request: WireRequest, domains: Sequence[str]) -> Address:
    """Raises Refused for a path that is no UTF-8: S3's keys are."""
    bucket = bucket_of_host(bare_host(request.host), domains)
    rest = request.raw_path.removeprefix("/")
    if bucket is not None:
        return Address(bucket=bucket, key=decode_path(rest) if rest else None)
    first, _, key = rest.partition("/")
    if not first:
        if key:
            raise Refused("InvalidBucketName", "The specified bucket is not valid.", status=400)
        return Address(bucket=None, key=None)
    return Address(bucket=decode_path(first), key=decode_path(key) if key else None)


def read_query(request: WireRequest) -> dict[str, str]:
    """Decoded; of a name given twice the first counts."""
    found: dict[str, str] = {}
    for name, value in request.query:
        try:
            found.setdefault(name.decode(), value.decode())
        except UnicodeDecodeError:
            raise _not_an_uri() from None
    return found


def decode_path(raw: str) -> str:
    """Raises Refused for what is no UTF-8."""
    try:
        return unquote_to_bytes(to_bytes(raw)).decode()
    except UnicodeDecodeError:
        raise _not_an_uri() from None


def _not_an_uri() -> Refused:
    return Refused("InvalidURI", "Couldn't parse the specified URI.", status=400)
