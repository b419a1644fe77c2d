"""Whose objects are and who may read, copy and end them, on both engines."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import (
    acl_pb2,
    bucket_access_pb2,
    copy_pb2,
    multipart_pb2,
    object_pb2,
    object_tagging_pb2,
)
from services.walrus import acl, acls, bucket_access, bucket_policy, copy, delete, listing, multipart, object_tagging
from services.walrus.store import Store
from tests.service.walrus_fixtures import store
from tests.walrus_store import ALICE, BOB, get_bytes, get_object, make_bucket, put_bytes, refused

__all__ = ["store"]

NOBODY = Caller(anonymous=True)
BODIES = [b"small", bytes(range(256)) * 8]


async def let(store: Store, *statements: tuple[str, Any]) -> None:
    """The policy of `bucket`: actions on all of its objects, and who may."""
    said = [
        {"Effect": "Allow", "Principal": who, "Action": action, "Resource": "arn:aws:s3:::bucket/*"}
        for action, who in statements
    ]
    bucket = await store.own_bucket("bucket", ALICE)
    body = json.dumps({"Version": "2012-10-17", "Statement": said}).encode()
    await store.index.put_config(bucket, bucket_policy.KIND, body)


async def own(store: Store, ownership: str) -> None:
    request = bucket_access_pb2.PutBucketOwnershipControlsRequest(bucket="bucket")
    request.ownership_controls.rules.add(object_ownership=ownership)
    await bucket_access.put_ownership_controls(store, request, ALICE)


async def open_bucket(store: Store, canned: str = "public-read-write") -> None:
    gone = bucket_access_pb2.DeletePublicAccessBlockRequest(bucket="bucket")
    await bucket_access.delete_public_access_block(store, gone, ALICE)
    await acls.put_bucket_acl(store, acl_pb2.PutBucketAclRequest(bucket="bucket", acl=canned), ALICE)


async def shown_acl(store: Store, caller: Caller, **members: Any) -> tuple[str, list[tuple[str, str]]]:
    request = acl_pb2.GetObjectAclRequest(bucket="bucket", key="k", **members)
    answer = await acls.get_object_acl(store, request, caller)
    return answer.owner.id, [(one.grantee.id or one.grantee.uri, one.permission) for one in answer.grants]


async def put_acl(store: Store, caller: Caller, **members: Any) -> None:
    await acls.put_object_acl(store, acl_pb2.PutObjectAclRequest(bucket="bucket", key="k", **members), caller)


THEM = {"AWS": BOB.account_id}
ALICES, BOBS = ALICE.canonical_user_id, BOB.canonical_user_id


async def test_what_another_writes_is_the_bucket_owners_unless_acls_are_on(store: Store) -> None:
    await let(store, ("s3:PutObject", THEM))
    await put_bytes(store, "k", b"x", caller=BOB)
    assert await shown_acl(store, ALICE) == (ALICES, [(ALICES, "FULL_CONTROL")])
    assert await get_bytes(store, "k") == b"x"
    await refused("AccessDenied", get_bytes(store, "k", caller=BOB))
    await refused("AccessDenied", put_bytes(store, "k", b"", caller=BOB, acl="bucket-owner-full-control"))
    await refused("AccessControlListNotSupported", put_bytes(store, "k", b"", acl="public-read"))
    await put_bytes(store, "k", b"y", acl="bucket-owner-full-control")


async def test_what_another_writes_is_theirs_where_writers_own(store: Store) -> None:
    await own(store, "ObjectWriter")
    await let(store, ("s3:PutObject*", THEM))
    await put_bytes(store, "k", b"x", caller=BOB)
    assert await shown_acl(store, BOB) == (BOBS, [(BOBS, "FULL_CONTROL")])
    assert await get_bytes(store, "k", caller=BOB) == b"x"
    await refused("AccessDenied", get_bytes(store, "k"))
    await refused("AccessDenied", put_acl(store, ALICE, acl="private"))
    await put_acl(store, BOB, acl="bucket-owner-read")
    assert await shown_acl(store, BOB) == (BOBS, [(BOBS, "FULL_CONTROL"), (ALICES, "READ")])
    assert await get_bytes(store, "k") == b"x"
    await refused("AccessDenied", shown_acl(store, ALICE))
    # With the setting gone it is the bucket owner's again.
    await own(store, "BucketOwnerEnforced")
    assert await shown_acl(store, ALICE) == (ALICES, [(ALICES, "FULL_CONTROL")])


async def test_an_object_is_handed_over_where_the_bucket_owner_prefers_that(store: Store) -> None:
    await own(store, "BucketOwnerPreferred")
    await let(store, ("s3:PutObject*", THEM))
    await put_bytes(store, "k", b"x", caller=BOB, acl="bucket-owner-full-control")
    assert await shown_acl(store, ALICE) == (ALICES, [(ALICES, "FULL_CONTROL")])
    await refused("AccessDenied", get_bytes(store, "k", caller=BOB))
    await put_bytes(store, "k", b"x", caller=BOB)
    await refused("AccessDenied", get_bytes(store, "k"))


async def test_nobody_writes_and_ends_where_a_bucket_is_open(store: Store) -> None:
    await refused("AccessDenied", put_bytes(store, "k", b"x", caller=NOBODY))
    await own(store, "ObjectWriter")
    await open_bucket(store)
    await put_bytes(store, "k", b"x", caller=NOBODY, acl="public-read")
    assert await get_bytes(store, "k", caller=BOB) == b"x"
    assert (await shown_acl_of_owner(store)) == acl.ANONYMOUS_ID
    begin = multipart_pb2.CreateMultipartUploadRequest(bucket="bucket", key="k")
    await refused("AccessDenied", multipart.create_upload(store, begin, NOBODY))
    await delete.delete_object(store, object_pb2.DeleteObjectRequest(bucket="bucket", key="k"), NOBODY)
    await refused("NoSuchKey", get_bytes(store, "k"))


async def shown_acl_of_owner(store: Store) -> str:
    bucket = await store.own_bucket("bucket", ALICE)
    found: Any = await store.index.find_object(bucket, b"k")
    return str(found.owner_id)


async def test_an_upload_is_its_initiators_to_end(store: Store) -> None:
    await own(store, "ObjectWriter")
    await open_bucket(store)
    third = Caller(account_id="333333333333", arn="arn:aws:iam::333333333333:root", canonical_user_id="c" * 64)
    begin = multipart_pb2.CreateMultipartUploadRequest(bucket="bucket", key="k", acl="public-read")
    upload_id = (await multipart.create_upload(store, begin, BOB)).upload_id
    asked = multipart_pb2.ListPartsRequest(bucket="bucket", key="k", upload_id=upload_id)
    shown = await multipart.list_parts(store, asked, BOB)
    assert not shown.parts
    everything = multipart_pb2.ListMultipartUploadsRequest(bucket="bucket")
    (listed,) = (await listing.list_multipart_uploads(store, everything, ALICE)).uploads
    assert [one.owner.id for one in (shown, listed)] == [one.initiator.id for one in (shown, listed)] == [BOBS, BOBS]
    end = multipart_pb2.AbortMultipartUploadRequest(bucket="bucket", key="k", upload_id=upload_id)
    for caller in (third, NOBODY):
        await refused("AccessDenied", multipart.list_parts(store, asked, caller))
        await refused("AccessDenied", multipart.abort_upload(store, end, caller))
    await multipart.abort_upload(store, end, BOB)
    await refused("NoSuchUpload", multipart.abort_upload(store, end, BOB))
    await refused("NoSuchUpload", multipart.abort_upload(store, end, ALICE))


@pytest.mark.parametrize("body", BODIES)
async def test_a_copy_needs_the_source_to_be_read_and_the_target_to_be_written(store: Store, body: bytes) -> None:
    await make_bucket(store, "theirs", BOB)
    await put_bytes(store, "k", body, tagging="a=b")
    copying = copy_pb2.CopyObjectRequest(bucket="theirs", key="k", copy_source="bucket/k")
    await refused("AccessDenied", copy.copy_object(store, copying, BOB))
    await refused("AccessDenied", copy.copy_object(store, copying, ALICE))
    await let(store, ("s3:GetObject", THEM))
    # Its tags are read, too.
    await refused("AccessDenied", copy.copy_object(store, copying, BOB))
    await let(store, ("s3:GetObject", THEM), ("s3:GetObjectTagging", THEM))
    await copy.copy_object(store, copying, BOB)
    assert (await get_object(store, "k", caller=BOB, bucket="theirs"))[1] == body
    missing = copy_pb2.CopyObjectRequest(bucket="theirs", key="k", copy_source="bucket/none")
    await refused("AccessDenied", copy.copy_object(store, missing, BOB))


async def test_several_keys_are_deleted_as_far_as_each_may_be(store: Store) -> None:
    for key in ("a", "b"):
        await put_bytes(store, key, b"")
    bucket = await store.own_bucket("bucket", ALICE)
    statement = {
        "Effect": "Allow",
        "Principal": THEM,
        "Action": "s3:DeleteObject",
        "Resource": "arn:aws:s3:::bucket/a",
    }
    body = json.dumps({"Version": "2012-10-17", "Statement": [statement]}).encode()
    await store.index.put_config(bucket, bucket_policy.KIND, body)
    request = object_pb2.DeleteObjectsRequest(bucket="bucket")
    for key in ("a", "b"):
        request.delete.objects.add(key=key)
    answer = await delete.delete_objects(store, request, BOB)
    assert [one.key for one in answer.deleted] == ["a"]
    assert [(one.key, one.code) for one in answer.errors] == [("b", "AccessDenied")]
    assert await get_bytes(store, "b") == b""


async def test_tags_of_an_object_decide_who_reads_it(store: Store) -> None:
    await put_bytes(store, "k", b"x", tagging="team=red")
    bucket = await store.own_bucket("bucket", ALICE)
    statement = {
        "Effect": "Allow",
        "Principal": THEM,
        "Action": "s3:GetObject",
        "Resource": "arn:aws:s3:::bucket/*",
        "Condition": {"StringEquals": {"s3:ExistingObjectTag/team": "red"}},
    }
    body = json.dumps({"Version": "2012-10-17", "Statement": [statement]}).encode()
    await store.index.put_config(bucket, bucket_policy.KIND, body)
    assert await get_bytes(store, "k", caller=BOB) == b"x"
    request = object_tagging_pb2.PutObjectTaggingRequest(bucket="bucket", key="k")
    request.tagging.tag_set.add(key="team", value="blue")
    await object_tagging.put_tagging(store, request, ALICE)
    await refused("AccessDenied", get_bytes(store, "k", caller=BOB))
