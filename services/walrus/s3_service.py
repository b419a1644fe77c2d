"""The gRPC handlers of mallee.s3.v1: each is one use case."""

from __future__ import annotations

from typing import Any

from common.rpc.context import current_caller
from mallee.s3.v1 import (
    acl_pb2,
    bucket_access_pb2,
    bucket_pb2,
    bucket_policy_pb2,
    bucket_setting_pb2,
    cors_pb2,
    encryption_pb2,
    lifecycle_pb2,
    logging_pb2,
    notification_pb2,
    object_lock_pb2,
    report_pb2,
    tagging_pb2,
    versioning_pb2,
    website_pb2,
)
from services.walrus import (
    acls,
    bucket_access,
    bucket_encryption,
    buckets,
    lifecycle_calls,
    logging_calls,
    notification_calls,
    object_lock,
    policies,
    reports,
    settings,
    web_calls,
)
from services.walrus.s3_objects import ObjectHandlers


class S3Service(ObjectHandlers):
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

    # Locks

    async def PutObjectLockConfiguration(
        self, request: object_lock_pb2.PutObjectLockConfigurationRequest, context: Any
    ) -> object_lock_pb2.PutObjectLockConfigurationOutput:
        return await self._charged(object_lock.put_configuration, request)

    async def GetObjectLockConfiguration(
        self, request: object_lock_pb2.GetObjectLockConfigurationRequest, context: Any
    ) -> object_lock_pb2.GetObjectLockConfigurationOutput:
        return await object_lock.get_configuration(self._store, request, current_caller())

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

    async def PutBucketLogging(
        self, request: logging_pb2.PutBucketLoggingRequest, context: Any
    ) -> logging_pb2.PutBucketLoggingResponse:
        return await logging_calls.put_bucket_logging(self._store, request, current_caller())

    async def GetBucketLogging(
        self, request: logging_pb2.GetBucketLoggingRequest, context: Any
    ) -> logging_pb2.GetBucketLoggingOutput:
        return await logging_calls.get_bucket_logging(self._store, request, current_caller())

    async def PutBucketNotificationConfiguration(
        self, request: notification_pb2.PutBucketNotificationConfigurationRequest, context: Any
    ) -> notification_pb2.PutBucketNotificationConfigurationResponse:
        return await notification_calls.put_notification(self._store, request, current_caller())

    async def GetBucketNotificationConfiguration(
        self, request: notification_pb2.GetBucketNotificationConfigurationRequest, context: Any
    ) -> notification_pb2.NotificationConfiguration:
        return await notification_calls.get_notification(self._store, request, current_caller())

    # Encryption

    async def PutBucketEncryption(
        self, request: encryption_pb2.PutBucketEncryptionRequest, context: Any
    ) -> encryption_pb2.PutBucketEncryptionResponse:
        return await bucket_encryption.put_encryption(self._store, request, current_caller())

    async def GetBucketEncryption(
        self, request: encryption_pb2.GetBucketEncryptionRequest, context: Any
    ) -> encryption_pb2.GetBucketEncryptionOutput:
        return await bucket_encryption.get_encryption(self._store, request, current_caller())

    async def DeleteBucketEncryption(
        self, request: encryption_pb2.DeleteBucketEncryptionRequest, context: Any
    ) -> encryption_pb2.DeleteBucketEncryptionResponse:
        return await bucket_encryption.delete_encryption(self._store, request, current_caller())

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
