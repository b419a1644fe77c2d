"""What an owner sets on a bucket and reads back: versioning, tags, acceleration."""

from __future__ import annotations

from common.errors import InvalidArgument, WrongState
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import bucket_setting_pb2, tagging_pb2, versioning_pb2
from mallee.s3.v1.bucket_setting_pb2 import AccelerateConfiguration
from mallee.s3.v1.tagging_pb2 import Tagging
from mallee.s3.v1.versioning_pb2 import VersioningConfiguration
from services.walrus import configs, errors, lock, tags, versioning
from services.walrus import object as object_rules
from services.walrus.store import Store

_STATES = ("Enabled", "Suspended")


async def put_bucket_versioning(
    store: Store, request: versioning_pb2.PutBucketVersioningRequest, caller: Caller | None
) -> versioning_pb2.PutBucketVersioningResponse:
    bucket = await store.bucket_for(request, caller)
    wanted = request.versioning_configuration
    if not wanted.status:
        raise InvalidArgument(
            "The Versioning element must be specified", code="IllegalVersioningConfigurationException"
        )
    if wanted.status not in _STATES or wanted.mfa_delete not in ("", "Enabled", "Disabled"):
        raise errors.malformed_xml()
    object_rules.default_only("MfaDelete", wanted.mfa_delete, "Disabled")
    if wanted.status != versioning.ENABLED and lock.is_locking(bucket):
        raise WrongState(
            "An Object Lock configuration is present on this bucket, so the versioning state cannot be changed.",
            code="InvalidBucketState",
        )
    await configs.put(store, bucket, VersioningConfiguration(status=wanted.status))
    return versioning_pb2.PutBucketVersioningResponse()


async def get_bucket_versioning(
    store: Store, request: versioning_pb2.GetBucketVersioningRequest, caller: Caller | None
) -> versioning_pb2.GetBucketVersioningOutput:
    bucket = await store.bucket_for(request, caller)
    found = configs.find(bucket, VersioningConfiguration)
    return versioning_pb2.GetBucketVersioningOutput(status=found.status if found else None)


async def put_bucket_tagging(
    store: Store, request: tagging_pb2.PutBucketTaggingRequest, caller: Caller | None
) -> tagging_pb2.PutBucketTaggingResponse:
    bucket = await store.bucket_for(request, caller)
    tags.checked_tags(request.tagging.tag_set, most=tags.BUCKET_TAGS)
    await configs.put(store, bucket, request.tagging)
    return tagging_pb2.PutBucketTaggingResponse()


async def get_bucket_tagging(
    store: Store, request: tagging_pb2.GetBucketTaggingRequest, caller: Caller | None
) -> tagging_pb2.GetBucketTaggingOutput:
    bucket = await store.bucket_for(request, caller)
    found = configs.find(bucket, Tagging)
    if found is None or not found.tag_set:
        raise errors.not_configured(bucket.name, "NoSuchTagSet", "The TagSet does not exist")
    return tagging_pb2.GetBucketTaggingOutput(tag_set=found.tag_set)


async def delete_bucket_tagging(
    store: Store, request: tagging_pb2.DeleteBucketTaggingRequest, caller: Caller | None
) -> tagging_pb2.DeleteBucketTaggingResponse:
    bucket = await store.bucket_for(request, caller)
    await configs.delete(store, bucket, Tagging)
    return tagging_pb2.DeleteBucketTaggingResponse()


async def put_bucket_accelerate(
    store: Store, request: bucket_setting_pb2.PutBucketAccelerateConfigurationRequest, caller: Caller | None
) -> bucket_setting_pb2.PutBucketAccelerateConfigurationResponse:
    """Every endpoint of this cloud is the nearest one: what is set is kept and told."""
    bucket = await store.bucket_for(request, caller)
    if "." in bucket.name:
        raise errors.invalid_request(
            "S3 Transfer Acceleration is not supported for buckets with periods (.) in their names"
        )
    if request.accelerate_configuration.status not in _STATES:
        raise errors.malformed_xml()
    await configs.put(store, bucket, request.accelerate_configuration)
    return bucket_setting_pb2.PutBucketAccelerateConfigurationResponse()


async def get_bucket_accelerate(
    store: Store, request: bucket_setting_pb2.GetBucketAccelerateConfigurationRequest, caller: Caller | None
) -> bucket_setting_pb2.GetBucketAccelerateConfigurationOutput:
    bucket = await store.bucket_for(request, caller)
    found = configs.find(bucket, AccelerateConfiguration)
    return bucket_setting_pb2.GetBucketAccelerateConfigurationOutput(status=found.status if found else None)
