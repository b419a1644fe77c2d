"""Put and get the access control list of a bucket and of an object."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from common.errors import InvalidArgument
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import acl_pb2 as pb
from mallee.s3.v1.acl_pb2 import AccessControlPolicy
from services.walrus import accounts, acl, configs, ownership, reading
from services.walrus import object as object_rules
from services.walrus.drivers.base import Bucket, Object
from services.walrus.store import Store


async def put_bucket_acl(
    store: Store, request: pb.PutBucketAclRequest, caller: Caller | None
) -> pb.PutBucketAclResponse:
    bucket = await store.bucket_for(request, caller)
    await accounts.check_grantees(store.accounts, request, bucket.owner_id)
    wanted = _wanted(request, bucket, bucket.owner_id, on_bucket=True)
    ownership.check_takes_acl(bucket, wanted)
    await configs.put(store, bucket, wanted)
    return pb.PutBucketAclResponse()


async def get_bucket_acl(store: Store, request: pb.GetBucketAclRequest, caller: Caller | None) -> pb.GetBucketAclOutput:
    bucket = await store.bucket_for(request, caller)
    found = acl.private(bucket.owner_id) if ownership.is_enforced(bucket) else ownership.bucket_acl(bucket)
    return pb.GetBucketAclOutput(owner=found.owner, grants=found.grants)


async def put_object_acl(store: Store, request: pb.PutObjectAclRequest, caller: Caller | None) -> pb.PutObjectAclOutput:
    bucket = await store.bucket_for(request, caller)
    await accounts.check_grantees(store.accounts, request, bucket.owner_id)

    def changed(found: Object) -> Object:
        owner_id = ownership.owner_of(bucket, found)
        wanted = _wanted(request, bucket, owner_id)
        ownership.check_takes_acl(bucket, wanted)
        private = acl.is_owners_alone(wanted, owner_id)
        return replace(found, acl=b"" if private else configs.body_of(wanted))

    await reading.change(store, bucket, request, caller, changed, event="s3:ObjectAcl:Put")
    return pb.PutObjectAclOutput()


async def get_object_acl(store: Store, request: pb.GetObjectAclRequest, caller: Caller | None) -> pb.GetObjectAclOutput:
    bucket = await store.bucket_for(request, caller)
    found = await reading.find(store, bucket, object_rules.checked_key(request.key), request, caller)
    owner_id = ownership.owner_of(bucket, found)
    shown = acl.private(owner_id) if ownership.is_enforced(bucket) else acl.read(found.acl, owner_id)
    return pb.GetObjectAclOutput(owner=shown.owner, grants=shown.grants)


def _wanted(request: Any, bucket: Bucket, owner_id: str, *, on_bucket: bool = False) -> AccessControlPolicy:
    """Of the one of three ways in which it was said. Raises InvalidArgument for none and for two."""
    in_headers = acl.of_headers(request, owner_id=owner_id, bucket=bucket, on_bucket=on_bucket)
    if not request.HasField("access_control_policy"):
        if in_headers is None:
            raise InvalidArgument(
                "Your request was missing a required header",
                code="MissingSecurityHeader",
                details={"MissingHeaderName": "x-amz-acl"},
            )
        if request.acl not in ("", acl.BUCKET_OWNER_FULL_CONTROL) and ownership.is_enforced(bucket):
            raise ownership.acls_not_supported()
        return in_headers
    if in_headers is not None:
        raise InvalidArgument("This request does not support content", code="UnexpectedContent")
    return acl.of_body(request.access_control_policy, owner_id=owner_id)
