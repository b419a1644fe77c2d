"""Tags as EC2 shows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mallee.ec2.v1 import tag_pb2


def shown(tags: Mapping[str, str]) -> list[tag_pb2.Tag]:
    return [tag_pb2.Tag(key=key, value=tags[key]) for key in sorted(tags)]


def as_mapping(tags: Iterable[tag_pb2.Tag]) -> dict[str, str]:
    """For filters over what is shown."""
    return {tag.key: tag.value for tag in tags}
