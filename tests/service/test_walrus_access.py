"""Access to buckets as their owners set it, on both engines: who gets what, and what is kept and told."""

from __future__ import annotations

import json
from typing import Any

from common.errors import Unavailable
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import acl_pb2, bucket_access_pb2, bucket_pb2, bucket_policy_pb2, copy_pb2, listing_pb2, multipart_pb2
from services.walrus import accounts, acl, acls, bucket_access, buckets, copy, listing, multipart, policies
from services.walrus.store import Store
from tests.service.walrus_fixtures import store
from tests.walrus_store import ALICE, BOB, put_bytes, refused

__all__ = ["store"]

NOBODY = Caller(anonymous=True)


def policy(*statements: Any) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def allow(action: str, resource: str, principal: Any = "*") -> Any:
    return {"Effect": "Allow", "Principal": principal, "Action": action, "Resource": f"arn:aws:s3:::{resource}"}


async def put_policy(store: Store, text: str, caller: Caller = ALICE) -> None:
    request = bucket_policy_pb2.PutBucketPolicyRequest(bucket="bucket", policy=text)
    await policies.put_bucket_policy(store, request, caller)


async def put_block(store: Store, **members: bool) -> None:
    request = bucket_access_pb2.PutPublicAccessBlockRequest(bucket="bucket")
    request.public_access_block_configuration.SetInParent()
    for name, value in members.items():
        setattr(request.public_access_block_configuration, name, value)
    await bucket_access.put_public_access_block(store, request, ALICE)


async def own(store: Store, ownership: str) -> None:
    request = bucket_access_pb2.PutBucketOwnershipControlsRequest(bucket="bucket")
    request.ownership_controls.rules.add(object_ownership=ownership)
    await bucket_access.put_ownership_controls(store, request, ALICE)


async def list_keys(store: Store, caller: Caller) -> list[str]:
    answer = await listing.list_objects_v2(store, listing_pb2.ListObjectsV2Request(bucket="bucket"), caller)
    return [one.key for one in answer.contents]


async def test_a_policy_is_kept_as_it_came_and_is_in_force_at_once(store: Store) -> None:
    asked = bucket_policy_pb2.GetBucketPolicyRequest(bucket="bucket")
    await refused("NoSuchBucketPolicy", policies.get_bucket_policy(store, asked, ALICE))
    await put_bytes(store, "k", b"")
    await refused("AccessDenied", list_keys(store, BOB))
    text = policy(allow("s3:ListBucket", "bucket", {"AWS": BOB.account_id})) + "\n"
    await put_policy(store, text)
    assert (await policies.get_bucket_policy(store, asked, ALICE)).policy == text
    assert await list_keys(store, BOB) == ["k"]
    await refused("AccessDenied", list_keys(store, NOBODY))
    await refused("AccessDenied", policies.get_bucket_policy(store, asked, BOB))
    status = bucket_policy_pb2.GetBucketPolicyStatusRequest(bucket="bucket")
    assert not (await policies.get_bucket_policy_status(store, status, ALICE)).policy_status.is_public
    gone = bucket_policy_pb2.DeleteBucketPolicyRequest(bucket="bucket")
    for _ in range(2):
        await policies.delete_bucket_policy(store, gone, ALICE)
    await refused("AccessDenied", list_keys(store, BOB))
    await refused("NoSuchBucketPolicy", policies.get_bucket_policy_status(store, status, ALICE))


async def test_a_bad_policy_changes_nothing(store: Store) -> None:
    text = policy(allow("s3:ListBucket", "bucket", {"AWS": BOB.account_id}))
    await put_policy(store, text)
    for bad in ("", "[]", policy(allow("s3:GetObject", "bucket")), policy(allow("s3:GetObject", "another/*"))):
        await refused("MalformedPolicy", put_policy(store, bad))
    asked = bucket_policy_pb2.GetBucketPolicyRequest(bucket="bucket")
    assert (await policies.get_bucket_policy(store, asked, ALICE)).policy == text


async def test_a_public_policy_needs_the_block_lifted(store: Store) -> None:
    public = policy(allow("s3:ListBucket", "bucket"))
    denied = await refused("AccessDenied", put_policy(store, public))
    assert "BlockPublicPolicy setting" in denied.message
    await put_block(store, restrict_public_buckets=True)
    await put_policy(store, public)
    await refused("AccessDenied", list_keys(store, NOBODY))
    await put_block(store)
    assert await list_keys(store, NOBODY) == await list_keys(store, BOB) == []
    status = bucket_policy_pb2.GetBucketPolicyStatusRequest(bucket="bucket")
    assert (await policies.get_bucket_policy_status(store, status, ALICE)).policy_status.is_public


async def test_the_public_access_block_is_on_until_it_is_lifted_and_deleting_it_lifts_it(store: Store) -> None:
    asked = bucket_access_pb2.GetPublicAccessBlockRequest(bucket="bucket")

    async def told() -> tuple[bool, ...]:
        answer = await bucket_access.get_public_access_block(store, asked, ALICE)
        return tuple(value for _, value in answer.public_access_block_configuration.ListFields())

    assert await told() == (True, True, True, True)
    await put_block(store, block_public_policy=True)
    assert await told() == (False, False, True, False)
    await put_block(store)
    assert await told() == (False, False, False, False)
    gone = bucket_access_pb2.DeletePublicAccessBlockRequest(bucket="bucket")
    for _ in range(2):
        await bucket_access.delete_public_access_block(store, gone, ALICE)
    await refused("NoSuchPublicAccessBlockConfiguration", told())
    await put_policy(store, policy(allow("s3:ListBucket", "bucket")))
    assert await list_keys(store, NOBODY) == []


async def test_ownership_is_the_bucket_owners_until_it_is_changed(store: Store) -> None:
    asked = bucket_access_pb2.GetBucketOwnershipControlsRequest(bucket="bucket")

    async def told() -> list[str]:
        answer = await bucket_access.get_ownership_controls(store, asked, ALICE)
        return [rule.object_ownership for rule in answer.ownership_controls.rules]

    assert await told() == ["BucketOwnerEnforced"]
    await own(store, "ObjectWriter")
    assert await told() == ["ObjectWriter"]
    await refused("MalformedXML", own(store, "Nobody"))
    gone = bucket_access_pb2.DeleteBucketOwnershipControlsRequest(bucket="bucket")
    await bucket_access.delete_ownership_controls(store, gone, ALICE)
    await refused("OwnershipControlsNotFoundError", told())


async def put_acl(store: Store, caller: Caller = ALICE, **members: Any) -> None:
    await acls.put_bucket_acl(store, acl_pb2.PutBucketAclRequest(bucket="bucket", **members), caller)


async def shown_acl(store: Store, caller: Caller = ALICE) -> list[tuple[str, str]]:
    answer = await acls.get_bucket_acl(store, acl_pb2.GetBucketAclRequest(bucket="bucket"), caller)
    assert answer.owner.id == ALICE.canonical_user_id
    return [(grant.grantee.id or grant.grantee.uri, grant.permission) for grant in answer.grants]


OWNERS = (ALICE.canonical_user_id, "FULL_CONTROL")


async def test_a_bucket_has_no_acl_until_its_owner_turns_them_on(store: Store) -> None:
    assert await shown_acl(store) == [OWNERS]
    # What holds anyway may be written out; a canned one would be in vain.
    await put_acl(store, grant_full_control=f"id={ALICE.canonical_user_id}")
    asked: list[dict[str, Any]] = [{"acl": "public-read"}, {"acl": "private"}, {"grant_read": "id=" + "b" * 64}]
    for members in asked:
        await refused("AccessControlListNotSupported", put_acl(store, **members))
    await own(store, "BucketOwnerPreferred")
    await refused("AccessDenied", put_acl(store, acl="public-read"))
    await put_acl(store, grant_read=f"id={BOB.canonical_user_id}", grant_full_control=f"id={ALICE.canonical_user_id}")
    assert await shown_acl(store) == [OWNERS, (BOB.canonical_user_id, "READ")]
    assert await list_keys(store, BOB) == []
    await refused("AccessDenied", shown_acl(store, BOB))
    await put_block(store)
    await put_acl(store, acl="public-read")
    assert await shown_acl(store) == [OWNERS, (acl.ALL_USERS, "READ")]
    assert await list_keys(store, NOBODY) == []
    await refused("InvalidBucketAclWithObjectOwnership", own(store, "BucketOwnerEnforced"))
    await put_acl(store, acl="private")
    await own(store, "BucketOwnerEnforced")
    await refused("AccessDenied", list_keys(store, NOBODY))


async def test_an_acl_is_said_in_one_way(store: Store) -> None:
    await own(store, "ObjectWriter")
    sent = acl.private(ALICE.canonical_user_id)
    await put_acl(store, access_control_policy=sent)
    assert await shown_acl(store) == [OWNERS]
    await refused("UnexpectedContent", put_acl(store, acl="private", access_control_policy=sent))
    await refused("InvalidRequest", put_acl(store, acl="private", grant_read=f"id={BOB.canonical_user_id}"))
    await refused("MissingSecurityHeader", put_acl(store))
    await refused("AccessDenied", put_acl(store, access_control_policy=acl.private(BOB.canonical_user_id)))


async def test_who_may_write_the_acl_may_hand_on_the_bucket(store: Store) -> None:
    await own(store, "ObjectWriter")
    await put_acl(store, grant_write_acp=f"id={BOB.canonical_user_id}")
    await put_acl(store, BOB, grant_read=f"id={BOB.canonical_user_id}")
    assert await list_keys(store, BOB) == []
    await refused("AccessDenied", put_acl(store, BOB, acl="private"))


async def test_a_bucket_is_made_with_its_ownership_and_acl(store: Store) -> None:
    async def make(name: str, **members: Any) -> None:
        await buckets.create_bucket(store, bucket_pb2.CreateBucketRequest(bucket=name, **members), ALICE)

    await make("plain", acl="private")
    await refused("InvalidBucketAclWithObjectOwnership", make("public", acl="public-read"))
    await refused(
        "InvalidBucketAclWithBlockPublicAccessError",
        make("public", acl="public-read", object_ownership="ObjectWriter"),
    )
    await refused("InvalidArgument", make("public", object_ownership="Nobody"))
    assert await store.index.find_bucket("public") is None
    await make("shared", object_ownership="ObjectWriter", grant_read=f"id={BOB.canonical_user_id}")
    answer = await listing.list_objects_v2(store, listing_pb2.ListObjectsV2Request(bucket="shared"), BOB)
    assert answer.key_count == 0


async def test_buckets_of_before_2023_take_acls_and_keep_nothing_from_the_public(store: Store) -> None:
    await buckets.create_bucket(store, bucket_pb2.CreateBucketRequest(bucket="closed"), ALICE)
    store.opens_buckets = True

    async def make(name: str, **members: Any) -> None:
        await buckets.create_bucket(store, bucket_pb2.CreateBucketRequest(bucket=name, **members), ALICE)

    async def listed(name: str) -> int:
        answer = await listing.list_objects_v2(store, listing_pb2.ListObjectsV2Request(bucket=name), NOBODY)
        return answer.key_count

    await make("public", acl="public-read")
    await put_bytes(store, "k", b"body", bucket="public", acl="public-read")
    assert await listed("public") == 1
    asked = bucket_access_pb2.GetPublicAccessBlockRequest(bucket="public")
    await refused("NoSuchPublicAccessBlockConfiguration", bucket_access.get_public_access_block(store, asked, ALICE))
    controls = bucket_access_pb2.GetBucketOwnershipControlsRequest(bucket="public")
    await refused("OwnershipControlsNotFoundError", bucket_access.get_ownership_controls(store, controls, ALICE))
    # What the owner asks for holds, and what stood before stays as it is.
    await refused(
        "InvalidBucketAclWithObjectOwnership",
        make("other", acl="public-read", object_ownership="BucketOwnerEnforced"),
    )
    await make("own", object_ownership="BucketOwnerEnforced")
    for name in ("own", "closed"):
        await refused("AccessControlListNotSupported", put_bytes(store, "k", b"body", bucket=name, acl="public-read"))
        await refused("AccessDenied", listed(name))


async def test_who_pays_is_told_and_asked(store: Store) -> None:
    asked = bucket_access_pb2.GetBucketRequestPaymentRequest(bucket="bucket")
    assert (await bucket_access.get_request_payment(store, asked, ALICE)).payer == "BucketOwner"
    request = bucket_access_pb2.PutBucketRequestPaymentRequest(bucket="bucket")
    request.request_payment_configuration.payer = "Somebody"
    await refused("MalformedXML", bucket_access.put_request_payment(store, request, ALICE))
    request.request_payment_configuration.payer = "Requester"
    await bucket_access.put_request_payment(store, request, ALICE)
    assert (await bucket_access.get_request_payment(store, asked, ALICE)).payer == "Requester"
    await put_block(store)
    await put_policy(store, policy(allow("s3:ListBucket", "bucket")))
    assert await list_keys(store, ALICE) == []
    await refused("AccessDenied", list_keys(store, NOBODY))


CAROL = "333333333333"


async def test_whom_a_policy_names_is_there(store: Store) -> None:
    async def known() -> accounts.Accounts:
        return accounts.Accounts(ids=frozenset({BOB.account_id}), canonical_ids=frozenset({BOB.canonical_user_id}))

    async def nobody_answers() -> accounts.Accounts:
        raise Unavailable("No CLC is there.", code="ServiceUnavailable")

    store.accounts = known
    there: list[dict[str, Any]] = [
        {"AWS": [BOB.account_id, f"arn:aws:iam::{ALICE.account_id}:root"], "CanonicalUser": BOB.canonical_user_id},
        {"Service": "logging.s3.amazonaws.com"},
        {"Federated": "accounts.example.com"},
    ]
    for principal in there:
        await put_policy(store, policy(allow("s3:GetObject", "bucket/*", principal)))
    not_there: list[dict[str, Any]] = [
        {"AWS": CAROL},
        {"AWS": [BOB.account_id, f"arn:aws:iam::{CAROL}:root"]},
        {"AWS": f"arn:aws:iam::{BOB.account_id}:user/bob"},
        {"AWS": f"arn:aws:sts::{BOB.account_id}:assumed-role/role/session"},
        {"AWS": "AIDACKCEVSQ6C2EXAMPLE"},
        {"CanonicalUser": "c" * 64},
    ]
    for principal in not_there:
        error = await refused(
            "MalformedPolicy", put_policy(store, policy(allow("s3:GetObject", "bucket/*", principal)))
        )
        assert error.message == "Invalid principal in policy"
        denied = {"Effect": "Deny", "NotPrincipal": principal, "Action": "s3:*", "Resource": "arn:aws:s3:::bucket/*"}
        await refused("MalformedPolicy", put_policy(store, policy(denied)))
    store.accounts = nobody_answers
    await put_policy(store, policy(allow("s3:GetObject", "bucket/*", {"AWS": ALICE.account_id})))
    await refused(
        "ServiceUnavailable", put_policy(store, policy(allow("s3:GetObject", "bucket/*", {"AWS": BOB.account_id})))
    )


async def test_whom_an_acl_names_is_there(store: Store) -> None:
    async def known() -> accounts.Accounts:
        return accounts.Accounts(ids=frozenset({BOB.account_id}), canonical_ids=frozenset({BOB.canonical_user_id}))

    await own(store, "ObjectWriter")
    await put_bytes(store, "k", b"")
    store.accounts = known
    grantees = (
        (BOB.canonical_user_id, True),
        (ALICE.canonical_user_id, True),
        (acl.ANONYMOUS_ID, True),
        ("c" * 64, False),
    )
    for grantee, taken in grantees:
        by_header: dict[str, Any] = {"grant_read": f'id="{grantee}"'}
        each: list[tuple[Any, Any]] = [
            (acl_pb2.PutBucketAclRequest(bucket="bucket"), acls.put_bucket_acl),
            (acl_pb2.PutObjectAclRequest(bucket="bucket", key="k"), acls.put_object_acl),
        ]
        for request, _ in each:
            wanted = request.access_control_policy
            wanted.owner.id = ALICE.canonical_user_id
            wanted.grants.add(permission="READ").grantee.MergeFrom(acl_pb2.Grantee(type="CanonicalUser", id=grantee))
        each += [
            (acl_pb2.PutBucketAclRequest(bucket="bucket", **by_header), acls.put_bucket_acl),
            (acl_pb2.PutObjectAclRequest(bucket="bucket", key="k", **by_header), acls.put_object_acl),
            (
                copy_pb2.CopyObjectRequest(bucket="bucket", key="l", copy_source="bucket/k", **by_header),
                copy.copy_object,
            ),
            (
                multipart_pb2.CreateMultipartUploadRequest(bucket="bucket", key="k", **by_header),
                multipart.create_upload,
            ),
        ]
        calls = [use_case(store, request, ALICE) for request, use_case in each]
        for call in [*calls, put_bytes(store, "m", b"", **by_header)]:
            if taken:
                await call
            else:
                assert (await refused("InvalidArgument", call)).message == "Invalid id"
