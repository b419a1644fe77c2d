"""Bucket and key of an S3 request: in the path, or the bucket in the host name. Keys stay byte for byte."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

from ec2_facade.errors import Refused
from ec2_facade.services import Hosts, bare_host
from ec2_facade.wire import WireRequest, to_bytes


# A tuple: each request makes one, and a frozen dataclass takes twice the time.
class Address(NamedTuple):
    # None: the service itself.
    bucket: str | None
    # None: the bucket itself.
    key: str | None
    # The host names the bucket, not the path.
    in_host: bool = False


def read_address(request: WireRequest, hosts: Hosts) -> Address:
    """Raises Refused for a path that is no UTF-8: S3's keys are."""
    bucket = hosts.bucket_of(bare_host(request.host))
    rest = request.raw_path.removeprefix("/")
    if bucket is not None:
        return Address(bucket=bucket, key=decode_path(rest) if rest else None, in_host=True)
    first, _, key = rest.partition("/")
    if not first:
        if key:
            raise Refused("InvalidBucketName", "The specified bucket is not valid.", status=400)
        return Address(bucket=None, key=None)
    return Address(bucket=decode_path(first), key=decode_path(key) if key else None)


def url_of(request: WireRequest, address: Address) -> str:
    """An object's, as its client spoke to it."""
    path = quote(address.key or "", safe="/-_.~")
    inside = path if address.in_host else f"{quote(address.bucket or '')}/{path}"
    return f"{'https' if request.secure else 'http'}://{quote(request.host, safe='.:-[]')}/{inside}"


def read_query(request: WireRequest) -> Mapping[str, str]:
    """Decoded; of a name given twice the first counts."""
    for name, value in request.query:
        if not (name.isascii() and value.isascii()):
            _check_utf8(name, value)
    return request.query_texts


def decode_path(raw: str) -> str:
    """Raises Refused for what is no UTF-8."""
    if raw.isascii() and "%" not in raw:
        return raw
    plain = unquote_to_bytes(to_bytes(raw))
    _check_utf8(plain)
    return plain.decode()


def _check_utf8(*texts: bytes) -> None:
    try:
        for text in texts:
            text.decode()
    except UnicodeDecodeError:
        raise Refused("InvalidURI", "Couldn't parse the specified URI.", status=400) from None
