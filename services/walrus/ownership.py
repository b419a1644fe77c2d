"""Whose an object is, whether ACLs count, and what is kept from the public. Pure.

A bucket that nobody configured has what AWS gives to new ones: its owner owns everything, ACLs are off, and nothing is
open to the public. Deleting either setting is a setting too, as it does not bring that back.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/about-object-ownership.html
"""

from __future__ import annotations

from typing import Any, Final

from common.errors import Denied, InvalidArgument
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1.acl_pb2 import AccessControlPolicy
from mallee.s3.v1.bucket_access_pb2 import (
    OwnershipControls,
    PublicAccessBlockConfiguration,
    RequestPaymentConfiguration,
)
from services.walrus import acl, configs, errors
from services.walrus.drivers.base import Bucket, Object

ENFORCED: Final = "BucketOwnerEnforced"
PREFERRED: Final = "BucketOwnerPreferred"
WRITER: Final = "ObjectWriter"
OWNERSHIPS: Final = (ENFORCED, PREFERRED, WRITER)
REQUESTER: Final = "Requester"
BUCKET_OWNER: Final = "BucketOwner"

KIND: Final = configs.kind_of(OwnershipControls)
BLOCKED: Final = PublicAccessBlockConfiguration(
    block_public_acls=True, ignore_public_acls=True, block_public_policy=True, restrict_public_buckets=True
)


def controls_of(bucket: Bucket) -> OwnershipControls:
    """Without a rule: they were deleted."""
    return configs.find(bucket, OwnershipControls) or controls(ENFORCED)


def controls(ownership: str) -> OwnershipControls:
    made = OwnershipControls()
    made.rules.add(object_ownership=ownership)
    return made


def ownership_of(bucket: Bucket) -> str:
    if KIND not in bucket.configs:
        return ENFORCED
    rules = controls_of(bucket).rules
    return rules[0].object_ownership if rules else WRITER


def is_enforced(bucket: Bucket) -> bool:
    """ACLs do not count, and everything is the bucket owner's."""
    return ownership_of(bucket) == ENFORCED


def block_of(bucket: Bucket) -> PublicAccessBlockConfiguration:
    """Without any member: it was deleted."""
    return configs.find(bucket, PublicAccessBlockConfiguration) or BLOCKED


def requester_pays(bucket: Bucket) -> bool:
    found = configs.find(bucket, RequestPaymentConfiguration)
    return found is not None and found.payer == REQUESTER


def bucket_acl(bucket: Bucket) -> AccessControlPolicy:
    return configs.find(bucket, AccessControlPolicy) or acl.private(bucket.owner_id)


def owner_of(bucket: Bucket, found: Object | None) -> str:
    """Canonical user id."""
    if found is None or is_enforced(bucket):
        return bucket.owner_id
    return found.owner_id or bucket.owner_id


def check_takes_acl(bucket: Bucket, wanted: AccessControlPolicy) -> None:
    """Raises InvalidArgument (AccessControlListNotSupported) where there are none, Denied for a public one that is
    blocked.

    One that says what holds anyway is taken: s3cmd copies an object's ACL with it, whatever it says.
    """
    if is_enforced(bucket):
        if acl.is_owners_alone(wanted, bucket.owner_id):
            return
        raise acls_not_supported()
    if block_of(bucket).block_public_acls and acl.is_public(wanted):
        raise errors.access_denied()


def writer_of(bucket: Bucket, caller: Caller) -> str:
    """Who owns what the caller writes, as it is kept: empty is the bucket's owner."""
    if is_enforced(bucket):
        return ""
    writer = acl.ANONYMOUS_ID if caller.anonymous else caller.canonical_user_id
    return "" if writer == bucket.owner_id else writer


def of_new_object(bucket: Bucket, request: Any, caller: Caller) -> tuple[str, bytes]:
    """Owner and ACL of what the request writes, as they are kept: empty is the bucket's owner, and private.

    Raises InvalidArgument, Denied.
    """
    if is_enforced(bucket):
        if acl.is_asked_for(request):
            _check_asks_for_nothing(bucket, request, caller)
        return "", b""
    writer = writer_of(bucket, caller) or bucket.owner_id
    handed_over = ownership_of(bucket) == PREFERRED and request.acl == acl.BUCKET_OWNER_FULL_CONTROL
    owner_id = bucket.owner_id if handed_over else writer
    wanted = acl.of_headers(request, owner_id=owner_id, bucket=bucket)
    if wanted is not None:
        check_takes_acl(bucket, wanted)
    kept_owner = "" if owner_id == bucket.owner_id else owner_id
    private = wanted is None or acl.is_owners_alone(wanted, owner_id)
    return kept_owner, b"" if private or wanted is None else configs.body_of(wanted)


def _check_asks_for_nothing(bucket: Bucket, request: Any, caller: Caller) -> None:
    """What holds anyway may be asked for: the owner's rclone asks for `private` with every object."""
    wanted = acl.of_headers(request, owner_id=bucket.owner_id, bucket=bucket)
    owners = caller.canonical_user_id == bucket.owner_id or not request.acl
    in_vain = owners and wanted is not None and acl.is_owners_alone(wanted, bucket.owner_id)
    if not in_vain and request.acl != acl.BUCKET_OWNER_FULL_CONTROL:
        raise acls_not_supported()


def of_new_bucket(request: Any, owner: Caller, *, opened: bool = False) -> dict[str, bytes]:
    """The configurations that CreateBucket asks for. Raises InvalidArgument.

    `opened`: ACLs count if it does not say otherwise, and nothing is kept from the public.
    """
    wanted = request.object_ownership or (WRITER if opened else ENFORCED)
    if wanted not in OWNERSHIPS:
        raise InvalidArgument(
            f"Invalid x-amz-object-ownership header: {wanted}",
            code="InvalidArgument",
            details={"ArgumentName": "x-amz-object-ownership"},
        )
    made = configs.serialized(OwnershipControls(), PublicAccessBlockConfiguration()) if opened else {}
    if request.object_ownership:
        made[KIND] = configs.body_of(controls(wanted))
    asked = acl.of_headers(request, owner_id=owner.canonical_user_id, bucket=None, on_bucket=True)
    if asked is None or acl.is_owners_alone(asked, owner.canonical_user_id):
        return made
    if wanted == ENFORCED:
        raise acl_with_enforcement()
    if acl.is_public(asked) and not opened:
        raise InvalidArgument(
            "Bucket cannot have public ACLs set with BlockPublicAccess enabled",
            code="InvalidBucketAclWithBlockPublicAccessError",
        )
    return made | {configs.kind_of(AccessControlPolicy): configs.body_of(asked)}


def acl_with_enforcement() -> InvalidArgument:
    return InvalidArgument(
        "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting",
        code="InvalidBucketAclWithObjectOwnership",
    )


def acls_not_supported() -> InvalidArgument:
    return InvalidArgument("The bucket does not allow ACLs", code="AccessControlListNotSupported")


def blocked_policy(caller: Caller, bucket: str) -> Denied:
    return Denied(
        f"User: {caller.arn} is not authorized to perform: s3:PutBucketPolicy on resource: "
        f'"arn:aws:s3:::{bucket}" because public policies are prevented by the BlockPublicPolicy setting in S3 Block '
        "Public Access.",
        code="AccessDenied",
    )
