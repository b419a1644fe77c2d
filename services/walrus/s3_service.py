"""The gRPC handlers of mallee.s3.v1: each is one use case."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from common.rpc.context import current_caller
from common.rpc.uploads import accepting
from mallee.s3.v1 import (
    acl_pb2,
    bucket_access_pb2,
    bucket_pb2,
    bucket_policy_pb2,
    bucket_setting_pb2,
    copy_pb2,
    cors_pb2,
    lifecycle_pb2,
    listing_pb2,
    multipart_pb2,
    notification_pb2,
    object_attributes_pb2,
    object_lock_pb2,
    object_pb2,
    object_tagging_pb2,
    report_pb2,
    service_pb2_grpc,
    tagging_pb2,
    versioning_pb2,
    website_pb2,
)
from services.walrus import (
    acls,
    bucket_access,
    buckets,
    copy,
    delete,
    get,
    lifecycle_calls,
    listing,
    multipart,
    notification_calls,
    object_attributes,
    object_lock,
    object_tagging,
    policies,
    put,
    reports,
    settings,
    web_calls,
)
from services.walrus.store import Store


class S3Service(service_pb2_grpc.S3ServiceServicer):
    def __init__(self, store: Store) -> None:
        self._store = store

    async def CreateBucket(
        self, request: bucket_pb2.CreateBucketRequest, context: Any
    ) -> bucket_pb2.CreateBucketOutput:
        return await buckets.create_bucket(self._store, request, current_caller())

    async def ListBuckets(self, request: bucket_pb2.ListBucketsRequest, context: Any) -> bucket_pb2.ListBucketsOutput:
        return await buckets.list_buckets(self._store, request, current_caller())

    async def HeadBucket(self, request: bucket_pb2.HeadBucketRequest, context: Any) -> bucket_pb2.HeadBucketOutput:
        return await buckets.head_bucket(self._store, request, current_caller())

    async def DeleteBucket(
        self, request: bucket_pb2.DeleteBucketRequest, context: Any
    ) -> bucket_pb2.DeleteBucketResponse:
        return await buckets.delete_bucket(self._store, request, current_caller())

    async def GetBucketLocation(
        self, request: bucket_pb2.GetBucketLocationRequest, context: Any
    ) -> bucket_pb2.GetBucketLocationOutput:
        return await buckets.get_bucket_location(self._store, request, current_caller())

    async def PutObject(
        self, request_iterator: AsyncIterator[object_pb2.PutObjectStream], context: Any
    ) -> object_pb2.PutObjectOutput:
        return await put.put_object(self._store, accepting(aiter(request_iterator), context), current_caller())

    async def GetObject(
        self, request: object_pb2.GetObjectRequest, context: Any
    ) -> AsyncIterator[object_pb2.GetObjectStream]:
        async with get.opened_object(self._store, request, current_caller()) as (header, chunks):
            yield object_pb2.GetObjectStream(header=header)
            async for chunk in chunks:
                yield object_pb2.GetObjectStream(chunk=chunk)

    async def HeadObject(self, request: object_pb2.HeadObjectRequest, context: Any) -> object_pb2.HeadObjectOutput:
        return await get.head_object(self._store, request, current_caller())

    async def DeleteObject(
        self, request: object_pb2.DeleteObjectRequest, context: Any
    ) -> object_pb2.DeleteObjectOutput:
        return await delete.delete_object(self._store, request, current_caller())

    async def DeleteObjects(
        self, request: object_pb2.DeleteObjectsRequest, context: Any
    ) -> object_pb2.DeleteObjectsOutput:
        return await delete.delete_objects(self._store, request, current_caller())

    async def ListObjects(self, request: listing_pb2.ListObjectsRequest, context: Any) -> listing_pb2.ListObjectsOutput:
        return await listing.list_objects(self._store, request, current_caller())

    async def ListObjectsV2(
        self, request: listing_pb2.ListObjectsV2Request, context: Any
    ) -> listing_pb2.ListObjectsV2Output:
        return await listing.list_objects_v2(self._store, request, current_caller())

    async def ListObjectVersions(
        self, request: listing_pb2.ListObjectVersionsRequest, context: Any
    ) -> listing_pb2.ListObjectVersionsOutput:
        return await listing.list_object_versions(self._store, request, current_caller())

    async def CreateMultipartUpload(
        self, request: multipart_pb2.CreateMultipartUploadRequest, context: Any
    ) -> multipart_pb2.CreateMultipartUploadOutput:
        return await multipart.create_upload(self._store, request, current_caller())

    async def UploadPart(
        self, request_iterator: AsyncIterator[multipart_pb2.UploadPartStream], context: Any
    ) -> multipart_pb2.UploadPartOutput:
        return await multipart.upload_part(self._store, accepting(aiter(request_iterator), context), current_caller())

    async def CompleteMultipartUpload(
        self, request: multipart_pb2.CompleteMultipartUploadRequest, context: Any
    ) -> multipart_pb2.CompleteMultipartUploadOutput:
        return await multipart.complete_upload(self._store, request, current_caller())

    async def AbortMultipartUpload(
        self, request: multipart_pb2.AbortMultipartUploadRequest, context: Any
    ) -> multipart_pb2.AbortMultipartUploadOutput:
        return await multipart.abort_upload(self._store, request, current_caller())

    async def ListParts(self, request: multipart_pb2.ListPartsRequest, context: Any) -> multipart_pb2.ListPartsOutput:
        return await multipart.list_parts(self._store, request, current_caller())

    async def ListMultipartUploads(
        self, request: multipart_pb2.ListMultipartUploadsRequest, context: Any
    ) -> multipart_pb2.ListMultipartUploadsOutput:
        return await listing.list_multipart_uploads(self._store, request, current_caller())

    # Copies

    async def CopyObject(self, request: copy_pb2.CopyObjectRequest, context: Any) -> copy_pb2.CopyObjectOutput:
        return await copy.copy_object(self._store, request, current_caller())

    async def UploadPartCopy(
        self, request: copy_pb2.UploadPartCopyRequest, context: Any
    ) -> copy_pb2.UploadPartCopyOutput:
        return await copy.copy_part(self._store, request, current_caller())

    async def GetObjectAttributes(
        self, request: object_attributes_pb2.GetObjectAttributesRequest, context: Any
    ) -> object_attributes_pb2.GetObjectAttributesOutput:
        return await object_attributes.get_attributes(self._store, request, current_caller())

    # Versions

    async def PutBucketVersioning(
        self, request: versioning_pb2.PutBucketVersioningRequest, context: Any
    ) -> versioning_pb2.PutBucketVersioningResponse:
        return await settings.put_bucket_versioning(self._store, request, current_caller())

    async def GetBucketVersioning(
        self, request: versioning_pb2.GetBucketVersioningRequest, context: Any
    ) -> versioning_pb2.GetBucketVersioningOutput:
        return await settings.get_bucket_versioning(self._store, request, current_caller())

    # Tags

    async def PutBucketTagging(
        self, request: tagging_pb2.PutBucketTaggingRequest, context: Any
    ) -> tagging_pb2.PutBucketTaggingResponse:
        return await settings.put_bucket_tagging(self._store, request, current_caller())

    async def GetBucketTagging(
        self, request: tagging_pb2.GetBucketTaggingRequest, context: Any
    ) -> tagging_pb2.GetBucketTaggingOutput:
        return await settings.get_bucket_tagging(self._store, request, current_caller())

    async def DeleteBucketTagging(
        self, request: tagging_pb2.DeleteBucketTaggingRequest, context: Any
    ) -> tagging_pb2.DeleteBucketTaggingResponse:
        return await settings.delete_bucket_tagging(self._store, request, current_caller())

    async def PutObjectTagging(
        self, request: object_tagging_pb2.PutObjectTaggingRequest, context: Any
    ) -> object_tagging_pb2.PutObjectTaggingOutput:
        return await object_tagging.put_tagging(self._store, request, current_caller())

    async def GetObjectTagging(
        self, request: object_tagging_pb2.GetObjectTaggingRequest, context: Any
    ) -> object_tagging_pb2.GetObjectTaggingOutput:
        return await object_tagging.get_tagging(self._store, request, current_caller())

    async def DeleteObjectTagging(
        self, request: object_tagging_pb2.DeleteObjectTaggingRequest, context: Any
    ) -> object_tagging_pb2.DeleteObjectTaggingOutput:
        return await object_tagging.delete_tagging(self._store, request, current_caller())

    # Locks

    async def PutObjectLockConfiguration(
        self, request: object_lock_pb2.PutObjectLockConfigurationRequest, context: Any
    ) -> object_lock_pb2.PutObjectLockConfigurationOutput:
        return await object_lock.put_configuration(self._store, request, current_caller())

    async def GetObjectLockConfiguration(
        self, request: object_lock_pb2.GetObjectLockConfigurationRequest, context: Any
    ) -> object_lock_pb2.GetObjectLockConfigurationOutput:
        return await object_lock.get_configuration(self._store, request, current_caller())

    async def PutObjectRetention(
        self, request: object_lock_pb2.PutObjectRetentionRequest, context: Any
    ) -> object_lock_pb2.PutObjectRetentionOutput:
        return await object_lock.put_retention(self._store, request, current_caller())

    async def GetObjectRetention(
        self, request: object_lock_pb2.GetObjectRetentionRequest, context: Any
    ) -> object_lock_pb2.GetObjectRetentionOutput:
        return await object_lock.get_retention(self._store, request, current_caller())

    async def PutObjectLegalHold(
        self, request: object_lock_pb2.PutObjectLegalHoldRequest, context: Any
    ) -> object_lock_pb2.PutObjectLegalHoldOutput:
        return await object_lock.put_legal_hold(self._store, request, current_caller())

    async def GetObjectLegalHold(
        self, request: object_lock_pb2.GetObjectLegalHoldRequest, context: Any
    ) -> object_lock_pb2.GetObjectLegalHoldOutput:
        return await object_lock.get_legal_hold(self._store, request, current_caller())

    # Access

    async def PutBucketPolicy(
        self, request: bucket_policy_pb2.PutBucketPolicyRequest, context: Any
    ) -> bucket_policy_pb2.PutBucketPolicyResponse:
        return await policies.put_bucket_policy(self._store, request, current_caller())

    async def GetBucketPolicy(
        self, request: bucket_policy_pb2.GetBucketPolicyRequest, context: Any
    ) -> bucket_policy_pb2.GetBucketPolicyOutput:
        return await policies.get_bucket_policy(self._store, request, current_caller())

    async def DeleteBucketPolicy(
        self, request: bucket_policy_pb2.DeleteBucketPolicyRequest, context: Any
    ) -> bucket_policy_pb2.DeleteBucketPolicyResponse:
        return await policies.delete_bucket_policy(self._store, request, current_caller())

    async def GetBucketPolicyStatus(
        self, request: bucket_policy_pb2.GetBucketPolicyStatusRequest, context: Any
    ) -> bucket_policy_pb2.GetBucketPolicyStatusOutput:
        return await policies.get_bucket_policy_status(self._store, request, current_caller())

    async def PutBucketAcl(self, request: acl_pb2.PutBucketAclRequest, context: Any) -> acl_pb2.PutBucketAclResponse:
        return await acls.put_bucket_acl(self._store, request, current_caller())

    async def GetBucketAcl(self, request: acl_pb2.GetBucketAclRequest, context: Any) -> acl_pb2.GetBucketAclOutput:
        return await acls.get_bucket_acl(self._store, request, current_caller())

    async def PutObjectAcl(self, request: acl_pb2.PutObjectAclRequest, context: Any) -> acl_pb2.PutObjectAclOutput:
        return await acls.put_object_acl(self._store, request, current_caller())

    async def GetObjectAcl(self, request: acl_pb2.GetObjectAclRequest, context: Any) -> acl_pb2.GetObjectAclOutput:
        return await acls.get_object_acl(self._store, request, current_caller())

    async def PutBucketOwnershipControls(
        self, request: bucket_access_pb2.PutBucketOwnershipControlsRequest, context: Any
    ) -> bucket_access_pb2.PutBucketOwnershipControlsResponse:
        return await bucket_access.put_ownership_controls(self._store, request, current_caller())

    async def GetBucketOwnershipControls(
        self, request: bucket_access_pb2.GetBucketOwnershipControlsRequest, context: Any
    ) -> bucket_access_pb2.GetBucketOwnershipControlsOutput:
        return await bucket_access.get_ownership_controls(self._store, request, current_caller())

    async def DeleteBucketOwnershipControls(
        self, request: bucket_access_pb2.DeleteBucketOwnershipControlsRequest, context: Any
    ) -> bucket_access_pb2.DeleteBucketOwnershipControlsResponse:
        return await bucket_access.delete_ownership_controls(self._store, request, current_caller())

    async def PutPublicAccessBlock(
        self, request: bucket_access_pb2.PutPublicAccessBlockRequest, context: Any
    ) -> bucket_access_pb2.PutPublicAccessBlockResponse:
        return await bucket_access.put_public_access_block(self._store, request, current_caller())

    async def GetPublicAccessBlock(
        self, request: bucket_access_pb2.GetPublicAccessBlockRequest, context: Any
    ) -> bucket_access_pb2.GetPublicAccessBlockOutput:
        return await bucket_access.get_public_access_block(self._store, request, current_caller())

    async def DeletePublicAccessBlock(
        self, request: bucket_access_pb2.DeletePublicAccessBlockRequest, context: Any
    ) -> bucket_access_pb2.DeletePublicAccessBlockResponse:
        return await bucket_access.delete_public_access_block(self._store, request, current_caller())

    async def PutBucketRequestPayment(
        self, request: bucket_access_pb2.PutBucketRequestPaymentRequest, context: Any
    ) -> bucket_access_pb2.PutBucketRequestPaymentResponse:
        return await bucket_access.put_request_payment(self._store, request, current_caller())

    async def GetBucketRequestPayment(
        self, request: bucket_access_pb2.GetBucketRequestPaymentRequest, context: Any
    ) -> bucket_access_pb2.GetBucketRequestPaymentOutput:
        return await bucket_access.get_request_payment(self._store, request, current_caller())

    # CORS and websites

    # Lifecycle

    async def PutBucketLifecycleConfiguration(
        self, request: lifecycle_pb2.PutBucketLifecycleConfigurationRequest, context: Any
    ) -> lifecycle_pb2.PutBucketLifecycleConfigurationOutput:
        return await lifecycle_calls.put_lifecycle(self._store, request, current_caller())

    async def GetBucketLifecycleConfiguration(
        self, request: lifecycle_pb2.GetBucketLifecycleConfigurationRequest, context: Any
    ) -> lifecycle_pb2.GetBucketLifecycleConfigurationOutput:
        return await lifecycle_calls.get_lifecycle(self._store, request, current_caller())

    async def DeleteBucketLifecycle(
        self, request: lifecycle_pb2.DeleteBucketLifecycleRequest, context: Any
    ) -> lifecycle_pb2.DeleteBucketLifecycleResponse:
        return await lifecycle_calls.delete_lifecycle(self._store, request, current_caller())

    # Logs and notifications

    async def PutBucketNotificationConfiguration(
        self, request: notification_pb2.PutBucketNotificationConfigurationRequest, context: Any
    ) -> notification_pb2.PutBucketNotificationConfigurationResponse:
        return await notification_calls.put_notification(self._store, request, current_caller())

    async def GetBucketNotificationConfiguration(
        self, request: notification_pb2.GetBucketNotificationConfigurationRequest, context: Any
    ) -> notification_pb2.NotificationConfiguration:
        return await notification_calls.get_notification(self._store, request, current_caller())

    # Encryption

    # Settings

    async def PutBucketAccelerateConfiguration(
        self, request: bucket_setting_pb2.PutBucketAccelerateConfigurationRequest, context: Any
    ) -> bucket_setting_pb2.PutBucketAccelerateConfigurationResponse:
        return await settings.put_bucket_accelerate(self._store, request, current_caller())

    async def GetBucketAccelerateConfiguration(
        self, request: bucket_setting_pb2.GetBucketAccelerateConfigurationRequest, context: Any
    ) -> bucket_setting_pb2.GetBucketAccelerateConfigurationOutput:
        return await settings.get_bucket_accelerate(self._store, request, current_caller())

    # Reports

    async def GetBucketAnalyticsConfiguration(
        self, request: report_pb2.GetBucketAnalyticsConfigurationRequest, context: Any
    ) -> report_pb2.GetBucketAnalyticsConfigurationOutput:
        raise await reports.find_none(self._store, request, current_caller())

    async def DeleteBucketAnalyticsConfiguration(
        self, request: report_pb2.DeleteBucketAnalyticsConfigurationRequest, context: Any
    ) -> report_pb2.DeleteBucketAnalyticsConfigurationResponse:
        raise await reports.find_none(self._store, request, current_caller())

    async def ListBucketAnalyticsConfigurations(
        self, request: report_pb2.ListBucketAnalyticsConfigurationsRequest, context: Any
    ) -> report_pb2.ListBucketAnalyticsConfigurationsOutput:
        token = await reports.list_none(self._store, request, current_caller())
        return report_pb2.ListBucketAnalyticsConfigurationsOutput(is_truncated=False, continuation_token=token)

    async def GetBucketInventoryConfiguration(
        self, request: report_pb2.GetBucketInventoryConfigurationRequest, context: Any
    ) -> report_pb2.GetBucketInventoryConfigurationOutput:
        raise await reports.find_none(self._store, request, current_caller())

    async def DeleteBucketInventoryConfiguration(
        self, request: report_pb2.DeleteBucketInventoryConfigurationRequest, context: Any
    ) -> report_pb2.DeleteBucketInventoryConfigurationResponse:
        raise await reports.find_none(self._store, request, current_caller())

    async def ListBucketInventoryConfigurations(
        self, request: report_pb2.ListBucketInventoryConfigurationsRequest, context: Any
    ) -> report_pb2.ListBucketInventoryConfigurationsOutput:
        token = await reports.list_none(self._store, request, current_caller())
        return report_pb2.ListBucketInventoryConfigurationsOutput(is_truncated=False, continuation_token=token)

    async def GetBucketMetricsConfiguration(
        self, request: report_pb2.GetBucketMetricsConfigurationRequest, context: Any
    ) -> report_pb2.GetBucketMetricsConfigurationOutput:
        raise await reports.find_none(self._store, request, current_caller())

    async def DeleteBucketMetricsConfiguration(
        self, request: report_pb2.DeleteBucketMetricsConfigurationRequest, context: Any
    ) -> report_pb2.DeleteBucketMetricsConfigurationResponse:
        raise await reports.find_none(self._store, request, current_caller())

    async def ListBucketMetricsConfigurations(
        self, request: report_pb2.ListBucketMetricsConfigurationsRequest, context: Any
    ) -> report_pb2.ListBucketMetricsConfigurationsOutput:
        token = await reports.list_none(self._store, request, current_caller())
        return report_pb2.ListBucketMetricsConfigurationsOutput(is_truncated=False, continuation_token=token)

    async def GetBucketIntelligentTieringConfiguration(
        self, request: report_pb2.GetBucketIntelligentTieringConfigurationRequest, context: Any
    ) -> report_pb2.GetBucketIntelligentTieringConfigurationOutput:
        raise await reports.find_none(self._store, request, current_caller())

    async def DeleteBucketIntelligentTieringConfiguration(
        self, request: report_pb2.DeleteBucketIntelligentTieringConfigurationRequest, context: Any
    ) -> report_pb2.DeleteBucketIntelligentTieringConfigurationResponse:
        raise await reports.find_none(self._store, request, current_caller())

    async def ListBucketIntelligentTieringConfigurations(
        self, request: report_pb2.ListBucketIntelligentTieringConfigurationsRequest, context: Any
    ) -> report_pb2.ListBucketIntelligentTieringConfigurationsOutput:
        token = await reports.list_none(self._store, request, current_caller())
        return report_pb2.ListBucketIntelligentTieringConfigurationsOutput(is_truncated=False, continuation_token=token)

    async def GetBucketReplication(
        self, request: report_pb2.GetBucketReplicationRequest, context: Any
    ) -> report_pb2.GetBucketReplicationOutput:
        return await reports.get_bucket_replication(self._store, request, current_caller())

    async def DeleteBucketReplication(
        self, request: report_pb2.DeleteBucketReplicationRequest, context: Any
    ) -> report_pb2.DeleteBucketReplicationResponse:
        return await reports.delete_bucket_replication(self._store, request, current_caller())

    async def PutBucketCors(
        self, request: cors_pb2.PutBucketCorsRequest, context: Any
    ) -> cors_pb2.PutBucketCorsResponse:
        return await web_calls.put_cors(self._store, request, current_caller())

    async def GetBucketCors(self, request: cors_pb2.GetBucketCorsRequest, context: Any) -> cors_pb2.GetBucketCorsOutput:
        return await web_calls.get_cors(self._store, request, current_caller())

    async def DeleteBucketCors(
        self, request: cors_pb2.DeleteBucketCorsRequest, context: Any
    ) -> cors_pb2.DeleteBucketCorsResponse:
        return await web_calls.delete_cors(self._store, request, current_caller())

    async def PutBucketWebsite(
        self, request: website_pb2.PutBucketWebsiteRequest, context: Any
    ) -> website_pb2.PutBucketWebsiteResponse:
        return await web_calls.put_website(self._store, request, current_caller())

    async def GetBucketWebsite(
        self, request: website_pb2.GetBucketWebsiteRequest, context: Any
    ) -> website_pb2.GetBucketWebsiteOutput:
        return await web_calls.get_website(self._store, request, current_caller())

    async def DeleteBucketWebsite(
        self, request: website_pb2.DeleteBucketWebsiteRequest, context: Any
    ) -> website_pb2.DeleteBucketWebsiteResponse:
        return await web_calls.delete_website(self._store, request, current_caller())
