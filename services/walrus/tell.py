"""Tells what happens in buckets to the HTTP targets that the operator has named: each event at least once, and those of
one target in the order of commits.

An event is kept in the index by the step that it tells of (drivers/events.py), so a crash loses none. A target that
does not answer is tried again, ever less often; it holds up nobody else's events.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import aiohttp

from common.log import get_logger
from common.metrics import counter
from common.rpc.context import current_request_id
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1.notification_pb2 import NotificationConfiguration
from services.walrus import configs, notification
from services.walrus.drivers.base import Bucket, Object
from services.walrus.drivers.events import NO_EVENTS, Event, Waiting
from services.walrus.drivers.versions import NULL, Marker, Removal
from services.walrus.errors import shown
from services.walrus.store import Store

# Records of one POST.
_BATCH: Final = 100
_TIMEOUT_S: Final = 10.0
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 60.0
# How often it is looked for events that nobody told of.
_LOOK_S: Final = 10.0
_KIND: Final = configs.kind_of(NotificationConfiguration)
_log = get_logger(__name__)
_DELIVERED: Final = counter("mallee_walrus_events_delivered", "Events that a target has taken", ("target",))
_REFUSED: Final = counter("mallee_walrus_events_refused", "Tries to deliver that failed", ("target",))


def events_of(
    store: Store,
    bucket: Bucket,
    event: str,
    caller: Caller | None,
    key: bytes,
    *,
    version_id: str = NULL,
    size: int | None = None,
    etag: str = "",
) -> Sequence[Event]:
    """For the step of the index that does what they tell. `event`: s3:ObjectCreated:Put and its like."""
    configured = bucket.configs.get(_KIND)
    if configured is None:
        return NO_EVENTS
    told: dict[str, Any] = {"key": shown(key)}
    if size is not None:
        told["size"] = size
    if etag:
        told["eTag"] = etag
    if version_id != NULL:
        told["versionId"] = version_id
    return [
        _event(store, bucket, event, caller, rule, told)
        for rule in notification.rules_in(configured)
        if rule.concerns(event, shown(key))
    ]


def created(store: Store, bucket: Bucket, how: str, caller: Caller | None, new: Object) -> Sequence[Event]:
    """`how`: Put, Copy or CompleteMultipartUpload; a form's Put is a Post."""
    if how == "Put" and caller is not None and caller.request.auth_type == "POST":
        how = "Post"
    event = f"s3:ObjectCreated:{how}"
    return events_of(store, bucket, event, caller, new.key, version_id=new.version_id, size=new.size, etag=new.etag)


def removed(
    store: Store, bucket: Bucket, what: Removal | Marker, caller: Caller | None, *, by: str = "ObjectRemoved"
) -> Sequence[Event]:
    """`by`: ObjectRemoved or LifecycleExpiration."""
    how = "DeleteMarkerCreated" if isinstance(what, Marker) else "Delete"
    return events_of(store, bucket, f"s3:{by}:{how}", caller, what.key, version_id=what.version_id)


def _event(
    store: Store, bucket: Bucket, event: str, caller: Caller | None, rule: notification.Rule, told: dict[str, Any]
) -> Event:
    record = notification.record(
        event,
        bucket,
        caller,
        rule,
        region=store.region,
        request_id=current_request_id(),
        now_ms=store.now_ms(),
        told=told,
    )
    return Event(target=rule.target, body=json.dumps(record, separators=(",", ":")).encode())


class Teller:
    """`run` works, without end; `nudge` tells it that events were added."""

    def __init__(self, store: Store, *, pause_s: float = _FIRST_PAUSE_S, look_s: float = _LOOK_S) -> None:
        self._store = store
        self._pause_s = pause_s
        self._look_s = look_s
        self._nudged = {target: asyncio.Event() for target in store.event_targets}

    def nudge(self) -> None:
        for nudged in self._nudged.values():
            nudged.set()

    async def run(self) -> None:
        for target, waiting in (await self._store.index.events.lengths()).items():
            if target not in self._store.event_targets:
                _log.warning("events wait for a target that the operator does not name", target=target, events=waiting)
        if not self._store.event_targets:
            return
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as tasks:
            for target, address in self._store.event_targets.items():
                tasks.create_task(self._serve(session, target, address), name=f"events-{target}")

    async def _serve(self, session: aiohttp.ClientSession, target: str, address: str) -> None:
        pause_s = self._pause_s
        while True:
            self._nudged[target].clear()
            batch = await self._store.index.events.next(target, _BATCH)
            if not batch:
                # Who was cancelled once its step was taken nudges nobody.
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._look_s):
                        await self._nudged[target].wait()
            elif await _deliver(session, address, batch):
                await self._store.index.events.forget(target, batch[-1].id)
                _DELIVERED.labels(target).inc(len(batch))
                pause_s = self._pause_s
            else:
                _REFUSED.labels(target).inc()
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


async def _deliver(session: aiohttp.ClientSession, address: str, batch: Sequence[Waiting]) -> bool:
    body = {"Records": [_with_sequencer(one) for one in batch]}
    try:
        # What it is sent on to may be nothing that the operator has named.
        async with session.post(address, json=body, allow_redirects=False) as answer:
            if 200 <= answer.status < 300:
                return True
            cause = f"status {answer.status}"
    except (aiohttp.ClientError, TimeoutError) as error:
        cause = repr(error)
    _log.warning("a target of events does not take them", address=address, cause=cause, events=len(batch))
    return False


def _with_sequencer(waiting: Waiting) -> Any:
    record = json.loads(waiting.event.body)
    record["s3"]["object"]["sequencer"] = f"{waiting.id:018X}"
    return record
