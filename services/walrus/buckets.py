"""CreateBucket, ListBuckets, HeadBucket, DeleteBucket, GetBucketLocation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from common.errors import AlreadyExists
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import bucket_pb2
from mallee.s3.v1.object_lock_pb2 import ObjectLockConfiguration
from mallee.s3.v1.tagging_pb2 import Tag, Tagging
from mallee.s3.v1.versioning_pb2 import VersioningConfiguration
from mallee.walrus.v1.shard_pb2 import ListShardBucketsRequest, ShardBucket
from services.walrus import accounts, configs, errors, lock, ownership, tags, versioning, wire
from services.walrus import bucket as rules
from services.walrus.drivers.base import Bucket
from services.walrus.listing import read_token, token_of
from services.walrus.store import Store

_LIST_LIMIT: Final = 10_000
# Of any partition: us-gov-west-1, ap-southeast-7, us-isob-east-1.
_REGION: Final = re.compile(r"[a-z]{2,4}(-[a-z]+){1,2}-[0-9]{1,2}")
# Of a bucket that may lock versions: it keeps them.
_LOCKING: Final = configs.serialized(
    ObjectLockConfiguration(object_lock_enabled=lock.ENABLED), VersioningConfiguration(status=versioning.ENABLED)
)


async def create_bucket(
    store: Store, request: bucket_pb2.CreateBucketRequest, caller: Caller | None
) -> bucket_pb2.CreateBucketOutput:
    owner = rules.caller_or_refuse(caller)
    rules.check_name(request.bucket)
    store.check_place(request.bucket)
    rules.check_location(request.create_bucket_configuration.location_constraint, store.region)
    await accounts.check_grantees(store.accounts, request, owner.canonical_user_id)
    bucket = await store.index.create_bucket(
        request.bucket,
        account_id=owner.account_id,
        owner_id=owner.canonical_user_id,
        created_ms=(now := store.now_ms()),
        configs=_first_configs(store, request, owner),
    )
    if bucket.account_id != owner.account_id:
        raise errors.bucket_taken(bucket.name)
    if bucket.created_ms != now and store.region != "us-east-1":
        raise AlreadyExists(
            "Your previous request to create the named bucket succeeded and you already own it.",
            code="BucketAlreadyOwnedByYou",
            details={"BucketName": bucket.name},
        )
    return bucket_pb2.CreateBucketOutput(location=f"/{bucket.name}")


def _first_configs(store: Store, request: bucket_pb2.CreateBucketRequest, owner: Caller) -> dict[str, bytes]:
    found = ownership.of_new_bucket(request, owner, opened=store.opens_buckets)
    if request.object_lock_enabled_for_bucket:
        found |= _LOCKING
    wanted = tags.checked_tags(request.create_bucket_configuration.tags, most=tags.BUCKET_TAGS)
    if wanted:
        found |= configs.serialized(Tagging(tag_set=[Tag(key=key, value=value) for key, value in wanted.items()]))
    return found


async def list_buckets(
    store: Store, request: bucket_pb2.ListBucketsRequest, caller: Caller | None
) -> bucket_pb2.ListBucketsOutput:
    owner = rules.caller_or_refuse(caller)
    limit = request.max_buckets if request.HasField("max_buckets") else _LIST_LIMIT
    if not 1 <= limit <= _LIST_LIMIT:
        raise errors.invalid_argument(
            f"Argument max-buckets must be an integer between 1 and {_LIST_LIMIT}", name="max-buckets", value=str(limit)
        )
    answer = bucket_pb2.ListBucketsOutput(owner=bucket_pb2.Owner(id=owner.canonical_user_id))
    if request.prefix:
        answer.prefix = request.prefix
    if request.bucket_region not in ("", store.region):
        if not _REGION.fullmatch(request.bucket_region):
            raise errors.invalid_argument(
                f"Argument value {request.bucket_region} is not a valid AWS Region",
                name="bucket-region",
                value=request.bucket_region,
            )
        return answer
    after = read_token(request.continuation_token).decode(errors="replace") if request.continuation_token else ""
    found = await _buckets_of(store, owner.account_id, prefix=request.prefix, after=after, limit=limit + 1)
    for bucket in found[:limit]:
        answer.buckets.add(
            name=bucket.name, creation_date=wire.timestamp(bucket.created_ms), bucket_region=store.region
        )
    if len(found) > limit:
        answer.continuation_token = token_of(found[limit - 1].name.encode())
    return answer


async def _buckets_of(
    store: Store, account_id: str, *, prefix: str, after: str, limit: int
) -> Sequence[Bucket | ShardBucket]:
    """By name, of all processes: of each so many are asked for, as all of them may be one's."""
    here = await store.index.list_buckets(account_id, prefix=prefix, after=after, limit=limit)
    if not store.siblings.others:
        return here
    elsewhere = await store.siblings.list_buckets(
        ListShardBucketsRequest(account_id=account_id, prefix=prefix, after=after, limit=limit)
    )
    return sorted((*here, *elsewhere), key=lambda bucket: bucket.name)


async def head_bucket(
    store: Store, request: bucket_pb2.HeadBucketRequest, caller: Caller | None
) -> bucket_pb2.HeadBucketOutput:
    await store.bucket_for(request, caller)
    return bucket_pb2.HeadBucketOutput(bucket_region=store.region, access_point_alias=False)


async def delete_bucket(
    store: Store, request: bucket_pb2.DeleteBucketRequest, caller: Caller | None
) -> bucket_pb2.DeleteBucketResponse:
    bucket = await store.bucket_for(request, caller)
    await store.index.delete_bucket(bucket)
    store.reclaim()
    return bucket_pb2.DeleteBucketResponse()


async def get_bucket_location(
    store: Store, request: bucket_pb2.GetBucketLocationRequest, caller: Caller | None
) -> bucket_pb2.GetBucketLocationOutput:
    await store.bucket_for(request, caller)
    # us-east-1 is told by saying nothing, as it has been since there was no other.
    return bucket_pb2.GetBucketLocationOutput(location_constraint=None if store.region == "us-east-1" else store.region)
