"""The other processes of Walrus that share the buckets: what this one asks of them, and which buckets are whose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

from common.errors import Unavailable
from common.rpc.channel import cloud_errors
from common.rpc.context import bind
from common.rpc.peers import Peers
from common.shards import Shards
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import object_pb2
from mallee.s3.v1.service_pb2_grpc import S3ServiceStub
from mallee.walrus.v1 import shard_pb2 as pb
from mallee.walrus.v1.shard_pb2_grpc import ShardServiceStub
from services.walrus.drivers.quotas import Elsewhere, Quota

# A process that brings no byte of a copy's source for so long is given up.
_IDLE_S: Final = 60.0
# Of a log that another process takes.
_PUT_S: Final = 120.0


class Siblings:
    """Everything but `has` raises Unavailable when one that is asked does not answer: what it has is then not known."""

    def __init__(self, shards: Shards = Shards("walrus"), shard: int = 0) -> None:  # noqa: B008
        self._shards = shards
        self._shard = shard
        self.others = [shards.member(other) for other in range(shards.count) if other != shard]
        # Known once etcd has answered.
        self.peers: Peers | None = None

    def has(self, bucket: str) -> bool:
        """It is another process's, if there is such a bucket."""
        return self._shards.shard_of(bucket) != self._shard

    async def find_bucket(self, name: str) -> pb.ShardBucket:
        """Raises NotFound (NoSuchBucket)."""
        stub = self._stub(self._shards.of(name))
        answer: pb.FindShardBucketResponse = await stub.FindShardBucket(pb.FindShardBucketRequest(name=name))
        return answer.bucket

    async def list_buckets(self, request: pb.ListShardBucketsRequest) -> list[pb.ShardBucket]:
        """Of all others together, in no order; of each so many as were asked for."""
        answers = await asyncio.gather(*(self._stub(other).ListShardBuckets(request) for other in self.others))
        return [bucket for answer in answers for bucket in answer.buckets]

    async def allowance(self, account_id: str, need: Elsewhere, standing: Elsewhere | None) -> Elsewhere | None:
        """What the account's own process grants this one, on top of what it knows to have. None: nothing is left."""
        request = pb.GrantAllowanceRequest(
            account_id=account_id,
            member=self._shards.member(self._shard),
            objects=need.objects,
            bytes=need.size,
        )
        if standing is not None:
            request.standing.CopyFrom(pb.Allowance(objects=standing.objects, bytes=standing.size))
        answer = await self._stub(self._shards.of(account_id)).GrantAllowance(request)
        return _allowance(answer.granted) if answer.HasField("granted") else None

    async def recall(self, member: str, account_id: str, quota: Quota) -> Elsewhere:
        """What the account holds there, and no more may from now on."""
        request = pb.RecallAllowanceRequest(account_id=account_id, quota_objects=quota.objects, quota_bytes=quota.size)
        return _allowance((await self._stub(member).RecallAllowance(request)).held)

    @asynccontextmanager
    async def copy_source(
        self, bucket: str, request: pb.ReadCopySourceRequest, caller: Caller
    ) -> AsyncIterator[tuple[pb.CopySource, AsyncIterator[bytes]]]:
        """What a copy takes from another process's bucket."""
        with bind(caller=caller):
            call = self._stub(self._shards.of(bucket)).ReadCopySource(request)
        try:
            first = await _next(call)
            if first is None or not first.HasField("source"):
                raise Unavailable("the source of the copy was not told")
            async with aclosing(_chunks(call)) as chunks:
                yield first.source, chunks
        finally:
            call.cancel()

    async def put_object(self, messages: AsyncIterator[object_pb2.PutObjectStream], bucket: str, owner: Caller) -> None:
        with bind(caller=owner), cloud_errors():
            await self._peers().stub(S3ServiceStub, self._shards.of(bucket)).PutObject(messages, timeout=_PUT_S)

    def _stub(self, member: str) -> Any:
        return self._peers().stub(ShardServiceStub, member)

    def _peers(self) -> Peers:
        if self.peers is None:
            raise Unavailable("it is not known yet where the other processes are")
        return self.peers


def _allowance(told: pb.Allowance) -> Elsewhere:
    return Elsewhere(objects=told.objects, size=told.bytes)


async def _chunks(call: Any) -> AsyncGenerator[bytes, None]:
    while (message := await _next(call)) is not None:
        yield message.chunk


async def _next(call: Any) -> pb.ReadCopySourceResponse | None:
    """None at a good end."""
    try:
        with cloud_errors():
            async with asyncio.timeout(_IDLE_S):
                return await anext(aiter(call), None)
    except TimeoutError:
        raise Unavailable("the source of the copy does not come") from None
