"""No input member of S3's contract that a client set stays unread by Walrus."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from common.errors import CloudError
from ec2_facade.protocol.model import accepted_values
from mallee.s3.v1 import (
    acl_pb2,
    bucket_access_pb2,
    bucket_pb2,
    bucket_policy_pb2,
    bucket_setting_pb2,
    copy_pb2,
    cors_pb2,
    encryption_pb2,
    lifecycle_pb2,
    listing_pb2,
    logging_pb2,
    multipart_pb2,
    notification_pb2,
    object_attributes_pb2,
    object_lock_pb2,
    object_pb2,
    object_tagging_pb2,
    report_pb2,
    restore_pb2,
    tagging_pb2,
    versioning_pb2,
    website_pb2,
)
from services.walrus import (
    acls,
    bucket_access,
    bucket_encryption,
    buckets,
    copy,
    delete,
    get,
    lifecycle_calls,
    listing,
    logging_calls,
    multipart,
    notification_calls,
    object_attributes,
    object_lock,
    object_tagging,
    policies,
    put,
    reports,
    restore_object,
    settings,
    web_calls,
)
from services.walrus.store import Store
from tests.recording import recording, unread
from tests.walrus_store import ALICE, begin_upload, lock_bucket, make_bucket, opened_store, put_bytes, upload_part

# The facade checks the digests of XML bodies, and an owner pays whatever is said.
CHECKED_BEFORE = {"checksum_algorithm", "content_md5", "request_payer"}

# Configurations that are kept and given back as they came.
KEPT_WHOLE = {
    "Tag",
    "Tagging",
    "AccelerateConfiguration",
    "BucketLifecycleConfiguration",
    "CORSConfiguration",
    "WebsiteConfiguration",
    "BucketLoggingStatus",
    "NotificationConfiguration",
    "ServerSideEncryptionConfiguration",
}

UseCase = Callable[[Store, Any, Any], Awaitable[Any]]

# What a member must say so that the action takes place; a string that is not here says "x", a number 1.
VALUES: dict[str, Any] = {
    "bucket": "bucket",
    "key": "k",
    "expected_bucket_owner": ALICE.account_id,
    "encoding_type": "url",
    "storage_class": "STANDARD",
    "checksum_mode": "ENABLED",
    "if_match": "*",
    "bucket_region": "us-east-1",
    "location_constraint": "us-east-1",
    "status": "Enabled",
    "acl": "bucket-owner-full-control",
    "copy_source": "bucket/k",
    "copy_source_if_match": "*",
    "copy_source_range": "bytes=0-1",
    "metadata_directive": "REPLACE",
    "tagging_directive": "REPLACE",
    "expected_source_bucket_owner": ALICE.account_id,
    "object_attributes": "ETag",
    "optional_object_attributes": "RestoreStatus",
    "tier": "Standard",
    "version_id": "null",
    "tagging": "a=b",
    "website_redirect_location": "/x",
    "object_lock_mode": "GOVERNANCE",
    "object_lock_retain_until_date": Timestamp(seconds=1 << 33),
    "retain_until_date": Timestamp(seconds=1 << 33),
    "object_lock_legal_hold_status": "ON",
    "mode": "GOVERNANCE",
    "server_side_encryption": "AES256",
    "sse_algorithm": "AES256",
}
# Those that exclude another one, each with what it needs; they are looked at by themselves.
ALONE = frozenset(
    {
        "range",
        "part_number",
        "if_none_match",
        "continuation_token",
        "checksum_type",
        "upload_id_marker",
        "copy_source_if_none_match",
        "copy_source_if_modified_since",
        "copy_source_if_unmodified_since",
        "server_side_encryption",
        "sse_customer_algorithm",
        "sse_customer_key",
        "sse_customer_key_md5",
        "copy_source_sse_customer_algorithm",
        "copy_source_sse_customer_key",
        "copy_source_sse_customer_key_md5",
        "kms_master_key_id",
        "ssekms_key_id",
    }
)

# Beside a canned ACL they are refused.
GRANTS = frozenset({"grant_full_control", "grant_read", "grant_read_acp", "grant_write_acp"})


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(tmp_path / "walrus") as store:
        await make_bucket(store)
        await put_bytes(store, "k", b"abc")
        await lock_bucket(store)
        yield store


async def _get(store: Store, request: Any, caller: Any) -> None:
    async with get.opened_object(store, request, caller):
        pass


CASES: list[tuple[type[Message], UseCase]] = [
    (bucket_pb2.CreateBucketRequest, buckets.create_bucket),
    (bucket_pb2.ListBucketsRequest, buckets.list_buckets),
    (bucket_pb2.HeadBucketRequest, buckets.head_bucket),
    (bucket_pb2.GetBucketLocationRequest, buckets.get_bucket_location),
    (object_pb2.HeadObjectRequest, get.head_object),
    (object_pb2.GetObjectRequest, _get),
    (object_pb2.DeleteObjectRequest, delete.delete_object),
    (object_pb2.DeleteObjectsRequest, delete.delete_objects),
    (listing_pb2.ListObjectsRequest, listing.list_objects),
    (listing_pb2.ListObjectsV2Request, listing.list_objects_v2),
    (multipart_pb2.ListMultipartUploadsRequest, listing.list_multipart_uploads),
    (multipart_pb2.CreateMultipartUploadRequest, multipart.create_upload),
    (versioning_pb2.PutBucketVersioningRequest, settings.put_bucket_versioning),
    (versioning_pb2.GetBucketVersioningRequest, settings.get_bucket_versioning),
    (tagging_pb2.PutBucketTaggingRequest, settings.put_bucket_tagging),
    (tagging_pb2.GetBucketTaggingRequest, settings.get_bucket_tagging),
    (tagging_pb2.DeleteBucketTaggingRequest, settings.delete_bucket_tagging),
    (copy_pb2.CopyObjectRequest, copy.copy_object),
    (copy_pb2.UploadPartCopyRequest, copy.copy_part),
    (object_attributes_pb2.GetObjectAttributesRequest, object_attributes.get_attributes),
    (restore_pb2.RestoreObjectRequest, restore_object.restore_object),
    (object_tagging_pb2.PutObjectTaggingRequest, object_tagging.put_tagging),
    (object_tagging_pb2.GetObjectTaggingRequest, object_tagging.get_tagging),
    (object_tagging_pb2.DeleteObjectTaggingRequest, object_tagging.delete_tagging),
    (object_lock_pb2.PutObjectLockConfigurationRequest, object_lock.put_configuration),
    (object_lock_pb2.GetObjectLockConfigurationRequest, object_lock.get_configuration),
    (object_lock_pb2.PutObjectRetentionRequest, object_lock.put_retention),
    (object_lock_pb2.GetObjectRetentionRequest, object_lock.get_retention),
    (object_lock_pb2.PutObjectLegalHoldRequest, object_lock.put_legal_hold),
    (object_lock_pb2.GetObjectLegalHoldRequest, object_lock.get_legal_hold),
    (listing_pb2.ListObjectVersionsRequest, listing.list_object_versions),
    (bucket_setting_pb2.PutBucketAccelerateConfigurationRequest, settings.put_bucket_accelerate),
    (bucket_setting_pb2.GetBucketAccelerateConfigurationRequest, settings.get_bucket_accelerate),
    (lifecycle_pb2.PutBucketLifecycleConfigurationRequest, lifecycle_calls.put_lifecycle),
    (lifecycle_pb2.GetBucketLifecycleConfigurationRequest, lifecycle_calls.get_lifecycle),
    (lifecycle_pb2.DeleteBucketLifecycleRequest, lifecycle_calls.delete_lifecycle),
    (bucket_policy_pb2.PutBucketPolicyRequest, policies.put_bucket_policy),
    (bucket_policy_pb2.GetBucketPolicyRequest, policies.get_bucket_policy),
    (bucket_policy_pb2.GetBucketPolicyStatusRequest, policies.get_bucket_policy_status),
    (bucket_policy_pb2.DeleteBucketPolicyRequest, policies.delete_bucket_policy),
    (acl_pb2.PutBucketAclRequest, acls.put_bucket_acl),
    (acl_pb2.GetBucketAclRequest, acls.get_bucket_acl),
    (acl_pb2.PutObjectAclRequest, acls.put_object_acl),
    (acl_pb2.GetObjectAclRequest, acls.get_object_acl),
    (bucket_access_pb2.PutBucketOwnershipControlsRequest, bucket_access.put_ownership_controls),
    (bucket_access_pb2.GetBucketOwnershipControlsRequest, bucket_access.get_ownership_controls),
    (bucket_access_pb2.DeleteBucketOwnershipControlsRequest, bucket_access.delete_ownership_controls),
    (bucket_access_pb2.PutPublicAccessBlockRequest, bucket_access.put_public_access_block),
    (bucket_access_pb2.GetPublicAccessBlockRequest, bucket_access.get_public_access_block),
    (bucket_access_pb2.DeletePublicAccessBlockRequest, bucket_access.delete_public_access_block),
    (bucket_access_pb2.PutBucketRequestPaymentRequest, bucket_access.put_request_payment),
    (bucket_access_pb2.GetBucketRequestPaymentRequest, bucket_access.get_request_payment),
    (encryption_pb2.PutBucketEncryptionRequest, bucket_encryption.put_encryption),
    (encryption_pb2.GetBucketEncryptionRequest, bucket_encryption.get_encryption),
    (encryption_pb2.DeleteBucketEncryptionRequest, bucket_encryption.delete_encryption),
    (cors_pb2.PutBucketCorsRequest, web_calls.put_cors),
    (cors_pb2.GetBucketCorsRequest, web_calls.get_cors),
    (cors_pb2.DeleteBucketCorsRequest, web_calls.delete_cors),
    (website_pb2.PutBucketWebsiteRequest, web_calls.put_website),
    (website_pb2.GetBucketWebsiteRequest, web_calls.get_website),
    (website_pb2.DeleteBucketWebsiteRequest, web_calls.delete_website),
    (logging_pb2.PutBucketLoggingRequest, logging_calls.put_bucket_logging),
    (logging_pb2.GetBucketLoggingRequest, logging_calls.get_bucket_logging),
    (notification_pb2.PutBucketNotificationConfigurationRequest, notification_calls.put_notification),
    (notification_pb2.GetBucketNotificationConfigurationRequest, notification_calls.get_notification),
    (report_pb2.GetBucketAnalyticsConfigurationRequest, reports.find_none),
    (report_pb2.ListBucketAnalyticsConfigurationsRequest, reports.list_none),
    (report_pb2.GetBucketReplicationRequest, reports.get_bucket_replication),
    (report_pb2.DeleteBucketReplicationRequest, reports.delete_bucket_replication),
]


@pytest.mark.parametrize(("kind", "use_case"), CASES, ids=lambda one: getattr(one, "__name__", ""))
async def test_every_member_is_read(store: Store, kind: type[Message], use_case: UseCase) -> None:
    for field in kind.DESCRIPTOR.fields:
        request = kind()
        fill(request, skip=ALONE - {field.name})
        watched = recording(request, whole=KEPT_WHOLE)
        try:
            await use_case(store, watched, ALICE)
        except CloudError:
            # Refused for what it says: then it was read.
            continue
        assert set(unread(watched)) <= CHECKED_BEFORE, field.name
        if kind is object_pb2.DeleteObjectRequest:
            await put_bytes(store, "k", b"abc")


def fill(message: Message, *, skip: frozenset[str] = frozenset()) -> None:
    field: Any
    for field in message.DESCRIPTOR.fields:
        if field.name in skip or field.name in ("nanos", "if_modified_since", "if_unmodified_since"):
            continue
        if accepted_values(field) is None:
            _set(message, field)


def _set(message: Message, field: Any) -> None:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        getattr(message, field.name)["name"] = "value"
    elif isinstance(value := VALUES.get(field.name), Timestamp):
        getattr(message, field.name).CopyFrom(value)
    elif field.message_type is not None:
        inner = getattr(message, field.name)
        fill(inner.add() if field.is_repeated else inner)
        if not field.is_repeated:
            inner.SetInParent()
    elif field.is_repeated:
        getattr(message, field.name).append("x")
    elif field.type == FieldDescriptor.TYPE_STRING:
        setattr(message, field.name, VALUES.get(field.name, "CRC32" if field.name == "checksum_algorithm" else "x"))
    elif field.type == FieldDescriptor.TYPE_BOOL:
        setattr(message, field.name, False)
    else:
        setattr(message, field.name, 1)


async def test_every_member_of_an_upload_is_read(store: Store) -> None:
    # What is put under the key beside the upload comes no later than the upload began: its condition holds.
    now = store.now_ms()
    store.now_ms = lambda: now
    upload_id = await begin_upload(store, "k", checksum_algorithm="CRC32")
    etag = await upload_part(store, "k", upload_id, 1, b"abc", checksum_algorithm="CRC32")
    headers: list[tuple[type[Message], type[Message], UseCase]] = [
        (object_pb2.PutObjectRequest, object_pb2.PutObjectStream, put.put_object),
        (multipart_pb2.UploadPartRequest, multipart_pb2.UploadPartStream, multipart.upload_part),
    ]
    for kind, frame, use_case in headers:
        request = kind()
        fill(request, skip=ALONE - {"part_number"} | {"upload_id", "content_md5"} | GRANTS)
        for field in kind.DESCRIPTOR.fields:
            if field.name.startswith("checksum_") and field.name != "checksum_algorithm":
                request.ClearField(field.name)
        request.content_length = 3  # type: ignore[attr-defined]
        request.content_md5 = "kAFQmDzST7DWlj99KOF/cg=="  # type: ignore[attr-defined]
        if "upload_id" in kind.DESCRIPTOR.fields_by_name:
            request.upload_id = upload_id  # type: ignore[attr-defined]
        watched = recording(request)

        async def messages(frame: Any = frame, watched: Any = watched) -> AsyncIterator[Any]:
            yield Header(watched)
            yield frame(chunk=b"abc")
            yield frame(end={"length": 3})

        await use_case(store, messages(), ALICE)
        assert set(unread(watched)) <= GRANTS | {"request_payer"}, kind.__name__
    complete = multipart_pb2.CompleteMultipartUploadRequest(
        bucket="bucket", key="k", upload_id=upload_id, mpu_object_size=3, checksum_type="COMPOSITE", if_match="*"
    )
    complete.expected_bucket_owner = ALICE.account_id
    complete.multipart_upload.parts.add(part_number=1, e_tag=etag, checksum_crc32="NSRBwg==")
    watched = recording(complete)
    await multipart.complete_upload(store, watched, ALICE)
    assert unread(watched) == []


class Header:
    """A stream's first message, whose header is watched."""

    def __init__(self, header: Any) -> None:
        self.header = header

    def WhichOneof(self, name: str) -> str:
        return "header"
