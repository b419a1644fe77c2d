"""GetObjectAttributes: what is known of an object without its bytes, also of its parts."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import object_attributes_pb2 as pb
from services.walrus import encryption, errors, reading, versioning, wire
from services.walrus import object as object_rules
from services.walrus.drivers.base import Assembled, Checksum, Object
from services.walrus.store import Store

_NAMES: Final = frozenset({"ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"})
_PAGE: Final = 1000


async def get_attributes(
    store: Store, request: pb.GetObjectAttributesRequest, caller: Caller | None
) -> pb.GetObjectAttributesOutput:
    bucket = await store.bucket_for(request, caller)
    wanted = frozenset(request.object_attributes)
    if not wanted:
        raise errors.invalid_request(
            "The x-amz-object-attributes header specifying the attributes to be retrieved is either missing or empty"
        )
    if strange := [name for name in request.object_attributes if name not in _NAMES]:
        raise errors.invalid_argument(
            "Invalid attribute name specified.", name="x-amz-object-attributes", value=strange[0]
        )
    found = await reading.find(store, bucket, object_rules.checked_key(request.key), request, caller)
    encryption.of_found(store, request, found.encryption)
    answer = pb.GetObjectAttributesOutput(
        last_modified=wire.timestamp(found.modified_ms), version_id=versioning.told(bucket, found.version_id)
    )
    if "ETag" in wanted:
        answer.e_tag = found.etag
    if "Checksum" in wanted:
        wire.set_checksum(answer.checksum, _without_count(found.checksum))
    if "StorageClass" in wanted:
        answer.storage_class = found.attributes.headers.get("StorageClass", "STANDARD")
    if "ObjectSize" in wanted:
        answer.object_size = found.size
    if "ObjectParts" in wanted and isinstance(found.content, Assembled):
        answer.object_parts.CopyFrom(await _parts(store, request, found, found.content))
    return answer


def _without_count(checksum: Checksum | None) -> Checksum | None:
    """Of parts: it is told beside it."""
    return checksum and replace(checksum, value=checksum.value.partition("-")[0])


async def _parts(
    store: Store, request: pb.GetObjectAttributesRequest, found: Object, content: Assembled
) -> pb.GetObjectAttributesParts:
    if found.checksum is None or not found.checksum.composite:
        # Parts have checksums of their own, or are not told.
        return pb.GetObjectAttributesParts(total_parts_count=content.part_count)
    limit = request.max_parts if request.HasField("max_parts") else _PAGE
    for name, value in (("max-parts", limit), ("part-number-marker", request.part_number_marker)):
        if value < 0:
            raise errors.not_a_count(name, value)
    limit = min(limit, _PAGE)
    parts = await store.index.list_parts(content.upload_id, after=request.part_number_marker, limit=limit + 1)
    answer = pb.GetObjectAttributesParts(
        total_parts_count=content.part_count,
        part_number_marker=request.part_number_marker,
        max_parts=limit,
        is_truncated=bool(limit) and len(parts) > limit,
    )
    for part in parts[:limit]:
        one = answer.parts.add(part_number=part.number, size=part.size)
        wire.set_checksum(one, part.checksum, with_kind=False)
    answer.next_part_number_marker = answer.parts[-1].part_number if answer.parts else 0
    return answer
