"""Analytics, inventory, metrics, tiering and replication as S3 answers where none was ever configured.

They cannot be configured here (the contract has no Put for them), so there is never one to find.
"""

from __future__ import annotations

from common.errors import NotFound
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import report_pb2 as pb
from services.walrus import errors
from services.walrus.store import Store

OneOf = (
    pb.GetBucketAnalyticsConfigurationRequest
    | pb.DeleteBucketAnalyticsConfigurationRequest
    | pb.GetBucketInventoryConfigurationRequest
    | pb.DeleteBucketInventoryConfigurationRequest
    | pb.GetBucketMetricsConfigurationRequest
    | pb.DeleteBucketMetricsConfigurationRequest
    | pb.GetBucketIntelligentTieringConfigurationRequest
    | pb.DeleteBucketIntelligentTieringConfigurationRequest
)
ListOf = (
    pb.ListBucketAnalyticsConfigurationsRequest
    | pb.ListBucketInventoryConfigurationsRequest
    | pb.ListBucketMetricsConfigurationsRequest
    | pb.ListBucketIntelligentTieringConfigurationsRequest
)


async def find_none(store: Store, request: OneOf, caller: Caller | None) -> NotFound:
    """The error to raise."""
    bucket = await store.bucket_for(request, caller)
    return NotFound(
        "The specified configuration does not exist.",
        code="NoSuchConfiguration",
        details={"BucketName": bucket.name, "Id": request.id},
    )


async def list_none(store: Store, request: ListOf, caller: Caller | None) -> str | None:
    """The token, which S3 repeats."""
    await store.bucket_for(request, caller)
    return request.continuation_token or None


async def get_bucket_replication(
    store: Store, request: pb.GetBucketReplicationRequest, caller: Caller | None
) -> pb.GetBucketReplicationOutput:
    bucket = await store.bucket_for(request, caller)
    raise errors.not_configured(
        bucket.name, "ReplicationConfigurationNotFoundError", "The replication configuration was not found"
    )


async def delete_bucket_replication(
    store: Store, request: pb.DeleteBucketReplicationRequest, caller: Caller | None
) -> pb.DeleteBucketReplicationResponse:
    await store.bucket_for(request, caller)
    return pb.DeleteBucketReplicationResponse()
