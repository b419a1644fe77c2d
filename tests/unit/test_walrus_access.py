"""Who may do what: requests and callers over policies, ACLs and settings of a bucket."""

from __future__ import annotations

import itertools
from contextlib import suppress
from typing import Any

import pytest

from common.errors import Denied, WrongState
from mallee.common.v1.caller_pb2 import Caller, RequestContext
from mallee.s3.v1 import (
    acl_pb2,
    bucket_policy_pb2,
    copy_pb2,
    listing_pb2,
    multipart_pb2,
    object_attributes_pb2,
    object_lock_pb2,
    object_pb2,
    object_tagging_pb2,
    service_pb2,
)
from services.walrus import access, acl, ownership
from services.walrus.actions import BUCKET_ACTIONS, OBJECT_ACTIONS, RULES, Scope
from services.walrus.condition_keys import _KEYS, Situation, context_of
from services.walrus.drivers.base import Bucket, Object
from tests.unit.walrus_access import ANN, BOB, NOBODY, an_object, bucket, granted, says

CALLERS = {"owner": ANN, "other": BOB, "nobody": NOBODY}
NOW_MS = 1_800_000_000_000
GET = object_pb2.GetObjectRequest(bucket="b", key="k")
PUT = object_pb2.PutObjectRequest(bucket="b", key="k")
LIST = listing_pb2.ListObjectsV2Request(bucket="b", prefix="p/")

# Not about a bucket that is there.
ELSEWHERE = {"CreateBucketRequest", "ListBucketsRequest"}


def may(where: Bucket, request: Any, caller: Caller, found: Object | None = None) -> bool:
    """As a use case asks: before it looks for the object, and once it has."""
    with suppress(Denied):
        access.check(where, request, caller, NOW_MS)
        if RULES[request.DESCRIPTOR.name].scope is Scope.OBJECT:
            access.check_object(where, request, caller, NOW_MS, found)
        return True
    return False


def who_may(where: Bucket, request: Any, found: Object | None = None) -> set[str]:
    return {name for name, caller in CALLERS.items() if may(where, request, caller, found)}


def test_every_request_of_the_contract_has_its_rule() -> None:
    methods = service_pb2.DESCRIPTOR.services_by_name["S3Service"].methods
    named = {one.input_type.name.replace("Stream", "Request") for one in methods}
    assert named - ELSEWHERE <= set(RULES)


def test_every_action_of_a_rule_may_stand_in_a_policy() -> None:
    for name, rule in RULES.items():
        known = BUCKET_ACTIONS if rule.scope is Scope.BUCKET else OBJECT_ACTIONS
        assert {rule.action, *rule.besides.values()} <= known, name


def test_what_a_request_needs() -> None:
    attributes = object_attributes_pb2.GetObjectAttributesRequest()
    rule = RULES["GetObjectAttributesRequest"]
    assert rule.needed(attributes) == {"s3:GetObject", "s3:GetObjectAttributes"}
    attributes.version_id = "v"
    assert rule.needed(attributes) == {"s3:GetObjectVersion", "s3:GetObjectVersionAttributes"}
    tagging = object_tagging_pb2.DeleteObjectTaggingRequest(version_id="v")
    assert RULES["DeleteObjectTaggingRequest"].needed(tagging) == {"s3:DeleteObjectVersionTagging"}
    retention = object_lock_pb2.PutObjectRetentionRequest(bypass_governance_retention=True, version_id="v")
    wanted = {"s3:PutObjectRetention", "s3:BypassGovernanceRetention"}
    assert RULES["PutObjectRetentionRequest"].needed(retention) == wanted
    put = object_pb2.PutObjectRequest(tagging="a=b", object_lock_mode="GOVERNANCE", grant_read="id=x")
    assert RULES["PutObjectRequest"].needed(put) == {
        "s3:PutObject",
        "s3:PutObjectAcl",
        "s3:PutObjectTagging",
        "s3:PutObjectRetention",
    }


@pytest.mark.parametrize("request_", [GET, PUT, LIST], ids=["get", "put", "list"])
@pytest.mark.parametrize("owned", ["", *ownership.OWNERSHIPS])
def test_without_a_policy_and_grants_the_owner_alone_may(request_: Any, owned: str) -> None:
    assert who_may(bucket(owned=owned), request_, an_object()) == {"owner"}


def test_a_policy_lets_others_in_and_keeps_the_owner_out() -> None:
    open_ = {"blocks": {"block_public_acls": False}}
    for principal, expected in (
        ("*", {"owner", "other", "nobody"}),
        ({"AWS": BOB.account_id}, {"owner", "other"}),
        ({"CanonicalUser": "b" * 64}, {"owner", "other"}),
        ({"AWS": "333333333333"}, {"owner"}),
    ):
        allowing = bucket(statements=[says("s3:GetObject", principal=principal)], **open_)  # type: ignore[arg-type]
        assert who_may(allowing, GET, an_object()) == expected
        assert who_may(allowing, PUT) == {"owner"}
        denying = says("s3:GetObject", principal=principal, effect="Deny")
        both = bucket(statements=[says("s3:GetObject"), denying], **open_)  # type: ignore[arg-type]
        out = expected if principal == "*" else expected - {"owner"}
        assert who_may(both, GET, an_object()) == {"owner", "other", "nobody"} - out


def test_a_public_policy_lets_nobody_in_where_public_buckets_are_restricted() -> None:
    statements = [says("s3:GetObject"), says("s3:PutObject", principal={"AWS": BOB.account_id})]
    assert who_may(bucket(statements=statements), GET, an_object()) == {"owner"}
    assert who_may(bucket(statements=statements), PUT) == {"owner"}
    # What names its principals is not public, and counts.
    assert who_may(bucket(statements=statements[1:]), PUT) == {"owner", "other"}


def test_an_owner_is_told_what_a_policy_denies_and_others_are_not() -> None:
    where = bucket(statements=[says("s3:GetObject", effect="Deny")])
    for caller, words in ((ANN, "with an explicit deny in a resource-based policy"), (BOB, "Access Denied")):
        with pytest.raises(Denied, match=words) as caught:
            access.check_object(where, GET, caller, NOW_MS, an_object())
        assert ('s3:GetObject on resource: "arn:aws:s3:::b/k"' in caught.value.message) is (caller is ANN)


def test_the_owner_can_always_repair_the_policy() -> None:
    locked = bucket(statements=[says("s3:*", "b*", effect="Deny")])
    for request in (
        bucket_policy_pb2.PutBucketPolicyRequest(bucket="b"),
        bucket_policy_pb2.GetBucketPolicyRequest(bucket="b"),
        bucket_policy_pb2.DeleteBucketPolicyRequest(bucket="b"),
    ):
        assert who_may(locked, request) == {"owner"}
    assert who_may(locked, LIST) == set()
    opened = bucket(statements=[says("s3:*", "b*")], blocks={"block_public_acls": False})
    with pytest.raises(WrongState) as caught:
        access.check(opened, bucket_policy_pb2.PutBucketPolicyRequest(bucket="b"), BOB, NOW_MS)
    assert caught.value.code == "MethodNotAllowed"


@pytest.mark.parametrize(("owned", "ignored"), list(itertools.product(ownership.OWNERSHIPS, [False, True])))
def test_grants_count_where_acls_do_and_public_ones_unless_ignored(owned: str, ignored: bool) -> None:
    counts = owned != ownership.ENFORCED
    blocks = {"ignore_public_acls": ignored}
    public = counts and not ignored
    for who, names in (
        (acl.ALL_USERS, {"other", "nobody"}),
        (acl.AUTHENTICATED_USERS, {"other"}),
        ("b" * 64, {"other"}),
    ):
        let_in = names if (public or (counts and who == "b" * 64)) else set()
        for permission, request in (("READ", LIST), ("WRITE", PUT), ("FULL_CONTROL", LIST), ("FULL_CONTROL", PUT)):
            where = bucket(owned=owned, grants=granted("a" * 64, (who, permission)), blocks=blocks)
            assert who_may(where, request) == {"owner"} | let_in
        one = an_object(grants=granted("a" * 64, (who, "READ")))
        assert who_may(bucket(owned=owned, blocks=blocks), GET, one) == {"owner"} | let_in
        assert who_may(bucket(owned=owned, blocks=blocks), acl_pb2.GetObjectAclRequest(key="k"), one) == {"owner"}


def test_a_denial_wins_over_a_grant() -> None:
    where = bucket(
        statements=[says("s3:GetObject", effect="Deny", principal={"AWS": BOB.account_id})], owned=ownership.WRITER
    )
    one = an_object(grants=granted("a" * 64, ("b" * 64, "FULL_CONTROL")))
    assert who_may(where, GET, one) == {"owner"}
    assert who_may(where, acl_pb2.GetObjectAclRequest(key="k"), one) == {"owner", "other"}


@pytest.mark.parametrize("owned", ownership.OWNERSHIPS)
def test_somebody_elses_object_is_theirs_to_open_where_writers_own(owned: str) -> None:
    one = an_object(owner_id="b" * 64)
    where = bucket(owned=owned, statements=[says("s3:GetObject", principal={"AWS": ANN.account_id})])
    enforced = owned == ownership.ENFORCED
    assert who_may(where, GET, one) == ({"owner"} if enforced else {"other"})
    assert who_may(where, acl_pb2.PutObjectAclRequest(key="k"), one) == ({"owner"} if enforced else {"other"})
    # Deleting is about the bucket.
    assert who_may(where, object_pb2.DeleteObjectRequest(key="k")) == {"owner"}
    opened = an_object(owner_id="b" * 64, grants=granted("b" * 64, ("a" * 64, "FULL_CONTROL")))
    assert who_may(where, GET, opened) == ({"owner"} if enforced else {"owner", "other"})


def test_who_may_not_list_does_not_learn_that_a_key_is_missing() -> None:
    reading = says("s3:GetObject", principal={"AWS": BOB.account_id})
    listing = says("s3:ListBucket", "b", principal={"AWS": BOB.account_id})
    assert not may(bucket(statements=[reading]), GET, BOB, None)
    assert may(bucket(statements=[reading, listing]), GET, BOB, None)
    assert may(bucket(statements=[listing]), GET, BOB, None)
    assert not may(bucket(statements=[listing]), GET, BOB, an_object())
    denied = says("s3:GetObject", effect="Deny")
    assert not may(bucket(statements=[denied, listing]), GET, BOB, None)
    # Where lists are for a prefix, the key is looked at as one.
    for prefix, learns in (("k*", True), ("other/*", False)):
        within = bucket(statements=[listing | {"Condition": {"StringLike": {"s3:prefix": prefix}}}])
        assert may(within, GET, BOB, None) is learns


def test_what_an_upload_must_say_it_says_once() -> None:
    bob = {"AWS": BOB.account_id}
    begin = multipart_pb2.CreateMultipartUploadRequest(key="k")
    with_acl = multipart_pb2.CreateMultipartUploadRequest(key="k", acl="bucket-owner-full-control")
    rest = [
        multipart_pb2.UploadPartRequest(key="k"),
        copy_pb2.UploadPartCopyRequest(key="k"),
        multipart_pb2.CompleteMultipartUploadRequest(key="k"),
    ]
    wanted = {"StringEquals": {"s3:x-amz-acl": "bucket-owner-full-control"}}
    allowing = bucket(statements=[says("s3:PutObject*", principal=bob, Condition=wanted)])
    missing = {"Null": {"s3:x-amz-acl": "true"}}
    denying = [says("s3:PutObject*", principal=bob), says("s3:PutObject", effect="Deny", Condition=missing)]
    for where in (allowing, bucket(statements=denying)):
        assert not may(where, begin, BOB)
        assert all(may(where, request, BOB) for request in (with_acl, *rest))
    elsewhere = says("s3:PutObject", effect="Deny", Condition={"Bool": {"aws:SecureTransport": "false"}})
    assert not any(may(bucket(statements=[*denying, elsewhere]), request, BOB) for request in rest)


def test_an_upload_is_ended_by_who_began_it_while_they_may_put() -> None:
    def may_end(where: Bucket, caller: Caller, initiator_id: str | None) -> bool:
        request = multipart_pb2.AbortMultipartUploadRequest(key="k")
        with suppress(Denied):
            access.check(where, request, caller, NOW_MS)
            access.check_upload(where, request, caller, NOW_MS, initiator_id)
            return True
        return False

    putting = bucket(statements=[says("s3:PutObject", principal={"AWS": BOB.account_id})])
    granting = bucket(owned=ownership.WRITER, grants=granted("a" * 64, ("b" * 64, "WRITE")))
    for where in (putting, granting):
        assert may_end(where, BOB, "b" * 64)
        assert may_end(where, BOB, None)
        assert not may_end(where, BOB, "a" * 64)
        assert may_end(where, ANN, "b" * 64)
        assert not may_end(where, NOBODY, "b" * 64)
    assert not may_end(bucket(), BOB, "b" * 64)
    assert may_end(bucket(statements=[says("s3:Abort*", principal={"AWS": BOB.account_id})]), BOB, "a" * 64)
    denied = [says("s3:PutObject", principal={"AWS": BOB.account_id}), says("s3:Abort*", effect="Deny")]
    assert not may_end(bucket(statements=denied), BOB, "b" * 64)


def test_what_a_write_says_besides_needs_its_own_permission() -> None:
    bob = {"AWS": BOB.account_id}
    with_acl = object_pb2.PutObjectRequest(key="k", acl="bucket-owner-full-control")
    assert not may(bucket(statements=[says("s3:PutObject", principal=bob)]), with_acl, BOB)
    both = [says("s3:PutObject", principal=bob), says("s3:PutObjectAcl", principal=bob)]
    assert may(bucket(statements=both), with_acl, BOB)
    assert not may(bucket(statements=[says("s3:PutObjectAcl", effect="Deny")]), with_acl, ANN)


def test_a_version_needs_the_permission_of_versions() -> None:
    where = bucket(statements=[says("s3:GetObject", principal={"AWS": BOB.account_id})])
    assert may(where, GET, BOB, an_object())
    assert not may(where, object_pb2.GetObjectRequest(key="k", version_id="null"), BOB, an_object())


def test_an_unexpected_owner_is_refused_to_everybody() -> None:
    request = object_pb2.PutObjectRequest(key="k", expected_bucket_owner=BOB.account_id)
    assert who_may(bucket(), request) == set()
    assert who_may(bucket(), object_pb2.PutObjectRequest(key="k", expected_bucket_owner=ANN.account_id)) == {"owner"}


def test_requesters_say_that_they_pay_and_nobody_cannot() -> None:
    where = bucket(statements=[says("s3:PutObject")], payer="Requester", blocks={"restrict_public_buckets": False})
    asked = acl_pb2.PutObjectAclRequest(key="k", acl="private")
    paying = acl_pb2.PutObjectAclRequest(key="k", acl="private", request_payer="requester")
    opened = bucket(statements=[says("s3:PutObjectAcl")], payer="Requester", blocks={"restrict_public_buckets": False})
    assert who_may(where, PUT) >= {"owner"}
    assert who_may(opened, asked, an_object()) == {"owner"}
    assert who_may(opened, paying, an_object()) == {"owner", "other"}


def test_the_everyday_request_looks_at_nothing() -> None:
    assert access.is_everyday(bucket(), ANN)
    assert access.is_everyday(bucket(blocks={}, payer="Requester"), ANN)
    assert not access.is_everyday(bucket(), BOB)
    assert not access.is_everyday(bucket(), NOBODY)
    assert not access.is_everyday(bucket(statements=[]), ANN)
    assert not access.is_everyday(bucket(owned=ownership.WRITER), ANN)


CONTEXT = RequestContext(
    secure_transport=True,
    user_agent="boto",
    referer="http://x/",
    auth_type="REST-HEADER",
    signature_version="AWS4-HMAC-SHA256",
    signed_ms=NOW_MS - 5000,
    content_sha256="UNSIGNED-PAYLOAD",
)
KEY_VALUES = {
    "aws:CurrentTime": "2027-01-15T08:00:00Z",
    "aws:EpochTime": "1800000000",
    "aws:PrincipalAccount": "222222222222",
    "aws:PrincipalArn": "arn:aws:iam::222222222222:user/x/bob",
    "aws:PrincipalIsAWSService": "false",
    "aws:PrincipalType": "User",
    "aws:Referer": "http://x/",
    "aws:ResourceAccount": "111111111111",
    "aws:SecureTransport": "true",
    "aws:SourceIp": "198.18.0.1",
    "aws:UserAgent": "boto",
    "aws:userid": "AIDAX",
    "aws:username": "bob",
    "aws:ViaAWSService": "false",
    "s3:authType": "REST-HEADER",
    "s3:ResourceAccount": "111111111111",
    "s3:signatureAge": "5000",
    "s3:signatureversion": "AWS4-HMAC-SHA256",
    "s3:x-amz-content-sha256": "UNSIGNED-PAYLOAD",
}


def test_keys_say_what_the_request_and_its_caller_are() -> None:
    caller = Caller(
        account_id="222222222222",
        arn="arn:aws:iam::222222222222:user/x/bob",
        user_id="AIDAX",
        source_ip="198.18.0.1",
        request=CONTEXT,
    )
    request = acl_pb2.PutObjectAclRequest(key="k", version_id="v", acl="private", grant_read="id=x")
    values = context_of(Situation(bucket=bucket(), request=request, caller=caller, now_ms=NOW_MS))
    more = {"s3:VersionId": "v", "s3:x-amz-acl": "private", "s3:x-amz-grant-read": "id=x"}
    wanted = {key.lower(): (value,) for key, value in (KEY_VALUES | more).items()}
    assert {key: found for key in _KEYS if (found := values(key)) is not None} == wanted


def test_keys_that_a_request_does_not_have_are_absent() -> None:
    bare = listing_pb2.ListObjectsV2Request(prefix="", max_keys=5)
    values = context_of(Situation(bucket=bucket(), request=bare, caller=NOBODY, now_ms=NOW_MS))
    assert (values("s3:prefix"), values("s3:max-keys"), values("s3:delimiter")) == (("",), ("5",), None)
    assert (values("aws:userid"), values("aws:principaltype")) == (("anonymous",), ("Anonymous",))
    for absent in ("aws:useragent", "aws:referer", "aws:principalarn", "s3:signatureage", "s3:authtype", "aws:never"):
        assert values(absent) is None


def test_tags_of_the_object_decide() -> None:
    condition = {"StringEquals": {"s3:ExistingObjectTag/team": "red"}}
    where = bucket(statements=[says("s3:GetObject", principal={"AWS": BOB.account_id}, Condition=condition)])
    assert may(where, GET, BOB, an_object(tags={"team": "red"}))
    assert not may(where, GET, BOB, an_object(tags={"team": "blue"}))
    assert not may(where, GET, BOB, an_object())
