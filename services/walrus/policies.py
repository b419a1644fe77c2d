"""Put, get and delete a bucket's policy, and whether it is public."""

from __future__ import annotations

from common.errors import NotFound
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import bucket_policy_pb2 as pb
from services.walrus import accounts, ownership
from services.walrus import bucket_policy as rules
from services.walrus.drivers.base import Bucket
from services.walrus.store import Store


async def put_bucket_policy(
    store: Store, request: pb.PutBucketPolicyRequest, caller: Caller | None
) -> pb.PutBucketPolicyResponse:
    """There is no access to remove that ConfirmRemoveSelfBucketAccess speaks of: an owner always may change it."""
    bucket = await store.bucket_for(request, caller)
    policy = rules.check(request.policy, bucket.name)
    if caller is not None and ownership.block_of(bucket).block_public_policy and rules.is_public(policy):
        raise ownership.blocked_policy(caller, bucket.name)
    await accounts.check_principals(store.accounts, policy, bucket)
    await store.index.put_config(bucket, rules.KIND, request.policy.encode())
    return pb.PutBucketPolicyResponse()


async def get_bucket_policy(
    store: Store, request: pb.GetBucketPolicyRequest, caller: Caller | None
) -> pb.GetBucketPolicyOutput:
    bucket = await store.bucket_for(request, caller)
    return pb.GetBucketPolicyOutput(policy=_body(bucket).decode())


async def delete_bucket_policy(
    store: Store, request: pb.DeleteBucketPolicyRequest, caller: Caller | None
) -> pb.DeleteBucketPolicyResponse:
    bucket = await store.bucket_for(request, caller)
    await store.index.put_config(bucket, rules.KIND, None)
    return pb.DeleteBucketPolicyResponse()


async def get_bucket_policy_status(
    store: Store, request: pb.GetBucketPolicyStatusRequest, caller: Caller | None
) -> pb.GetBucketPolicyStatusOutput:
    bucket = await store.bucket_for(request, caller)
    public = rules.is_public(rules.read(_body(bucket)))
    return pb.GetBucketPolicyStatusOutput(policy_status=pb.PolicyStatus(is_public=public))


def _body(bucket: Bucket) -> bytes:
    found = bucket.configs.get(rules.KIND)
    if found is None:
        raise NotFound(
            "The bucket policy does not exist", code="NoSuchBucketPolicy", details={"BucketName": bucket.name}
        )
    return found
