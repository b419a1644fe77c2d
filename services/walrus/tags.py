"""Tags of buckets and objects. Pure.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-tagging.html and CostAllocTagging.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from common.errors import InvalidArgument
from mallee.s3.v1.tagging_pb2 import Tag

OBJECT_TAGS: Final = 10
BUCKET_TAGS: Final = 50
_KEY_CHARACTERS: Final = 128
_VALUE_CHARACTERS: Final = 256
_TEXT: Final = re.compile(r"[\w\s+\-=.:/@]*\Z")


def checked_tags(tags: Iterable[Tag], *, most: int) -> dict[str, str]:
    """Raises InvalidArgument (InvalidTag; BadRequest for too many)."""
    found: dict[str, str] = {}
    for tag in tags:
        if not 0 < len(tag.key) <= _KEY_CHARACTERS or not _TEXT.match(tag.key):
            raise _invalid("The TagKey you have provided is invalid", tag.key)
        if len(tag.value) > _VALUE_CHARACTERS or not _TEXT.match(tag.value):
            raise _invalid("The TagValue you have provided is invalid", tag.key, TagValue=tag.value)
        if tag.key.lower().startswith("aws:"):
            of_object = "Your TagKey cannot be prefixed with aws:"
            raise _invalid(
                of_object if most == OBJECT_TAGS else "System tags cannot be added/updated by requester", tag.key
            )
        if tag.key in found:
            raise _invalid("Cannot provide multiple Tags with the same key", tag.key)
        found[tag.key] = tag.value
    if len(found) > most:
        what = "Object tags" if most == OBJECT_TAGS else "Bucket tag count"
        raise InvalidArgument(f"{what} cannot be greater than {most}", code="BadRequest")
    return found


def _invalid(message: str, key: str, **details: str) -> InvalidArgument:
    # The error travels in a header, which must not grow with what is wrong.
    shown = {name: text[: 2 * _VALUE_CHARACTERS] for name, text in ({"TagKey": key} | details).items()}
    return InvalidArgument(message, code="InvalidTag", details=shown)
