"""The S3 actions that policies speak of, and which of them each request needs. Pure.

https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final


class Scope(Enum):
    """What a request is about, and so what decides about it."""

    BUCKET = "bucket"
    # A key, whatever stands there.
    KEY = "key"
    # An object that is there: its owner, its ACL and its tags have their say.
    OBJECT = "object"
    # An upload under way: also who began it has.
    UPLOAD = "upload"
    # Several keys, each of which is decided by itself.
    EACH = "each"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    action: str
    scope: Scope
    # A request that names a version needs the actions of versions.
    versioned: bool = False
    # Member of the request -> the action that it needs besides.
    besides: Mapping[str, str]
    # An action that is always needed besides.
    also: str = ""

    def action_of(self, request: Any) -> str:
        return self._named(self.action, request)

    def needed(self, request: Any) -> set[str]:
        """All that the caller must be allowed."""
        found = {action for member, action in self.besides.items() if _says(request, member)}
        return found | {self._named(action, request) for action in (self.action, self.also) if action}

    def _named(self, action: str, request: Any) -> str:
        versioned = self.versioned and request.version_id
        return _VERSIONED[action] if versioned else action


def _says(request: Any, member: str) -> bool:
    field = request.DESCRIPTOR.fields_by_name.get(member)
    if field is None:
        return False
    return request.HasField(member) if field.message_type is not None else bool(getattr(request, member))


def _s3(names: str) -> dict[str, str]:
    """`Operation=Action` or `Operation` where both are called the same."""
    pairs = (name.partition("=") for name in names.split())
    return {operation: f"s3:{action or operation}" for operation, _, action in pairs}


_BUCKET: Final = _s3(
    """
    HeadBucket=ListBucket ListObjects=ListBucket ListObjectsV2=ListBucket ListObjectVersions=ListBucketVersions
    ListMultipartUploads=ListBucketMultipartUploads DeleteBucket GetBucketLocation
    GetBucketVersioning PutBucketVersioning
    GetBucketTagging PutBucketTagging DeleteBucketTagging=PutBucketTagging
    GetBucketAccelerateConfiguration=GetAccelerateConfiguration
    PutBucketAccelerateConfiguration=PutAccelerateConfiguration
    GetBucketAcl PutBucketAcl
    GetBucketPolicy PutBucketPolicy DeleteBucketPolicy GetBucketPolicyStatus
    GetBucketOwnershipControls PutBucketOwnershipControls DeleteBucketOwnershipControls=PutBucketOwnershipControls
    GetPublicAccessBlock=GetBucketPublicAccessBlock PutPublicAccessBlock=PutBucketPublicAccessBlock
    DeletePublicAccessBlock=PutBucketPublicAccessBlock
    GetBucketRequestPayment PutBucketRequestPayment
    GetBucketCors=GetBucketCORS PutBucketCors=PutBucketCORS DeleteBucketCors=PutBucketCORS
    GetBucketWebsite PutBucketWebsite DeleteBucketWebsite
    GetBucketLogging PutBucketLogging
    GetBucketNotification GetBucketNotificationConfiguration=GetBucketNotification
    PutBucketNotification PutBucketNotificationConfiguration=PutBucketNotification
    GetBucketLifecycle=GetLifecycleConfiguration PutBucketLifecycle=PutLifecycleConfiguration
    GetBucketLifecycleConfiguration=GetLifecycleConfiguration
    PutBucketLifecycleConfiguration=PutLifecycleConfiguration DeleteBucketLifecycle=PutLifecycleConfiguration
    GetBucketEncryption=GetEncryptionConfiguration PutBucketEncryption=PutEncryptionConfiguration
    DeleteBucketEncryption=PutEncryptionConfiguration
    GetBucketReplication=GetReplicationConfiguration PutBucketReplication=PutReplicationConfiguration
    DeleteBucketReplication=PutReplicationConfiguration
    GetObjectLockConfiguration=GetBucketObjectLockConfiguration
    PutObjectLockConfiguration=PutBucketObjectLockConfiguration
    GetBucketAnalyticsConfiguration=GetAnalyticsConfiguration
    ListBucketAnalyticsConfigurations=GetAnalyticsConfiguration
    PutBucketAnalyticsConfiguration=PutAnalyticsConfiguration
    DeleteBucketAnalyticsConfiguration=PutAnalyticsConfiguration
    GetBucketInventoryConfiguration=GetInventoryConfiguration
    ListBucketInventoryConfigurations=GetInventoryConfiguration
    PutBucketInventoryConfiguration=PutInventoryConfiguration
    DeleteBucketInventoryConfiguration=PutInventoryConfiguration
    GetBucketMetricsConfiguration=GetMetricsConfiguration ListBucketMetricsConfigurations=GetMetricsConfiguration
    PutBucketMetricsConfiguration=PutMetricsConfiguration DeleteBucketMetricsConfiguration=PutMetricsConfiguration
    GetBucketIntelligentTieringConfiguration=GetIntelligentTieringConfiguration
    ListBucketIntelligentTieringConfigurations=GetIntelligentTieringConfiguration
    PutBucketIntelligentTieringConfiguration=PutIntelligentTieringConfiguration
    DeleteBucketIntelligentTieringConfiguration=PutIntelligentTieringConfiguration
    """
)
_KEY: Final = _s3(
    """
    PutObject CopyObject=PutObject DeleteObject CreateMultipartUpload=PutObject UploadPart=PutObject
    UploadPartCopy=PutObject CompleteMultipartUpload=PutObject
    """
)
_UPLOAD: Final = _s3("AbortMultipartUpload ListParts=ListMultipartUploadParts")
_OBJECT: Final = _s3(
    """
    GetObject HeadObject=GetObject GetObjectAttributes GetObjectTorrent GetObjectAcl PutObjectAcl
    GetObjectTagging PutObjectTagging DeleteObjectTagging GetObjectRetention PutObjectRetention
    GetObjectLegalHold PutObjectLegalHold RestoreObject SelectObjectContent=GetObject
    """
)
# Those that have another name for a version.
_VERSIONED: Final = {
    f"s3:{name}": f"s3:{name.replace('Object', 'ObjectVersion', 1)}"
    for name in (
        "GetObject",
        "DeleteObject",
        "GetObjectAttributes",
        "GetObjectTorrent",
        "GetObjectAcl",
        "PutObjectAcl",
        "GetObjectTagging",
        "PutObjectTagging",
        "DeleteObjectTagging",
    )
}
_ACL: Final = dict.fromkeys(
    ("acl", "grant_full_control", "grant_read", "grant_read_acp", "grant_write_acp"), "s3:PutObjectAcl"
)
_WRITTEN: Final = _ACL | {
    "tagging": "s3:PutObjectTagging",
    "object_lock_mode": "s3:PutObjectRetention",
    "object_lock_retain_until_date": "s3:PutObjectRetention",
    "object_lock_legal_hold_status": "s3:PutObjectLegalHold",
}
_BYPASS: Final = {"bypass_governance_retention": "s3:BypassGovernanceRetention"}
_BESIDES: Final[Mapping[str, Mapping[str, str]]] = {
    "PutObject": _WRITTEN,
    "CopyObject": _WRITTEN,
    "CreateMultipartUpload": _WRITTEN,
    "DeleteObject": _BYPASS,
    "PutObjectRetention": _BYPASS,
}
_ALSO: Final[Mapping[str, str]] = {"GetObjectAttributes": "s3:GetObject"}


def _rules(scope: Scope, actions: Mapping[str, str]) -> dict[str, Rule]:
    return {
        f"{operation}Request": Rule(
            action=action,
            scope=scope,
            versioned=action in _VERSIONED,
            besides=_BESIDES.get(operation, {}),
            also=_ALSO.get(operation, ""),
        )
        for operation, action in actions.items()
    }


# By the name of the request's message.
RULES: Final[Mapping[str, Rule]] = {
    **_rules(Scope.BUCKET, _BUCKET),
    **_rules(Scope.KEY, _KEY),
    **_rules(Scope.OBJECT, _OBJECT),
    **_rules(Scope.UPLOAD, _UPLOAD),
    **_rules(Scope.EACH, _s3("DeleteObjects=DeleteObject")),
}

# They bring the rest of an object whose beginning another request was.
PART_REQUESTS: Final = frozenset({"UploadPartRequest", "UploadPartCopyRequest", "CompleteMultipartUploadRequest"})

# What a policy may name, whether this cloud does it or not.
BUCKET_ACTIONS: Final = frozenset(_BUCKET.values()) | frozenset(
    _s3("CreateBucket DeleteBucketWebsite ListBucketVersions PutInventoryConfiguration").values()
)
OBJECT_ACTIONS: Final = (
    frozenset(_KEY.values())
    | frozenset(_OBJECT.values())
    | frozenset(_UPLOAD.values())
    | frozenset(_VERSIONED.values())
    | frozenset(_BYPASS.values())
    | frozenset(
        _s3(
            """
            ObjectOwnerOverrideToBucketOwner ReplicateDelete ReplicateObject ReplicateTags
            GetObjectVersionForReplication InitiateReplication UpdateObjectEncryption
            """
        ).values()
    )
)
