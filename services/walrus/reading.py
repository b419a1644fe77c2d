"""The version that a request about one means, to read it or to change what stands beside its bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1.notification_pb2 import NotificationConfiguration
from services.walrus import access, configs, errors, versioning
from services.walrus import object as object_rules
from services.walrus.drivers.base import Bucket, Object
from services.walrus.drivers.events import NO_EVENTS, Event
from services.walrus.drivers.versions import Marker
from services.walrus.store import Store
from services.walrus.tell import events_of

# To these a key whose newest version is a marker is not there; to all others it is one, which takes a DELETE alone.
_PASS_OVER: Final = frozenset(
    {"GetObjectRequest", "HeadObjectRequest", "GetObjectAttributesRequest", "GetObjectAclRequest"}
    | {"GetObjectRetentionRequest", "GetObjectLegalHoldRequest", "GetObjectTorrentRequest", "RestoreObjectRequest"}
)


async def find(store: Store, bucket: Bucket, key: bytes, request: Any, caller: Caller | None) -> Object:
    """If the caller may do with it what the request asks.

    Raises Denied, NotFound (NoSuchKey, NoSuchVersion), WrongState (MethodNotAllowed) for a marker that was named.
    """
    asked = versioning.asked_by(request)
    found = await store.index.find_object(bucket, key, asked)
    store.check_object(bucket, request, caller, found if isinstance(found, Object) else None)
    if isinstance(found, Object):
        return found
    if found is None and asked is None:
        raise errors.no_such_key(key)
    if isinstance(found, Marker):
        if asked is None and type(request).__name__ in _PASS_OVER:
            raise errors.deleted_key(key, found.version_id)
        raise errors.is_marker(found.version_id, found.modified_ms)
    raise errors.no_such_version(key, asked or "")


async def change(
    store: Store,
    bucket: Bucket,
    request: Any,
    caller: Caller | None,
    changed: Callable[[Object], Object],
    *,
    event: str = "",
) -> Object:
    """The version as it is now, if the caller may change it so; raises as `find` and as `changed` does.

    `event`: what is told of it (s3:ObjectTagging:Put and its like).
    """
    key, version_id = object_rules.checked_key(request.key), versioning.asked_by(request)

    def allowed(found: Object) -> Object:
        store.check_object(bucket, request, caller, found)
        return changed(found)

    events: Sequence[Event] = NO_EVENTS
    told = bool(event) and configs.find(bucket, NotificationConfiguration) is not None
    if told or caller is None or not access.is_everyday(bucket, caller):
        # Who may not know what is there learns nothing from the change either.
        now = await find(store, bucket, key, request, caller)
        if told:
            # It is changed in the version that is told of, or not at all.
            version_id = now.version_id
            events = events_of(store, bucket, event, caller, key, version_id=version_id, etag=now.etag)
    done = await store.index.change_object(bucket, key, version_id, allowed, events)
    store.changed(events)
    return done
