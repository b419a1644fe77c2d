"""The gRPC handlers of mallee.walrus.v1's UpkeepService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

from mallee.walrus.v1 import upkeep_pb2, upkeep_pb2_grpc
from services.walrus.backup import Backups
from services.walrus.drivers.quotas import Quota
from services.walrus.holdings import Allowances
from services.walrus.master_keys import MasterKeys
from services.walrus.scrub import Finding, Kind, Pace, Scrubber
from services.walrus.store import Store

_KINDS: Final = {
    Kind.DAMAGED: upkeep_pb2.FINDING_KIND_DAMAGED,
    Kind.MISSING: upkeep_pb2.FINDING_KIND_MISSING,
    Kind.SURPLUS: upkeep_pb2.FINDING_KIND_SURPLUS,
    Kind.INDEX: upkeep_pb2.FINDING_KIND_INDEX,
}


class UpkeepService(upkeep_pb2_grpc.UpkeepServiceServicer):
    def __init__(
        self, store: Store, scrubber: Scrubber, backups: Backups, keys: MasterKeys, allowances: Allowances
    ) -> None:
        self._store = store
        self._scrubber = scrubber
        self._backups = backups
        self._keys = keys
        self._allowances = allowances

    async def ScrubStore(
        self, request: upkeep_pb2.ScrubStoreRequest, context: Any
    ) -> AsyncIterator[upkeep_pb2.ScrubStoreResponse]:
        answer = upkeep_pb2.ScrubStoreResponse()
        async with aclosing(self._scrubber.scrub("", Pace(request.bytes_per_second))) as steps:
            async for step in steps:
                answer.scrubbed_bytes += step.scrubbed_bytes
                answer.compared += step.compared
                answer.complete = not step.position
                answer.findings.extend(map(_finding, step.findings))
                yield answer
                del answer.findings[:]

    async def BackupStore(
        self, request: upkeep_pb2.BackupStoreRequest, context: Any
    ) -> AsyncIterator[upkeep_pb2.BackupStoreResponse]:
        async with aclosing(self._backups.make(Path(request.folder))) as steps:
            async for step in steps:
                yield upkeep_pb2.BackupStoreResponse(
                    blobs=step.blobs,
                    new_blobs=step.new_blobs,
                    copied_bytes=step.copied_bytes,
                    findings=map(_finding, step.findings),
                    complete=step.complete,
                )

    async def ResealKeys(
        self, request: upkeep_pb2.ResealKeysRequest, context: Any
    ) -> AsyncIterator[upkeep_pb2.ResealKeysResponse]:
        newest = self._keys.read().newest
        async with aclosing(self._keys.reseal()) as steps:
            async for step in steps:
                yield upkeep_pb2.ResealKeysResponse(
                    newest=newest, resealed=step.resealed, unopened=step.unopened, complete=step.complete
                )

    async def PutQuota(self, request: upkeep_pb2.PutQuotaRequest, context: Any) -> upkeep_pb2.PutQuotaResponse:
        quota = Quota(
            size=request.bytes if request.HasField("bytes") else None,
            objects=request.objects if request.HasField("objects") else None,
        )
        if request.WhichOneof("scope") == "bucket":
            await self._store.index.quotas.put_bucket(request.bucket, quota)
        else:
            await self._allowances.put_quota(request.account_id, quota)
        return upkeep_pb2.PutQuotaResponse()

    async def DescribeUsage(
        self, request: upkeep_pb2.DescribeUsageRequest, context: Any
    ) -> AsyncIterator[upkeep_pb2.DescribeUsageResponse]:
        quotas = self._store.index.quotas
        for one in await (quotas.buckets(request.account_id) if request.account_id else quotas.accounts()):
            yield upkeep_pb2.DescribeUsageResponse(
                account_id=one.account_id,
                bucket=one.bucket,
                objects=one.objects,
                bytes=one.size,
                part_bytes=one.part_bytes,
                quota_bytes=one.quota.size,
                quota_objects=one.quota.objects,
            )


def _finding(one: Finding) -> upkeep_pb2.StoreFinding:
    return upkeep_pb2.StoreFinding(kind=_KINDS[one.kind], what=one.what, owners=one.owners, why=one.why)
