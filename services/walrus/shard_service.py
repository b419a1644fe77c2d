"""The gRPC handlers of mallee.walrus.v1's ShardService: what other processes of Walrus are told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from common.rpc.context import current_caller
from mallee.walrus.v1 import shard_pb2, shard_pb2_grpc
from services.walrus import errors
from services.walrus.copy_source import read_copy_source
from services.walrus.drivers.base import Bucket
from services.walrus.drivers.quotas import Elsewhere, Quota
from services.walrus.holdings import Allowances
from services.walrus.store import Store


class ShardService(shard_pb2_grpc.ShardServiceServicer):
    def __init__(self, store: Store, allowances: Allowances) -> None:
        self._store = store
        self._allowances = allowances

    async def ListShardBuckets(
        self, request: shard_pb2.ListShardBucketsRequest, context: Any
    ) -> shard_pb2.ListShardBucketsResponse:
        found = await self._store.index.list_buckets(
            request.account_id, prefix=request.prefix, after=request.after, limit=request.limit
        )
        return shard_pb2.ListShardBucketsResponse(buckets=map(_bucket, found))

    async def FindShardBucket(
        self, request: shard_pb2.FindShardBucketRequest, context: Any
    ) -> shard_pb2.FindShardBucketResponse:
        found = await self._store.index.find_bucket(request.name)
        if found is None:
            raise errors.no_such_bucket(request.name)
        return shard_pb2.FindShardBucketResponse(bucket=_bucket(found))

    async def ReadCopySource(
        self, request: shard_pb2.ReadCopySourceRequest, context: Any
    ) -> AsyncIterator[shard_pb2.ReadCopySourceResponse]:
        async with aclosing(read_copy_source(self._store, request, current_caller())) as answers:
            async for answer in answers:
                yield answer

    async def GrantAllowance(
        self, request: shard_pb2.GrantAllowanceRequest, context: Any
    ) -> shard_pb2.GrantAllowanceResponse:
        need = Elsewhere(objects=request.objects, size=request.bytes)
        standing = None
        if request.HasField("standing"):
            standing = Elsewhere(objects=request.standing.objects, size=request.standing.bytes)
        granted = await self._allowances.grant(request.account_id, request.member, need, standing)
        return shard_pb2.GrantAllowanceResponse(granted=None if granted is None else _allowance(granted))

    async def RecallAllowance(
        self, request: shard_pb2.RecallAllowanceRequest, context: Any
    ) -> shard_pb2.RecallAllowanceResponse:
        quota = Quota(
            size=request.quota_bytes if request.HasField("quota_bytes") else None,
            objects=request.quota_objects if request.HasField("quota_objects") else None,
        )
        return shard_pb2.RecallAllowanceResponse(
            held=_allowance(await self._allowances.recall(request.account_id, quota))
        )


def _allowance(told: Elsewhere) -> shard_pb2.Allowance:
    return shard_pb2.Allowance(objects=told.objects, bytes=told.size)


def _bucket(found: Bucket) -> shard_pb2.ShardBucket:
    return shard_pb2.ShardBucket(
        name=found.name, account_id=found.account_id, owner_id=found.owner_id, created_ms=found.created_ms
    )
