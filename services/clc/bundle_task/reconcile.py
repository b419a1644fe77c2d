"""Follows bundle tasks to their end. By the leader alone; after a crash a task begins anew."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from common import ticket
from common.errors import CloudError, Unavailable
from common.log import get_logger
from common.reconcile import Reconciler
from common.rpc import context
from common.rpc.channel import cloud_errors
from mallee.cc.v1 import service_pb2 as cc
from mallee.clc.v1 import record_pb2
from mallee.nc.v1 import instance_pb2 as nc
from services.clc.bundle_task.use_cases import ENDED, Task, bundling_claim
from services.clc.clock import timestamp
from services.clc.instance import rules
from services.clc.store import Changes, Conflict
from services.clc.use_case import Cloud

CANCELLING: Final = record_pb2.BUNDLE_TASK_STATE_CANCELLING
COMPLETE: Final = record_pb2.BUNDLE_TASK_STATE_COMPLETE
FAILED: Final = record_pb2.BUNDLE_TASK_STATE_FAILED
_STATES: Final = {
    nc.BUNDLE_STATE_BUNDLING: record_pb2.BUNDLE_TASK_STATE_BUNDLING,
    nc.BUNDLE_STATE_STORING: record_pb2.BUNDLE_TASK_STATE_STORING,
}
_TICKET_S: Final = 6 * 3600
# How long a zone or a node that is away is waited for.
_PATIENCE_S: Final = 600.0
_AGAIN_S: Final = 2.0
# Each is a pass that lasts as long as its bundle takes.
_AT_ONCE: Final = 64
_log = get_logger(__name__)


class BundleTaskReconciler:
    def __init__(self, cloud: Cloud, ticket_key: bytes) -> None:
        self._cloud = cloud
        self._ticket_key = ticket_key
        self._loop = Reconciler("bundle-tasks", self._step, concurrency=_AT_ONCE)
        self._under_way: dict[str, asyncio.Future[None]] = {}

    def heard(self, record: record_pb2.BundleTaskRecord) -> None:
        """It changed. A pass that works on it ends when it is to be cancelled; the next one says so."""
        if record.state == CANCELLING and (work := self._under_way.get(record.bundle_id)) is not None:
            work.cancel()
        self._loop.nudge(record.bundle_id)

    async def run(self) -> None:
        await self._loop.run()

    async def _step(self, bundle_id: str) -> float | None:
        task = self._find(bundle_id)
        if task is None:
            return None
        if task.record.state in ENDED:
            return await self._forget(task)
        if task.record.state == CANCELLING:
            await self._end(bundle_id, FAILED, "Client.Cancelled", "The task was cancelled.")
            return None
        with context.bind(request_id=task.record.request_id):
            return await self._work(task.record)

    async def _work(self, record: record_pb2.BundleTaskRecord) -> float | None:
        work = self._under_way[record.bundle_id] = asyncio.ensure_future(self._bundle(record))
        try:
            await asyncio.wait([work])
        finally:
            del self._under_way[record.bundle_id]
            # Here if this pass itself was cancelled: the work goes with it.
            work.cancel()
        error = None if work.cancelled() else work.exception()
        match error:
            case None if work.cancelled():
                return _AGAIN_S
            case None:
                await self._end(record.bundle_id, COMPLETE, "", "")
            case Unavailable() if self._cloud.clock() - record.started.ToSeconds() < _PATIENCE_S:
                return _AGAIN_S
            case Unavailable():
                await self._end(record.bundle_id, FAILED, "Server.InternalError", error.message)
            case CloudError():
                await self._end(record.bundle_id, FAILED, f"Client.{error.code}", error.message)
            case _:
                raise error
        return None

    async def _bundle(self, record: record_pb2.BundleTaskRecord) -> None:
        instance = self._cloud.store.get(record_pb2.InstanceRecord, record.instance_id)
        if instance is None or instance.record.state != rules.RUNNING:
            raise CloudError(f"The instance {record.instance_id} does not run any more", code="IncorrectInstanceState")
        order = cc.BundleInstanceRequest(order=self._order(record, instance.record))
        with cloud_errors():
            call = self._cloud.clusters.stub(instance.record.zone).BundleInstance(order)
            try:
                async for news in call:
                    await self._note(record.bundle_id, news)
                    if news.state == nc.BUNDLE_STATE_COMPLETE:
                        return
            finally:
                call.cancel()
        raise Unavailable("the node did not say how it ended")

    def _order(self, record: record_pb2.BundleTaskRecord, instance: record_pb2.InstanceRecord) -> nc.BundleOrder:
        expires = int(self._cloud.clock()) + _TICKET_S
        return nc.BundleOrder(
            bundle_id=record.bundle_id,
            instance_id=record.instance_id,
            account_id=record.bucket_account_id,
            bucket=record.bucket,
            prefix=record.prefix,
            kernel_id=instance.kernel_id,
            ramdisk_id=instance.ramdisk_id,
            architecture=instance.architecture,
            ticket=ticket.mint_bundle(
                self._ticket_key,
                account_id=record.bucket_account_id,
                bucket=record.bucket,
                prefix=record.prefix,
                expires_unix_s=expires,
            ),
            ticket_expires=Timestamp(seconds=expires),
        )

    async def _note(self, bundle_id: str, news: cc.BundleInstanceResponse) -> None:
        task = self._find(bundle_id)
        if task is None or task.record.state in (CANCELLING, *ENDED) or news.state not in _STATES:
            return
        draft = task.draft()
        draft.state, draft.progress_percent = _STATES[news.state], news.progress_percent
        if draft != task.record:
            draft.updated.CopyFrom(timestamp(self._cloud.clock()))
            changes = Changes()
            changes.update(task, draft)
            await self._commit(changes)

    async def _end(self, bundle_id: str, state: record_pb2.BundleTaskState.ValueType, code: str, message: str) -> None:
        task = self._find(bundle_id)
        if task is None or task.record.state in ENDED:
            return
        draft = task.draft()
        draft.state, draft.error_code, draft.error_message = state, code, message
        draft.progress_percent = 100 if state == COMPLETE else draft.progress_percent
        draft.updated.CopyFrom(timestamp(self._cloud.clock()))
        changes = Changes()
        changes.update(task, draft)
        changes.release(bundling_claim(draft.instance_id))
        await self._cloud.store.commit(changes)
        _log.info("a bundle task has ended", bundle_id=bundle_id, code=code, message=message)

    async def _forget(self, task: Task) -> float | None:
        keep_s = self._cloud.config.clc.terminated_visible_s
        left_s = task.record.updated.ToSeconds() + keep_s - self._cloud.clock()
        if left_s > 0:
            return left_s
        changes = Changes()
        changes.delete(task)
        await self._cloud.store.commit(changes)
        return None

    async def _commit(self, changes: Changes) -> None:
        """Progress only: what changed meanwhile is more important."""
        with contextlib.suppress(Conflict):
            await self._cloud.store.commit(changes)

    def _find(self, bundle_id: str) -> Task | None:
        return self._cloud.store.get(record_pb2.BundleTaskRecord, bundle_id)
