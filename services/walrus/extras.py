"""What a write says of the new version beside its bytes: who owns it, its tags, its locks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final
from urllib.parse import parse_qsl

from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1.tagging_pb2 import Tag
from services.walrus import errors, lock, ownership, versioning
from services.walrus import tags as tag_rules
from services.walrus.drivers.base import Bucket, Object
from services.walrus.drivers.versions import Extras
from services.walrus.encryption import Encryption, record_of, resealed
from services.walrus.store import Store

# Of what is encoded like a URL.
BAD_ESCAPE: Final = re.compile("%(?![0-9A-Fa-f]{2})")


def extras_of(
    bucket: Bucket,
    request: Any,
    caller: Caller | None,
    *,
    now_ms: int,
    encryption: Encryption | None,
    tags: Mapping[str, str] | None = None,
) -> Extras:
    """Of PutObject, CreateMultipartUpload and CopyObject. The bucket's default retention is not in it.

    `tags`: instead of what the request says.
    """
    owner_id, acl = ownership.of_new_object(bucket, request, caller or Caller(anonymous=True))
    return Extras(
        owner_id=owner_id,
        acl=acl,
        tags=read_tagging(request.tagging) if tags is None else tags,
        retention=lock.retention_sent(bucket, request, now_ms),
        legal_hold=lock.legal_hold_sent(bucket, request),
        encryption=record_of(encryption),
    )


async def version_of(store: Store, bucket: Bucket, new: Object, extras: Extras) -> tuple[Bucket, Object]:
    """The bucket as it is when the version is written, and the version with what stands beside it: the request was let
    in before its bytes came, and since then the bucket may keep versions or lock them, and master keys may be others.

    To be asked for immediately before the step of the index. Raises NotFound (NoSuchBucket).
    """
    now = await store.index.find_bucket(bucket.name)
    if now is None or now.id != bucket.id:
        raise errors.no_such_bucket(bucket.name)
    record = resealed(store.keyring, extras.encryption)
    made = replace(
        extras.onto(new),
        version_id=versioning.new_id(now),
        encryption=extras.encryption if record is None else record,
    )
    return now, lock.with_default(now, made)


def read_tagging(header: str) -> dict[str, str]:
    """Of x-amz-tagging."""
    if not header:
        return {}
    try:
        pairs = parse_qsl(header, keep_blank_values=True, errors="strict")
    except (ValueError, UnicodeDecodeError):
        raise _not_a_query(header) from None
    # A name alone has an empty value, and nothing between two `&` is no tag.
    names = {name for name, _ in pairs}
    doubled = any(pair.count("=") > 1 for pair in header.split("&"))
    if "" in names or len(names) < len(pairs) or doubled or BAD_ESCAPE.search(header):
        raise _not_a_query(header)
    # A query has no order that anybody chose.
    return tag_rules.checked_tags(
        (Tag(key=name, value=value) for name, value in sorted(pairs)), most=tag_rules.OBJECT_TAGS
    )


def _not_a_query(header: str) -> Exception:
    return errors.invalid_argument(
        "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters without tag name "
        "duplicates.",
        name="x-amz-tagging",
        value=header,
    )
