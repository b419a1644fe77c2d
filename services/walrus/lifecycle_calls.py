"""PutBucketLifecycleConfiguration, GetBucketLifecycleConfiguration, DeleteBucketLifecycle."""

from __future__ import annotations

from typing import Final

from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import lifecycle_pb2
from mallee.s3.v1.lifecycle_pb2 import BucketLifecycleConfiguration
from services.walrus import configs, errors, lifecycle
from services.walrus.store import Store

# Of transitions, of which there are none: AWS's default, which clients send and compare.
_LEAST_SIZE: Final = "all_storage_classes_128K"


async def put_lifecycle(
    store: Store, request: lifecycle_pb2.PutBucketLifecycleConfigurationRequest, caller: Caller | None
) -> lifecycle_pb2.PutBucketLifecycleConfigurationOutput:
    bucket = await store.bucket_for(request, caller)
    await configs.put(store, bucket, lifecycle.checked(request.lifecycle_configuration))
    store.expire()
    return lifecycle_pb2.PutBucketLifecycleConfigurationOutput(transition_default_minimum_object_size=_LEAST_SIZE)


async def get_lifecycle(
    store: Store, request: lifecycle_pb2.GetBucketLifecycleConfigurationRequest, caller: Caller | None
) -> lifecycle_pb2.GetBucketLifecycleConfigurationOutput:
    bucket = await store.bucket_for(request, caller)
    found = configs.find(bucket, BucketLifecycleConfiguration)
    if found is None:
        raise errors.not_configured(
            bucket.name, "NoSuchLifecycleConfiguration", "The lifecycle configuration does not exist"
        )
    return lifecycle_pb2.GetBucketLifecycleConfigurationOutput(
        rules=found.rules, transition_default_minimum_object_size=_LEAST_SIZE
    )


async def delete_lifecycle(
    store: Store, request: lifecycle_pb2.DeleteBucketLifecycleRequest, caller: Caller | None
) -> lifecycle_pb2.DeleteBucketLifecycleResponse:
    bucket = await store.bucket_for(request, caller)
    await configs.delete(store, bucket, BucketLifecycleConfiguration)
    return lifecycle_pb2.DeleteBucketLifecycleResponse()
