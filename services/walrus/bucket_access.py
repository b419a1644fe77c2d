"""What an owner sets about access to a bucket as a whole: ownership, what is kept from the public, who pays."""

from __future__ import annotations

from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import bucket_access_pb2 as pb
from services.walrus import acl, configs, errors, ownership
from services.walrus.store import Store


async def put_ownership_controls(
    store: Store, request: pb.PutBucketOwnershipControlsRequest, caller: Caller | None
) -> pb.PutBucketOwnershipControlsResponse:
    bucket = await store.bucket_for(request, caller)
    wanted = [rule.object_ownership for rule in request.ownership_controls.rules]
    if len(wanted) != 1 or wanted[0] not in ownership.OWNERSHIPS:
        raise errors.malformed_xml()
    if wanted[0] == ownership.ENFORCED and not acl.is_owners_alone(ownership.bucket_acl(bucket), bucket.owner_id):
        raise ownership.acl_with_enforcement()
    await configs.put(store, bucket, request.ownership_controls)
    return pb.PutBucketOwnershipControlsResponse()


async def get_ownership_controls(
    store: Store, request: pb.GetBucketOwnershipControlsRequest, caller: Caller | None
) -> pb.GetBucketOwnershipControlsOutput:
    bucket = await store.bucket_for(request, caller)
    found = ownership.controls_of(bucket)
    if not found.rules:
        raise errors.not_configured(
            bucket.name, "OwnershipControlsNotFoundError", "The bucket ownership controls were not found"
        )
    return pb.GetBucketOwnershipControlsOutput(ownership_controls=found)


async def delete_ownership_controls(
    store: Store, request: pb.DeleteBucketOwnershipControlsRequest, caller: Caller | None
) -> pb.DeleteBucketOwnershipControlsResponse:
    bucket = await store.bucket_for(request, caller)
    await configs.put(store, bucket, pb.OwnershipControls())
    return pb.DeleteBucketOwnershipControlsResponse()


async def put_public_access_block(
    store: Store, request: pb.PutPublicAccessBlockRequest, caller: Caller | None
) -> pb.PutPublicAccessBlockResponse:
    bucket = await store.bucket_for(request, caller)
    wanted = request.public_access_block_configuration
    # Said in full, so that it is told from one that was deleted.
    block = pb.PublicAccessBlockConfiguration(
        block_public_acls=wanted.block_public_acls,
        ignore_public_acls=wanted.ignore_public_acls,
        block_public_policy=wanted.block_public_policy,
        restrict_public_buckets=wanted.restrict_public_buckets,
    )
    await configs.put(store, bucket, block)
    return pb.PutPublicAccessBlockResponse()


async def get_public_access_block(
    store: Store, request: pb.GetPublicAccessBlockRequest, caller: Caller | None
) -> pb.GetPublicAccessBlockOutput:
    bucket = await store.bucket_for(request, caller)
    found = ownership.block_of(bucket)
    if not found.ListFields():
        raise errors.not_configured(
            bucket.name, "NoSuchPublicAccessBlockConfiguration", "The public access block configuration was not found"
        )
    return pb.GetPublicAccessBlockOutput(public_access_block_configuration=found)


async def delete_public_access_block(
    store: Store, request: pb.DeletePublicAccessBlockRequest, caller: Caller | None
) -> pb.DeletePublicAccessBlockResponse:
    bucket = await store.bucket_for(request, caller)
    await configs.put(store, bucket, pb.PublicAccessBlockConfiguration())
    return pb.DeletePublicAccessBlockResponse()


async def put_request_payment(
    store: Store, request: pb.PutBucketRequestPaymentRequest, caller: Caller | None
) -> pb.PutBucketRequestPaymentResponse:
    """Nobody is charged for anything; what is asked of requesters is as AWS has it."""
    bucket = await store.bucket_for(request, caller)
    if request.request_payment_configuration.payer not in (ownership.REQUESTER, ownership.BUCKET_OWNER):
        raise errors.malformed_xml()
    await configs.put(store, bucket, request.request_payment_configuration)
    return pb.PutBucketRequestPaymentResponse()


async def get_request_payment(
    store: Store, request: pb.GetBucketRequestPaymentRequest, caller: Caller | None
) -> pb.GetBucketRequestPaymentOutput:
    bucket = await store.bucket_for(request, caller)
    payer = ownership.REQUESTER if ownership.requester_pays(bucket) else ownership.BUCKET_OWNER
    return pb.GetBucketRequestPaymentOutput(payer=payer)
