"""Tags of one version of an object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import object_tagging_pb2 as pb
from mallee.s3.v1.tagging_pb2 import Tag
from services.walrus import object as object_rules
from services.walrus import reading, tags, versioning
from services.walrus.drivers.base import Object
from services.walrus.store import Store


async def put_tagging(
    store: Store, request: pb.PutObjectTaggingRequest, caller: Caller | None
) -> pb.PutObjectTaggingOutput:
    wanted = tags.checked_tags(request.tagging.tag_set, most=tags.OBJECT_TAGS)
    return pb.PutObjectTaggingOutput(version_id=await _change(store, request, caller, wanted, "Put"))


async def get_tagging(
    store: Store, request: pb.GetObjectTaggingRequest, caller: Caller | None
) -> pb.GetObjectTaggingOutput:
    bucket = await store.bucket_for(request, caller)
    found = await reading.find(store, bucket, object_rules.checked_key(request.key), request, caller)
    return pb.GetObjectTaggingOutput(
        version_id=versioning.told(bucket, found.version_id),
        tag_set=[Tag(key=key, value=value) for key, value in found.tags.items()],
    )


async def delete_tagging(
    store: Store, request: pb.DeleteObjectTaggingRequest, caller: Caller | None
) -> pb.DeleteObjectTaggingOutput:
    return pb.DeleteObjectTaggingOutput(version_id=await _change(store, request, caller, {}, "Delete"))


async def _change(store: Store, request: Any, caller: Caller | None, wanted: Mapping[str, str], how: str) -> str | None:
    bucket = await store.bucket_for(request, caller)

    def tagged(now: Object) -> Object:
        return replace(now, tags=wanted)

    changed = await reading.change(store, bucket, request, caller, tagged, event=f"s3:ObjectTagging:{how}")
    return versioning.told(bucket, changed.version_id)
