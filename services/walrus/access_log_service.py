"""The gRPC handlers of mallee.walrus.v1's AccessLogService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from mallee.walrus.v1 import access_log_pb2 as pb
from mallee.walrus.v1 import access_log_pb2_grpc
from services.walrus.access_log import AccessLog


class AccessLogService(access_log_pb2_grpc.AccessLogServiceServicer):
    def __init__(self, access_log: AccessLog) -> None:
        self._access_log = access_log

    async def WatchLoggedBuckets(
        self, request: pb.WatchLoggedBucketsRequest, context: Any
    ) -> AsyncIterator[pb.WatchLoggedBucketsResponse]:
        async for names in self._access_log.logged():
            yield pb.WatchLoggedBucketsResponse(buckets=names)

    async def WriteAccessLog(self, request: pb.WriteAccessLogRequest, context: Any) -> pb.WriteAccessLogResponse:
        await self._access_log.take(request.records)
        return pb.WriteAccessLogResponse()
