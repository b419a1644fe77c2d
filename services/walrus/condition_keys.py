"""What a request, its caller and its object have for the condition keys of policies. Pure.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html
https://docs.aws.amazon.com/AmazonS3/latest/userguide/amazon-s3-policy-keys.html
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qsl

from common.policy.pattern import Context
from mallee.common.v1.caller_pb2 import Caller
from services.walrus.actions import BUCKET_ACTIONS, OBJECT_ACTIONS
from services.walrus.drivers.base import Bucket, Object

_DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """One request, and what stands in the store for it."""

    bucket: Bucket
    # A message of mallee.s3.v1.
    request: Any
    caller: Caller
    now_ms: int
    # The object that the request is about, where there is one.
    found: Object | None = None


Values = Sequence[str] | None
Key = Callable[[Situation], Values]
# Of a key whose name ends in the key of a tag.
TagKey = Callable[[Situation, str], Values]


def context_of(situation: Situation) -> Context:
    def values(key: str) -> Values:
        if (plain := _KEYS.get(key)) is not None:
            return plain(situation)
        name, _, tag = key.partition("/")
        tagged = _TAG_KEYS.get(name)
        return tagged(situation, tag) if tagged is not None else None

    return values


def is_known(key: str) -> bool:
    """`key`: folded. Of AWS's own keys S3 takes any, of S3's those that there are."""
    name, slash, _ = key.partition("/")
    return name.startswith("aws:") or key in _KEYS or key in _NEVER_SET or (bool(slash) and name in _TAG_KEYS)


def applies_to(key: str, action: str) -> bool:
    """Whether requests for the action may have that key."""
    actions = _ACTIONS.get(key.partition("/")[0])
    return actions is None or action in actions


def _one(value: str | None) -> Values:
    return (value,) if value else None


def _flag(value: bool) -> Values:
    return ("true" if value else "false",)


def _has(message: Any, field: str) -> bool:
    return field in message.DESCRIPTOR.fields_by_name and message.HasField(field)


def _member(field: str) -> Key:
    def values(situation: Situation) -> Values:
        request = situation.request
        if not _has(request, field):
            return None
        value = getattr(request, field)
        return (_date(value.seconds * 1000) if hasattr(value, "seconds") else str(value),)

    return values


def _date(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _principal_type(caller: Caller) -> str:
    if caller.anonymous:
        return "Anonymous"
    return "Account" if caller.arn.endswith(":root") else "User"


def _username(situation: Situation) -> Values:
    _, found, name = situation.caller.arn.partition(":user/")
    return (name.rpartition("/")[2],) if found else None


def _user_agent(situation: Situation) -> Values:
    request = situation.caller.request
    return (request.user_agent,) if request.HasField("user_agent") else None


def _referer(situation: Situation) -> Values:
    request = situation.caller.request
    return (request.referer,) if request.HasField("referer") else None


def _signature_age(situation: Situation) -> Values:
    signed_ms = situation.caller.request.signed_ms
    return (str(max(situation.now_ms - signed_ms, 0)),) if signed_ms else None


def _object_lock(mode: str) -> Key:
    """Of PutObject and its like, or of PutObjectRetention."""

    def values(situation: Situation) -> Values:
        request = situation.request
        plain = f"object_lock_{mode}"
        if _has(request, plain):
            return _member(plain)(situation)
        if not _has(request, "retention") or not request.retention.HasField(mode):
            return None
        value = getattr(request.retention, mode)
        return (value if isinstance(value, str) else _date(value.seconds * 1000),)

    return values


def _remaining_days(situation: Situation) -> Values:
    request = situation.request
    if _has(request, "object_lock_retain_until_date"):
        until = request.object_lock_retain_until_date
    elif _has(request, "retention") and request.retention.HasField("retain_until_date"):
        until = request.retention.retain_until_date
    else:
        return None
    return (str(max(until.seconds * 1000 - situation.now_ms, 0) // _DAY_MS),)


def _legal_hold(situation: Situation) -> Values:
    request = situation.request
    if _has(request, "legal_hold"):
        return _one(request.legal_hold.status)
    return _member("object_lock_legal_hold_status")(situation)


def _requested_tags(situation: Situation) -> Mapping[str, str]:
    request = situation.request
    if not _has(request, "tagging"):
        return {}
    if isinstance(request.tagging, str):
        return dict(parse_qsl(request.tagging, keep_blank_values=True))
    return {tag.key: tag.value for tag in request.tagging.tag_set}


def _requested_tag(situation: Situation, tag: str) -> Values:
    tags = _requested_tags(situation)
    return (tags[tag],) if tag in tags else None


def _existing_tag(situation: Situation, tag: str) -> Values:
    tags: Mapping[str, str] = getattr(situation.found, "tags", {})
    return (tags[tag],) if tag in tags else None


# By folded name.
_KEYS: Final[Mapping[str, Key]] = {
    "aws:currenttime": lambda s: (_date(s.now_ms),),
    "aws:epochtime": lambda s: (str(s.now_ms // 1000),),
    "aws:principalaccount": lambda s: _one(s.caller.account_id),
    "aws:principalarn": lambda s: _one(s.caller.arn),
    "aws:principalisawsservice": lambda s: _flag(False),
    "aws:principaltype": lambda s: (_principal_type(s.caller),),
    "aws:referer": _referer,
    "aws:resourceaccount": lambda s: (s.bucket.account_id,),
    "aws:securetransport": lambda s: _flag(s.caller.request.secure_transport),
    "aws:sourceip": lambda s: _one(s.caller.source_ip),
    "aws:useragent": _user_agent,
    "aws:userid": lambda s: ("anonymous",) if s.caller.anonymous else _one(s.caller.user_id),
    "aws:username": _username,
    "aws:viaawsservice": lambda s: _flag(False),
    "s3:authtype": lambda s: _one(s.caller.request.auth_type),
    "s3:delimiter": _member("delimiter"),
    "s3:if-match": _member("if_match"),
    "s3:if-none-match": _member("if_none_match"),
    "s3:max-keys": _member("max_keys"),
    "s3:object-lock-legal-hold": _legal_hold,
    "s3:object-lock-mode": _object_lock("mode"),
    "s3:object-lock-remaining-retention-days": _remaining_days,
    "s3:object-lock-retain-until-date": _object_lock("retain_until_date"),
    "s3:prefix": _member("prefix"),
    "s3:requestobjecttagkeys": lambda s: tuple(_requested_tags(s)) or None,
    "s3:resourceaccount": lambda s: (s.bucket.account_id,),
    "s3:signatureage": _signature_age,
    "s3:signatureversion": lambda s: _one(s.caller.request.signature_version),
    "s3:versionid": _member("version_id"),
    "s3:x-amz-acl": _member("acl"),
    "s3:x-amz-content-sha256": lambda s: _one(s.caller.request.content_sha256),
    "s3:x-amz-copy-source": _member("copy_source"),
    "s3:x-amz-grant-full-control": _member("grant_full_control"),
    "s3:x-amz-grant-read": _member("grant_read"),
    "s3:x-amz-grant-read-acp": _member("grant_read_acp"),
    "s3:x-amz-grant-write": _member("grant_write"),
    "s3:x-amz-grant-write-acp": _member("grant_write_acp"),
    "s3:x-amz-metadata-directive": _member("metadata_directive"),
    "s3:x-amz-object-ownership": _member("object_ownership"),
    "s3:x-amz-server-side-encryption": _member("server_side_encryption"),
    "s3:x-amz-server-side-encryption-aws-kms-key-id": _member("ssekms_key_id"),
    "s3:x-amz-server-side-encryption-customer-algorithm": _member("sse_customer_algorithm"),
    "s3:x-amz-storage-class": _member("storage_class"),
    "s3:x-amz-website-redirect-location": _member("website_redirect_location"),
}
_TAG_KEYS: Final[Mapping[str, TagKey]] = {
    "s3:existingobjecttag": _existing_tag,
    "s3:requestobjecttag": _requested_tag,
}
# S3 has them; no request here ever does.
_NEVER_SET: Final = frozenset(
    {
        "s3:accessgrantsinstancearn",
        "s3:accesspointnetworkorigin",
        "s3:dataaccesspointaccount",
        "s3:dataaccesspointarn",
        "s3:inventoryaccessibleoptionalfields",
        "s3:isjobexecution",
        "s3:locationconstraint",
        "s3:objectcreationoperation",
        "s3:tlsversion",
    }
)

_LISTS: Final = frozenset({"s3:ListBucket", "s3:ListBucketVersions"})
_WRITES: Final = frozenset({"s3:PutObject"})
_ACLS: Final = frozenset(
    {"s3:PutObject", "s3:PutObjectAcl", "s3:PutObjectVersionAcl", "s3:PutBucketAcl", "s3:CreateBucket"}
)
_LOCKS: Final = frozenset(
    {
        "s3:PutObject",
        "s3:PutObjectRetention",
        "s3:PutObjectLegalHold",
        "s3:BypassGovernanceRetention",
        "s3:PutBucketObjectLockConfiguration",
        "s3:ReplicateObject",
    }
)
_TAGS: Final = frozenset({"s3:PutObject", "s3:PutObjectTagging", "s3:PutObjectVersionTagging", "s3:ReplicateTags"})
# What the request that begins an upload says of the object to be; those that bring its parts say nothing of it.
SAID_AT_THE_BEGINNING: Final = frozenset(
    key
    for key in (*_KEYS, *_TAG_KEYS)
    if key.startswith(
        ("s3:x-amz-acl", "s3:x-amz-grant", "s3:x-amz-s", "s3:x-amz-website", "s3:object-lock", "s3:requesto")
    )
)
# Keys that only some requests have; all others belong to every action.
_ACTIONS: Final[Mapping[str, frozenset[str]]] = {
    **dict.fromkeys(("s3:prefix", "s3:delimiter", "s3:max-keys"), _LISTS),
    **dict.fromkeys((key for key in _KEYS if key.startswith(("s3:x-amz-grant", "s3:x-amz-acl"))), _ACLS),
    **dict.fromkeys((key for key in _KEYS if key.startswith("s3:object-lock")), _LOCKS),
    **dict.fromkeys(("s3:requestobjecttag", "s3:requestobjecttagkeys"), _TAGS),
    **dict.fromkeys(
        (
            "s3:x-amz-copy-source",
            "s3:x-amz-metadata-directive",
            "s3:x-amz-storage-class",
            "s3:x-amz-website-redirect-location",
        ),
        _WRITES,
    ),
    "s3:existingobjecttag": OBJECT_ACTIONS,
    "s3:versionid": OBJECT_ACTIONS,
    "s3:locationconstraint": frozenset({"s3:CreateBucket"}),
    "s3:x-amz-object-ownership": frozenset({"s3:CreateBucket", "s3:PutBucketOwnershipControls"}) & BUCKET_ACTIONS,
}
