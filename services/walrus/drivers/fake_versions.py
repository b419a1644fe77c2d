"""The versions of keys in memory: a list for each, newest first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from common.errors import CloudError
from services.walrus import errors
from services.walrus.drivers.base import Object, Summary
from services.walrus.drivers.versions import (
    NULL,
    Bypass,
    Deletion,
    Expectation,
    Gone,
    Marker,
    Removal,
    check_unlocked,
)

Versions = dict[tuple[int, bytes], list[Object | Marker]]
# Told what is let go.
Discard = Callable[[Object], None]


def find(versions: Versions, place: tuple[int, bytes], version_id: str | None) -> Object | Marker | None:
    stack = versions.get(place, [])
    if version_id is None:
        return stack[0] if stack else None
    return next((one for one in stack if one.version_id == version_id), None)


def check(expect: Expectation, key: bytes, now: Object | Marker | None) -> None:
    if isinstance(now, Object):
        expect.check(key, now.etag, now.size, now.modified_ms)
    else:
        expect.check(key, None, modified_ms=now.modified_ms if now else 0)


def put(versions: Versions, place: tuple[int, bytes], new: Object | Marker, expect: Expectation, drop: Discard) -> None:
    check(expect, place[1], find(versions, place, None))
    if new.version_id == NULL:
        gone = find(versions, place, NULL)
        if isinstance(gone, Object):
            check_unlocked(gone.retention, gone.legal_hold, new.modified_ms, Bypass.NONE)
        _take(versions, place, NULL, drop)
    versions[place] = [new, *versions.get(place, [])]


def delete(versions: Versions, bucket_id: int, one: Deletion, now_ms: int, drop: Discard) -> Gone | CloudError:
    place = (bucket_id, one.what.key)
    try:
        if isinstance(one.what, Marker):
            put(versions, place, one.what, one.expect, drop)
            return Gone.MARKER
        return _remove(versions, place, one.what, one.expect, now_ms, drop)
    except CloudError as refusal:
        return refusal


def change(
    versions: Versions, place: tuple[int, bytes], version_id: str | None, change: Callable[[Object], Object]
) -> Object:
    now = find(versions, place, version_id)
    if now is None:
        raise errors.no_such_key(place[1]) if version_id is None else errors.no_such_version(place[1], version_id)
    if isinstance(now, Marker):
        raise errors.is_marker(now.version_id, now.modified_ms)
    changed = change(now)
    versions[place] = [changed if one is now else one for one in versions[place]]
    return changed


def _remove(
    versions: Versions, place: tuple[int, bytes], removal: Removal, expect: Expectation, now_ms: int, drop: Discard
) -> Gone:
    now = find(versions, place, removal.version_id)
    check(expect, place[1], now)
    if now is not None:
        removal.still.check(newest=now is versions[place][0], marker=isinstance(now, Marker))
    if isinstance(now, Object):
        check_unlocked(now.retention, now.legal_hold, now_ms, removal.bypass)
    _take(versions, place, removal.version_id, drop)
    return Gone.NOTHING if now is None else Gone.OBJECT if isinstance(now, Object) else Gone.MARKER


def _take(versions: Versions, place: tuple[int, bytes], version_id: str, drop: Discard) -> None:
    kept = []
    for one in versions.pop(place, []):
        if one.version_id != version_id:
            kept.append(one)
        elif isinstance(one, Object):
            drop(one)
    if kept:
        versions[place] = kept


def shown(one: Object | Marker, *, latest: bool) -> Summary | Marker:
    return summary(one)._replace(latest=latest) if isinstance(one, Object) else replace(one, latest=latest)


def summary(one: Object) -> Summary:
    return Summary(
        key=one.key,
        size=one.size,
        etag=one.etag,
        modified_ms=one.modified_ms,
        algorithm=one.checksum.algorithm if one.checksum else "",
        composite=one.checksum.composite if one.checksum else False,
        storage_class=one.attributes.headers.get("StorageClass", "STANDARD"),
        version_id=one.version_id,
        owner_id=one.owner_id,
    )
