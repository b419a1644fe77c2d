"""Who may do what: one decision for every request, from the bucket's policy, ACLs, ownership and public access block.

Pure. The everyday request, an owner's in a bucket without a policy and without ACLs, is decided by two look-ups.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/how-s3-evaluates-access-control.html
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Final

from common.errors import CloudError, Denied, InvalidArgument, WrongState
from common.policy.evaluate import Request, Verdict, evaluate
from common.policy.principal import Identity
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1.listing_pb2 import ListObjectsV2Request
from services.walrus import acl, bucket_policy, errors, ownership
from services.walrus.actions import PART_REQUESTS, RULES, Rule, Scope
from services.walrus.condition_keys import Situation, context_of
from services.walrus.drivers.base import Bucket, Object

_ACCOUNT_ID: Final = re.compile(r"[0-9]{12}")
# What the owner of a bucket may do whatever its policy says, so that nobody is locked out for ever, and nobody else.
_ABOUT_THE_POLICY: Final = frozenset(
    {"s3:GetBucketPolicy", "s3:PutBucketPolicy", "s3:DeleteBucketPolicy", "s3:GetBucketPolicyStatus"}
)


def is_owner(bucket: Bucket, caller: Caller) -> bool:
    return caller.account_id == bucket.account_id and not caller.anonymous


def is_everyday(bucket: Bucket, caller: Caller) -> bool:
    """The owner may do everything here, and nothing needs to be looked at."""
    return (
        caller.account_id == bucket.account_id
        and bucket_policy.KIND not in bucket.configs
        and ownership.KIND not in bucket.configs
    )


def check(bucket: Bucket, request: Any, caller: Caller, now_ms: int) -> None:
    """As far as it can be said without an object. Raises Denied (AccessDenied), InvalidArgument if none can own it.

    A request of Scope.OBJECT or Scope.UPLOAD is decided by `check_object` or `check_upload`.
    """
    if request.expected_bucket_owner not in ("", bucket.account_id):
        raise _unexpected(request.expected_bucket_owner)
    if is_everyday(bucket, caller):
        return
    situation = Situation(bucket=bucket, request=request, caller=caller, now_ms=now_ms)
    _check_payer(situation)
    rule = RULES[request.DESCRIPTOR.name]
    if rule.scope in (Scope.BUCKET, Scope.KEY):
        _check(situation, rule)


def _unexpected(owner: str) -> CloudError:
    if _ACCOUNT_ID.fullmatch(owner):
        return errors.access_denied()
    return InvalidArgument(
        f"The value of the expected bucket owner parameter must be an AWS Account ID... [{owner}]",
        code="InvalidBucketOwnerAWSAccountID",
    )


def check_object(bucket: Bucket, request: Any, caller: Caller, now_ms: int, found: Object | None) -> None:
    """Once the object is found, or is found not to be there (None).

    Raises Denied (AccessDenied): also where there is nothing, for who may not know that.
    """
    if is_everyday(bucket, caller):
        return
    situation = Situation(bucket=bucket, request=request, caller=caller, now_ms=now_ms, found=found)
    rule = RULES[request.DESCRIPTOR.name]
    if found is not None:
        _check(situation, rule)
        return
    denied = _verdict(situation, rule.action_of(request), Scope.KEY) is Verdict.DENIED
    # As if it were listed: a policy may say under which s3:prefix.
    listed = replace(situation, request=ListObjectsV2Request(prefix=request.key))
    if denied or not _may(listed, "s3:ListBucket", Scope.BUCKET):
        raise errors.access_denied()


def check_upload(bucket: Bucket, request: Any, caller: Caller, now_ms: int, initiator_id: str | None) -> None:
    """Once the upload is found, or not (None). Whoever began it may end it, as long as they may put there."""
    if is_everyday(bucket, caller):
        return
    situation = Situation(bucket=bucket, request=request, caller=caller, now_ms=now_ms)
    action = RULES[request.DESCRIPTOR.name].action
    if _may(situation, action, Scope.UPLOAD):
        return
    began = initiator_id is None or initiator_id == caller.canonical_user_id
    denied = _verdict(situation, action, Scope.UPLOAD) is Verdict.DENIED
    if denied or not began or not _may(situation, "s3:PutObject", Scope.KEY):
        raise errors.access_denied()


def _check(situation: Situation, rule: Rule) -> None:
    for action in sorted(rule.needed(situation.request)):
        if not _may(situation, action, rule.scope):
            raise _denied(situation, action, rule.scope)


def _denied(situation: Situation, action: str, scope: Scope) -> CloudError:
    """Owners are told what keeps them out, others that a policy is not for them, even if it says so."""
    verdict, owner = _verdict(situation, action, scope), is_owner(situation.bucket, situation.caller)
    if verdict is Verdict.ALLOWED and action in _ABOUT_THE_POLICY:
        return WrongState(
            "The specified method is not allowed against this resource.",
            code="MethodNotAllowed",
            details={"ResourceType": "BUCKETPOLICY"},
        )
    if verdict is not Verdict.DENIED or not owner:
        return errors.access_denied()
    return Denied(
        f"User: {situation.caller.arn} is not authorized to perform: {action} on resource: "
        f'"{_resource(situation, scope)}" with an explicit deny in a resource-based policy',
        code="AccessDenied",
    )


def _may(situation: Situation, action: str, scope: Scope) -> bool:
    bucket, caller = situation.bucket, situation.caller
    owner = is_owner(bucket, caller)
    if owner and action in _ABOUT_THE_POLICY:
        return True
    verdict = _verdict(situation, action, scope)
    if verdict is Verdict.DENIED:
        return False
    # What somebody else's object allows, that one says, by its ACL.
    bucket_owners = scope is not Scope.OBJECT or ownership.owner_of(bucket, situation.found) == bucket.owner_id
    if bucket_owners and (owner or (verdict is Verdict.ALLOWED and _counts(bucket, action))):
        return True
    return _granted(situation, action, scope)


def _verdict(situation: Situation, action: str, scope: Scope) -> Verdict:
    bucket, caller = situation.bucket, situation.caller
    body = bucket.configs.get(bucket_policy.KIND)
    if body is None:
        return Verdict.SILENT
    who = Identity(
        account_id=caller.account_id,
        arn=caller.arn,
        user_id=caller.user_id,
        canonical_user_id=caller.canonical_user_id,
    )
    request = Request(who=who, action=action, resource=_resource(situation, scope), context=context_of(situation))
    of_part = situation.request.DESCRIPTOR.name in PART_REQUESTS
    policy = bucket_policy.read_for_parts(body) if of_part else bucket_policy.read(body)
    return evaluate(policy, request)


def _resource(situation: Situation, scope: Scope) -> str:
    bucket = bucket_policy.ARN + situation.bucket.name
    return bucket if scope is Scope.BUCKET else f"{bucket}/{situation.request.key}"


def _counts(bucket: Bucket, action: str) -> bool:
    """Whether a policy's word lets others in: not a public one where those are restricted, nor about policies."""
    if action in _ABOUT_THE_POLICY:
        return False
    restricted = ownership.block_of(bucket).restrict_public_buckets
    return not (restricted and bucket_policy.opens(bucket.configs[bucket_policy.KIND]))


def _granted(situation: Situation, action: str, scope: Scope) -> bool:
    bucket, caller = situation.bucket, situation.caller
    if ownership.is_enforced(bucket):
        return False
    ignore_public = ownership.block_of(bucket).ignore_public_acls
    if scope is not Scope.OBJECT:
        # Of the bucket.
        granted = acl.permissions(ownership.bucket_acl(bucket), caller, ignore_public=ignore_public)
        return acl.allows(granted, action, acl.ON_BUCKET)
    found = situation.found
    assert found is not None
    owner_id = ownership.owner_of(bucket, found)
    if caller.canonical_user_id == owner_id and action in acl.ON_OBJECT["READ_ACP"] | acl.ON_OBJECT["WRITE_ACP"]:
        return True
    granted = acl.permissions(acl.read(found.acl, owner_id), caller, ignore_public=ignore_public)
    return acl.allows(granted, action, acl.ON_OBJECT)


def _check_payer(situation: Situation) -> None:
    """In a bucket whose requesters pay, others than its owner say that they know it."""
    if is_owner(situation.bucket, situation.caller) or not ownership.requester_pays(situation.bucket):
        return
    fields = situation.request.DESCRIPTOR.fields_by_name
    if situation.caller.anonymous or ("request_payer" in fields and situation.request.request_payer != "requester"):
        raise errors.access_denied()
