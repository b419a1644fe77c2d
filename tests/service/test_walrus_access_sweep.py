"""Every action of S3's contract asks who may: over real gRPC, for a stranger, for one let in, for an owner kept out."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from common.errors import CloudError
from common.rpc.channel import cloud_errors
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import multipart_pb2, object_attributes_pb2, object_pb2, restore_pb2, service_pb2
from services.walrus import bucket_policy
from services.walrus.actions import RULES
from tests.service.walrus_fixtures import certificates, stage
from tests.service.walrus_stage import WalrusStage, said_by
from tests.walrus_store import ALICE, BOB, begin_upload, put_bytes

__all__ = ["certificates", "stage"]

NOBODY = Caller(anonymous=True)
# About no bucket that is there.
ELSEWHERE = {"CreateBucket", "ListBuckets"}
# The owner's alone, and the owner's always.
POLICIES = {"GetBucketPolicy", "PutBucketPolicy", "DeleteBucketPolicy", "GetBucketPolicyStatus"}
METHODS = [
    method for method in service_pb2.DESCRIPTOR.services_by_name["S3Service"].methods if method.name not in ELSEWHERE
]


async def outcome(stage: WalrusStage, method: MethodDescriptor, caller: Caller, upload_id: str) -> str:
    """The code of the refusal; empty for an answer."""
    s3 = await stage.s3()
    kind = GetMessageClass(method.input_type)
    request = kind()
    header = request.header if method.client_streaming else request  # type: ignore[attr-defined]
    _fill(header, upload_id)

    async def messages() -> AsyncIterator[Message]:
        yield request
        yield kind(end={"length": 0})

    call = getattr(s3, method.name)(messages() if method.client_streaming else request, metadata=said_by(caller))
    try:
        with cloud_errors():
            if method.server_streaming:
                async for _ in call:
                    pass
                return ""
            answer = await call
    except CloudError as refusal:
        return refusal.code
    if isinstance(answer, object_pb2.DeleteObjectsOutput):
        return answer.errors[0].code if answer.errors else ""
    return ""


def _fill(request: Any, upload_id: str) -> None:
    """Well-formed, so that nothing but access refuses it before it looks at what is there."""
    values = {"bucket": "bucket", "key": "k", "upload_id": upload_id, "part_number": 1, "copy_source": "bucket/k"}
    for name, value in values.items():
        if name in request.DESCRIPTOR.fields_by_name:
            setattr(request, name, value)
    if isinstance(request, restore_pb2.RestoreObjectRequest):
        request.restore_request.days = 1
    if isinstance(request, object_attributes_pb2.GetObjectAttributesRequest):
        request.object_attributes.append("ETag")
    if isinstance(request, object_pb2.DeleteObjectsRequest):
        request.delete.objects.add(key="k")
    if isinstance(request, multipart_pb2.CompleteMultipartUploadRequest):
        request.multipart_upload.parts.add(part_number=1, e_tag="0" * 32)


async def set_policy(stage: WalrusStage, effect: str, principal: Caller) -> None:
    statement = {
        "Effect": effect,
        "Principal": {"AWS": principal.account_id},
        "Action": "s3:*",
        "Resource": ["arn:aws:s3:::bucket", "arn:aws:s3:::bucket/*"],
    }
    bucket = await stage.store.index.find_bucket("bucket")
    assert bucket is not None
    body = json.dumps({"Version": "2012-10-17", "Statement": [statement]}).encode()
    await stage.store.index.put_config(bucket, bucket_policy.KIND, body)


@pytest.fixture
async def upload_id(stage: WalrusStage) -> str:
    await put_bytes(stage.store, "k", b"abc")
    return await begin_upload(stage.store, "k")


def test_every_action_is_swept() -> None:
    assert {f"{method.name}Request" for method in METHODS} <= set(RULES)


async def test_strangers_get_nothing_and_learn_nothing(stage: WalrusStage, upload_id: str) -> None:
    for caller in (BOB, NOBODY):
        found = {method.name: await outcome(stage, method, caller, upload_id) for method in METHODS}
        assert {name: code for name, code in found.items() if code != "AccessDenied"} == {}


async def test_whom_the_policy_lets_in_may_do_all_but_change_it(stage: WalrusStage, upload_id: str) -> None:
    await set_policy(stage, "Allow", BOB)
    found = {method.name: await outcome(stage, method, BOB, upload_id) for method in METHODS}
    assert "AccessDenied" not in found.values()
    assert {name for name, code in found.items() if code == "MethodNotAllowed"} == POLICIES


async def test_whom_the_policy_keeps_out_may_do_nothing_but_repair_it(stage: WalrusStage, upload_id: str) -> None:
    for method in METHODS:
        await set_policy(stage, "Deny", ALICE)
        refused = await outcome(stage, method, ALICE, upload_id) == "AccessDenied"
        assert refused is (method.name not in POLICIES), method.name
