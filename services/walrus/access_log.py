"""Server access logs: lines of requests are gathered in files, and delivered as objects of the target bucket.

As S3's, delivery is best effort: a line that was taken has been written to its file, so it outlives this process,
though not a power cut. A delivery that is cut off is repeated under the same key.

    <folder>/<bucket id>.log                      lines that wait
    <folder>/<bucket id>-<milliseconds>-<16 hex digits>.sending   lines on their way
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from common.errors import CloudError
from common.log import get_logger
from common.metrics import counter
from common.threads import to_the_end
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import body_pb2, object_pb2
from mallee.s3.v1.logging_pb2 import BucketLoggingStatus, LoggingEnabled
from mallee.walrus.v1.access_log_pb2 import AccessRecord
from services.walrus import configs
from services.walrus.drivers.base import Bucket
from services.walrus.logging_calls import target_of
from services.walrus.put import put_object
from services.walrus.store import Store

_KIND: Final = configs.kind_of(BucketLoggingStatus)
_CHUNK: Final = 1 << 20
_log = get_logger(__name__)
_DELIVERED: Final = counter("mallee_walrus_access_logs", "Access logs by outcome: delivered or dropped", ("outcome",))


class AccessLog:
    """`run` delivers, without end. One per process and folder."""

    def __init__(self, store: Store, folder: Path, *, delivery_s: float) -> None:
        self._store = store
        self._folder = folder
        self._delivery_s = delivery_s
        self._changed = asyncio.Event()
        # Held while lines are written: what is on its way grows no more.
        self._files = asyncio.Lock()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def settings_changed(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def logged(self) -> AsyncIterator[list[str]]:
        """Names of the buckets whose requests are logged: now, and whenever they change."""
        told: list[str] | None = None
        while True:
            changed = self._changed
            names = [bucket.name for bucket in await self._store.index.buckets_with(_KIND)]
            if names != told:
                yield names
            told = names
            # Who was cancelled once a bucket was changed says nothing of it.
            with suppress(TimeoutError):
                async with asyncio.timeout(self._delivery_s):
                    await changed.wait()

    async def take(self, records: Iterable[AccessRecord]) -> None:
        lines: dict[int, list[str]] = defaultdict(list)
        for record in records:
            bucket = await self._store.index.find_bucket(record.bucket)
            if bucket is not None and _KIND in bucket.configs:
                lines[bucket.id].append(line_of(record, bucket.owner_id))
        async with self._files:
            for bucket_id, found in lines.items():
                path, text = self._folder / f"{bucket_id}.log", "".join(found)
                await to_the_end(partial(_append, path, text))

    async def run(self) -> None:
        while True:
            await self.deliver()
            await asyncio.sleep(self._delivery_s)

    async def deliver(self) -> None:
        """All that waits. What finds its target in trouble waits for the next time."""
        async with self._files:
            waiting = await to_the_end(partial(_take_up, self._folder, self._store.now_ms()))
        sources = {str(bucket.id): bucket for bucket in await self._store.index.buckets_with(_KIND)}
        for path in waiting:
            source = sources.get(path.stem.split("-")[0])
            try:
                outcome = await self._send(source, path) if source is not None else "dropped"
            except CloudError as error:
                _log.warning("an access log waits", bucket=source.name if source else "", cause=error.message)
                continue
            _DELIVERED.labels(outcome).inc()
            await asyncio.to_thread(path.unlink)

    async def _send(self, source: Bucket, path: Path) -> str:
        settings = configs.find(source, BucketLoggingStatus)
        target = await target_of(self._store, settings.logging_enabled) if settings else None
        if settings is None or target is None or target.account_id != source.account_id:
            _log.warning("an access log has no bucket to go to", bucket=source.name)
            return "dropped"
        _, made_ms, unique = path.stem.split("-")
        key = key_of(settings.logging_enabled, source, self._store.region, int(made_ms), unique)
        size = (await asyncio.to_thread(path.stat)).st_size
        header = object_pb2.PutObjectRequest(
            bucket=target.name, key=key, content_type="text/plain", content_length=size
        )
        owner = Caller(account_id=target.account_id, canonical_user_id=target.owner_id)
        if self._store.siblings.has(target.name):
            await self._store.siblings.put_object(_stream(header, path), target.name, owner)
        else:
            await put_object(self._store, _stream(header, path), owner)
        return "delivered"


async def _stream(header: object_pb2.PutObjectRequest, path: Path) -> AsyncIterator[object_pb2.PutObjectStream]:
    yield object_pb2.PutObjectStream(header=header)
    for start in range(0, header.content_length, _CHUNK):
        yield object_pb2.PutObjectStream(chunk=await asyncio.to_thread(_read, path, start))
    yield object_pb2.PutObjectStream(end=body_pb2.BodyEnd(length=header.content_length))


def _append(path: Path, text: str) -> None:
    with path.open("ab", buffering=0) as file:
        file.write(text.encode())


def _take_up(folder: Path, now_ms: int) -> list[Path]:
    """Files that are to be sent: those of an earlier time, and what has gathered since."""
    for path in folder.glob("*.log"):
        path.rename(path.with_name(f"{path.stem}-{now_ms}-{secrets.token_hex(8).upper()}.sending"))
    return sorted(folder.glob("*.sending"))


def _read(path: Path, start: int) -> bytes:
    with path.open("rb") as file:
        return os.pread(file.fileno(), _CHUNK, start)


def key_of(settings: LoggingEnabled, source: Bucket, region: str, made_ms: int, unique: str) -> str:
    """https://docs.aws.amazon.com/AmazonS3/latest/userguide/ServerLogs.html#server-log-keyname-format"""
    made = datetime.fromtimestamp(made_ms / 1000, UTC)
    name = f"{made:%Y-%m-%d-%H-%M-%S}-{unique}"
    if settings.target_object_key_format.HasField("partitioned_prefix"):
        name = f"{source.account_id}/{region}/{source.name}/{made:%Y/%m/%d}/{name}"
    return settings.target_prefix + name


def line_of(record: AccessRecord, owner_id: str) -> str:
    """https://docs.aws.amazon.com/AmazonS3/latest/userguide/LogFormat.html"""
    time = datetime.fromtimestamp(record.time.seconds, UTC)
    size = str(record.object_bytes) if record.HasField("object_bytes") else "-"
    fields = [
        owner_id,
        record.bucket,
        f"[{time:%d/%b/%Y:%H:%M:%S} +0000]",
        _word(record.remote_ip),
        _word(record.requester),
        _word(record.request_id),
        _word(record.operation),
        _word(record.key),
        _quoted(record.request_line),
        str(record.status or "-"),
        _word(record.error_code),
        str(record.sent_bytes or "-"),
        size,
        str(record.total_ms),
        str(record.turnaround_ms),
        _quoted(record.referer),
        _quoted(record.user_agent),
        _word(record.version_id),
        _word(record.host_id),
        _word(record.signature_version),
        # Cipher suite.
        "-",
        _word(record.authentication_type),
        _word(record.host),
        # TLS version, access point and whether an ACL was required.
        "-",
        "-",
        "-",
    ]
    return " ".join(fields) + "\n"


def _word(text: str) -> str:
    """A client must not end a field or a line."""
    return "".join("?" if one.isspace() or not one.isprintable() else one for one in text) or "-"


def _quoted(text: str) -> str:
    if not text:
        return "-"
    return '"' + "".join(one if one.isprintable() else "?" for one in text).replace('"', "%22") + '"'
