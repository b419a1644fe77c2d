"""What a tag may be. (EC2 User Guide, "Tag restrictions".)"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, Protocol

from common.errors import InvalidArgument, NoCapacity

MAX_TAGS = 50
MAX_KEY = 128
MAX_VALUE = 256


class TagLike(Protocol):
    key: str
    value: str

    def HasField(self, field_name: Literal["value"]) -> bool: ...


class TagSpecificationLike(Protocol):
    resource_type: str

    @property
    def tags(self) -> Sequence[TagLike]: ...


def checked(tags: Iterable[TagLike]) -> dict[str, str]:
    """Raises InvalidArgument for a key or value that EC2 does not take, or a key given twice."""
    found: dict[str, str] = {}
    for tag in tags:
        check_lengths(tag)
        if not tag.HasField("value"):
            raise InvalidArgument("Tag value cannot be null. Use empty string instead.")
        if tag.key in found:
            raise InvalidArgument(f"Duplicate tag key '{tag.key}' specified.")
        found[tag.key] = tag.value
    return found


def check_lengths(tag: TagLike) -> None:
    check_key(tag.key)
    if len(tag.value) > MAX_VALUE:
        raise InvalidArgument(f"Tag value exceeds the maximum length of {MAX_VALUE} characters")


def check_key(key: str) -> None:
    if not key:
        raise InvalidArgument("Tag key cannot be empty")
    if len(key) > MAX_KEY:
        raise InvalidArgument(f"Tag key exceeds the maximum length of {MAX_KEY} characters")
    if key.lower().startswith("aws:"):
        raise InvalidArgument("Tag keys starting with 'aws:' are reserved for internal use")


def merged(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    """Raises NoCapacity past 50 tags."""
    result = {**old, **new}
    if len(result) > MAX_TAGS:
        raise NoCapacity("The maximum number of Tags for a resource has been reached.", code="TagLimitExceeded")
    return result


def from_specifications(
    specifications: Iterable[TagSpecificationLike], *, allowed: Collection[str]
) -> dict[str, dict[str, str]]:
    """Resource type → its tags, for the types an action makes.

    Raises InvalidArgument for another type.
    """
    found: dict[str, dict[str, str]] = {kind: {} for kind in allowed}
    for specification in specifications:
        kind = specification.resource_type
        if kind not in found:
            raise InvalidArgument(f"'{kind}' is not a valid taggable resource type for this operation.")
        if not specification.tags:
            raise InvalidArgument("Tag specification must have at least one tag")
        found[kind] = merged(found[kind], checked(specification.tags))
    return found
