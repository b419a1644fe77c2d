"""Rules of access control lists: canned ones, those in headers and in XML, and what a grant allows. Pure.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/acl-overview.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from common.errors import InvalidArgument
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1.acl_pb2 import AccessControlPolicy, Grant, Grantee
from mallee.s3.v1.bucket_pb2 import Owner
from services.walrus import errors
from services.walrus.drivers.base import Bucket

# Whom S3 calls the owner of what nobody known has written.
ANONYMOUS_ID: Final = "65a011a29cdf8ec533ec3d1ccaae921c"
# Of AWS' EC2, for aws-exec-read.
EC2_ID: Final = "6aa5a366c34c1cbe25dc49211496e913e0351eb0e8c37aa3477e40942ec6b97c"
_GROUPS: Final = "http://acs.amazonaws.com/groups/"
ALL_USERS: Final = f"{_GROUPS}global/AllUsers"
AUTHENTICATED_USERS: Final = f"{_GROUPS}global/AuthenticatedUsers"
LOG_DELIVERY: Final = f"{_GROUPS}s3/LogDelivery"
_MOST_GRANTS: Final = 100

FULL_CONTROL: Final = "FULL_CONTROL"
_PERMISSIONS: Final = frozenset({FULL_CONTROL, "READ", "WRITE", "READ_ACP", "WRITE_ACP"})
_HEADERS: Final = {
    "grant_full_control": FULL_CONTROL,
    "grant_read": "READ",
    "grant_write": "WRITE",
    "grant_read_acp": "READ_ACP",
    "grant_write_acp": "WRITE_ACP",
}
_HEADER_GRANTEE = re.compile(r"\s*(id|uri|emailAddress)\s*=\s*(?:\"([^\"]*)\"|([^\",\s]+))\s*(?:,|\Z)", re.IGNORECASE)
_CANONICAL = re.compile(r"[0-9a-f]{64}\Z")

BUCKET_OWNER_FULL_CONTROL: Final = "bucket-owner-full-control"
# What stands beside the owner's full control: the grantee (a group, an id, or `bucket` for its owner) and what it may.
_CANNED: Final[dict[str, Sequence[tuple[str, str]]]] = {
    "private": (),
    "public-read": ((ALL_USERS, "READ"),),
    "public-read-write": ((ALL_USERS, "READ"), (ALL_USERS, "WRITE")),
    "authenticated-read": ((AUTHENTICATED_USERS, "READ"),),
    "aws-exec-read": ((EC2_ID, "READ"),),
    "log-delivery-write": ((LOG_DELIVERY, "WRITE"), (LOG_DELIVERY, "READ_ACP")),
    "bucket-owner-read": (("bucket", "READ"),),
    BUCKET_OWNER_FULL_CONTROL: (("bucket", FULL_CONTROL),),
}
_OF_OBJECTS: Final = frozenset(_CANNED) - {"log-delivery-write"}
_OF_BUCKETS: Final = frozenset(_CANNED) - {"bucket-owner-read", BUCKET_OWNER_FULL_CONTROL}

# Permission -> the actions that it allows.
ON_BUCKET: Final = {
    "READ": frozenset({"s3:ListBucket", "s3:ListBucketVersions", "s3:ListBucketMultipartUploads"}),
    "WRITE": frozenset({"s3:PutObject", "s3:PutObjectAcl", "s3:DeleteObject"}),
    "READ_ACP": frozenset({"s3:GetBucketAcl"}),
    "WRITE_ACP": frozenset({"s3:PutBucketAcl"}),
}
ON_OBJECT: Final = {
    "READ": frozenset({"s3:GetObject", "s3:GetObjectVersion", "s3:GetObjectTorrent", "s3:GetObjectVersionTorrent"}),
    "READ_ACP": frozenset({"s3:GetObjectAcl", "s3:GetObjectVersionAcl"}),
    "WRITE_ACP": frozenset({"s3:PutObjectAcl", "s3:PutObjectVersionAcl"}),
}


def private(owner_id: str) -> AccessControlPolicy:
    made = AccessControlPolicy(owner=Owner(id=owner_id))
    made.grants.append(_grant(owner_id, FULL_CONTROL))
    return made


def read(body: bytes, owner_id: str) -> AccessControlPolicy:
    """`body`: as it is kept; empty is private."""
    return AccessControlPolicy.FromString(body) if body else private(owner_id)


def is_asked_for(request: Any) -> bool:
    return bool(request.acl) or bool(_granted(request))


def named(request: Any) -> frozenset[str]:
    """The accounts, by canonical id, that its headers or its body name. Raises InvalidArgument."""
    found = [grantee.id for field, text in _granted(request) for grantee in _grantees(field, text)]
    if "access_control_policy" in request.DESCRIPTOR.fields_by_name:
        found += [grant.grantee.id for grant in request.access_control_policy.grants]
    return frozenset(found) - {"", ANONYMOUS_ID}


def of_headers(
    request: Any, *, owner_id: str, bucket: Bucket | None, on_bucket: bool = False
) -> AccessControlPolicy | None:
    """What x-amz-acl or x-amz-grant-* ask for; None: nothing. `bucket`: of an object. Raises InvalidArgument."""
    granted = _granted(request)
    if request.acl and granted:
        raise errors.invalid_request("Specifying both Canned ACLs and Header Grants is not allowed")
    if granted:
        made = AccessControlPolicy(owner=Owner(id=owner_id))
        for field, text in granted:
            made.grants.extend(Grant(grantee=one, permission=_HEADERS[field]) for one in _grantees(field, text))
        return _checked(made)
    if not request.acl:
        return None
    if request.acl not in (_OF_BUCKETS if on_bucket else _OF_OBJECTS):
        raise errors.invalid_argument("The canned ACL is not one that S3 knows.", name="x-amz-acl", value=request.acl)
    made = private(owner_id)
    for who, permission in _CANNED[request.acl]:
        grantee = bucket.owner_id if bucket is not None and who == "bucket" else who
        if grantee != owner_id:
            made.grants.append(_grant(grantee, permission))
    return made


def of_body(sent: AccessControlPolicy, *, owner_id: str) -> AccessControlPolicy:
    """What the XML of Put…Acl asks for. Raises InvalidArgument (MalformedACLError …), Denied for another owner."""
    if not sent.HasField("owner"):
        raise _malformed()
    if _checked_user(sent.owner.id).id != owner_id:
        raise errors.access_denied()
    made = AccessControlPolicy(owner=Owner(id=owner_id))
    for grant in sent.grants:
        if grant.permission not in _PERMISSIONS:
            raise _malformed()
        made.grants.add(grantee=_grantee(grant.grantee), permission=grant.permission)
    return _checked(made)


def is_public(acl: AccessControlPolicy) -> bool:
    return any(grant.grantee.uri in (ALL_USERS, AUTHENTICATED_USERS) for grant in acl.grants)


def is_owners_alone(acl: AccessControlPolicy, owner_id: str) -> bool:
    """What everybody has who owns a thing: it asks for nothing."""
    return [(grant.grantee.id, grant.permission) for grant in acl.grants] == [(owner_id, FULL_CONTROL)]


def permissions(acl: AccessControlPolicy, caller: Caller, *, ignore_public: bool) -> frozenset[str]:
    """Those of a caller; FULL_CONTROL stands for all."""
    known = set() if caller.anonymous else {caller.canonical_user_id}
    groups = {ALL_USERS} if caller.anonymous else {ALL_USERS, AUTHENTICATED_USERS}
    return frozenset(
        grant.permission
        for grant in acl.grants
        if grant.grantee.id in known or (grant.grantee.uri in groups and not ignore_public)
    )


def allows(granted: frozenset[str], action: str, actions: dict[str, frozenset[str]]) -> bool:
    return any(action in of for permission, of in actions.items() if permission in granted or FULL_CONTROL in granted)


def _granted(request: Any) -> list[tuple[str, str]]:
    """Field and text of each grant header that was sent."""
    fields = request.DESCRIPTOR.fields_by_name
    sent = ((field, getattr(request, field)) for field in _HEADERS if field in fields)
    return [(field, text) for field, text in sent if text]


def _grantees(field: str, text: str) -> Iterator[Grantee]:
    at = 0
    while at < len(text):
        found = _HEADER_GRANTEE.match(text, at)
        if found is None:
            header = f"x-amz-{field.replace('_', '-')}"
            raise errors.invalid_argument("Argument format not recognized", name=header, value=text[:200])
        at = found.end()
        value = found[2] if found[3] is None else found[3]
        match found[1].lower():
            case "id":
                yield _checked_user(value, name="id")
            case "uri":
                yield _checked_group(value, name="uri")
            case _:
                raise _unresolvable(value)


def _grantee(sent: Grantee) -> Grantee:
    match sent.type:
        case "CanonicalUser":
            return _checked_user(sent.id)
        case "Group":
            return _checked_group(sent.uri)
        case "AmazonCustomerByEmail":
            raise _unresolvable(sent.email_address)
        case _:
            raise _malformed()


def _checked_user(user_id: str, *, name: str = "CanonicalUser/ID") -> Grantee:
    if not _CANONICAL.match(user_id) and user_id != ANONYMOUS_ID:
        raise errors.invalid_argument("Invalid id", name=name, value=user_id)
    return Grantee(type="CanonicalUser", id=user_id)


def _checked_group(uri: str, *, name: str = "Group/URI") -> Grantee:
    if uri not in (ALL_USERS, AUTHENTICATED_USERS, LOG_DELIVERY):
        raise errors.invalid_argument("Invalid group uri", name=name, value=uri)
    return Grantee(type="Group", uri=uri)


def _grant(who: str, permission: str) -> Grant:
    group = who.startswith(_GROUPS)
    grantee = Grantee(type="Group", uri=who) if group else Grantee(type="CanonicalUser", id=who)
    return Grant(grantee=grantee, permission=permission)


def _checked(made: AccessControlPolicy) -> AccessControlPolicy:
    if len(made.grants) > _MOST_GRANTS:
        raise errors.invalid_request(f"An ACL has at most {_MOST_GRANTS} grants")
    return made


def _malformed() -> InvalidArgument:
    return InvalidArgument(
        "The XML you provided was not well-formed or did not validate against our published schema",
        code="MalformedACLError",
    )


def _unresolvable(address: str) -> InvalidArgument:
    """Accounts of this cloud have names, no addresses."""
    return InvalidArgument(
        "The e-mail address you provided does not match any account on record.",
        code="UnresolvableGrantByEmailAddress",
        details={"Address": address},
    )
