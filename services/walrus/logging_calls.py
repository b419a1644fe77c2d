"""PutBucketLogging and GetBucketLogging."""

from __future__ import annotations

from common.errors import InvalidArgument, NotFound
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import logging_pb2
from mallee.s3.v1.logging_pb2 import BucketLoggingStatus
from mallee.walrus.v1.shard_pb2 import ShardBucket
from services.walrus import configs, errors
from services.walrus.drivers.base import Bucket
from services.walrus.store import Store

_DATES = ("EventTime", "DeliveryTime")


async def put_bucket_logging(
    store: Store, request: logging_pb2.PutBucketLoggingRequest, caller: Caller | None
) -> logging_pb2.PutBucketLoggingResponse:
    bucket = await store.bucket_for(request, caller)
    wanted = request.bucket_logging_status
    if not wanted.HasField("logging_enabled"):
        await configs.delete(store, bucket, BucketLoggingStatus)
        store.logging_changed()
        return logging_pb2.PutBucketLoggingResponse()
    _check_format(wanted.logging_enabled)
    target = await target_of(store, wanted.logging_enabled)
    if target is None:
        raise _invalid_target("The target bucket for logging does not exist", wanted)
    if target.account_id != bucket.account_id:
        raise _invalid_target("The owner for the bucket to be logged and the target bucket must be the same.", wanted)
    await configs.put(store, bucket, wanted)
    store.logging_changed()
    return logging_pb2.PutBucketLoggingResponse()


async def target_of(store: Store, settings: logging_pb2.LoggingEnabled) -> Bucket | ShardBucket | None:
    """None: there is no such bucket. Raises Unavailable."""
    if not store.siblings.has(settings.target_bucket):
        return await store.index.find_bucket(settings.target_bucket)
    try:
        return await store.siblings.find_bucket(settings.target_bucket)
    except NotFound:
        return None


async def get_bucket_logging(
    store: Store, request: logging_pb2.GetBucketLoggingRequest, caller: Caller | None
) -> logging_pb2.GetBucketLoggingOutput:
    bucket = await store.bucket_for(request, caller)
    found = configs.find(bucket, BucketLoggingStatus)
    return logging_pb2.GetBucketLoggingOutput(logging_enabled=found.logging_enabled if found else None)


def _check_format(wanted: logging_pb2.LoggingEnabled) -> None:
    """Where a format of keys is given it is one of two. Raises InvalidArgument (MalformedXML)."""
    if not wanted.HasField("target_prefix"):
        raise errors.malformed_xml()
    if wanted.HasField("target_object_key_format"):
        chosen = wanted.target_object_key_format
        partitioned = chosen.HasField("partitioned_prefix")
        if partitioned == chosen.HasField("simple_prefix"):
            raise errors.malformed_xml()
        if partitioned and chosen.partitioned_prefix.partition_date_source not in _DATES:
            raise errors.malformed_xml()


def _invalid_target(message: str, wanted: BucketLoggingStatus) -> InvalidArgument:
    return InvalidArgument(
        message,
        code="InvalidTargetBucketForLogging",
        details={"TargetBucket": wanted.logging_enabled.target_bucket},
    )
