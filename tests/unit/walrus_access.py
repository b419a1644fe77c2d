"""Buckets, callers and objects as the rules of access see them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from google.protobuf.message import Message

from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1.acl_pb2 import AccessControlPolicy, Grantee
from mallee.s3.v1.bucket_access_pb2 import PublicAccessBlockConfiguration, RequestPaymentConfiguration
from services.walrus import acl, bucket_policy, configs, ownership
from services.walrus.drivers.base import Attributes, Bucket, Inline, Object

ANN = Caller(
    account_id="111111111111", arn="arn:aws:iam::111111111111:root", user_id="111111111111", canonical_user_id="a" * 64
)
BOB = Caller(
    account_id="222222222222", arn="arn:aws:iam::222222222222:root", user_id="222222222222", canonical_user_id="b" * 64
)
NOBODY = Caller(anonymous=True)


def bucket(
    *,
    statements: list[Any] | None = None,
    owned: str = "",
    grants: AccessControlPolicy | None = None,
    blocks: Mapping[str, bool] | None = None,
    payer: str = "",
) -> Bucket:
    """`blocks`: the public access block; None is the one of new buckets."""
    kept: list[Message] = []
    if owned:
        kept.append(ownership.controls(owned))
    if grants is not None:
        kept.append(grants)
    if blocks is not None:
        kept.append(PublicAccessBlockConfiguration(**blocks))
    if payer:
        kept.append(RequestPaymentConfiguration(payer=payer))
    found = {configs.kind_of(type(one)): configs.body_of(one) for one in kept}
    if statements is not None:
        found[bucket_policy.KIND] = json.dumps({"Version": "2012-10-17", "Statement": statements}).encode()
    return Bucket(id=1, name="b", account_id=ANN.account_id, owner_id="a" * 64, created_ms=0, configs=found)


def says(action: str, resource: str = "b/*", *, effect: str = "Allow", principal: Any = "*", **more: Any) -> Any:
    arn = f"arn:aws:s3:::{resource}"
    return {"Effect": effect, "Principal": principal, "Action": action, "Resource": arn} | more


def an_object(
    *, owner_id: str = "", grants: AccessControlPolicy | None = None, tags: Mapping[str, str] = MappingProxyType({})
) -> Object:
    return Object(
        key=b"k",
        size=0,
        etag="e",
        modified_ms=0,
        checksum=None,
        attributes=Attributes(),
        content=Inline(body=b""),
        owner_id=owner_id,
        acl=configs.body_of(grants) if grants is not None else b"",
        tags=tags,
    )


def granted(owner_id: str, *grants: tuple[str, str]) -> AccessControlPolicy:
    made = acl.private(owner_id)
    for who, permission in grants:
        grantee = Grantee(uri=who) if who.startswith("http") else Grantee(id=who)
        made.grants.add(grantee=grantee, permission=permission)
    return made
