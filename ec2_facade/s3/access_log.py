"""Notes the requests of buckets that are logged, and passes the notes on to Walrus, which knows which ones are.

A note waits here for a moment at most; more than a fixed number of them are dropped and counted, as S3's own logs are
best effort.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, unquote

from google.protobuf.timestamp_pb2 import Timestamp

from common.errors import CloudError
from common.log import get_logger
from common.metrics import counter
from common.rpc.channel import cloud_errors
from common.shards import Shards
from ec2_facade.backends import Channels
from ec2_facade.exchange import Exchange
from ec2_facade.protocol.errors import s3_host_id
from ec2_facade.wire import WireRequest, to_bytes
from mallee.walrus.v1 import access_log_pb2 as pb
from mallee.walrus.v1.access_log_pb2_grpc import AccessLogServiceStub

_RETRY_S: Final = 0.5
# So that a busy bucket's notes travel together.
_GATHER_S: Final = 0.2
_AT_ONCE: Final = 500
_WAITING: Final = 20_000
_SHOWN: Final = 2048
_log = get_logger(__name__)
_DROPPED: Final = counter("mallee_http_access_records_dropped", "Access records that found no room or no Walrus")

# Action -> what logs call it, where method and subresource do not say it.
_OPERATIONS: Final = {
    "CopyObject": "REST.COPY.OBJECT",
    "UploadPart": "REST.PUT.PART",
    "UploadPartCopy": "REST.COPY.PART",
    "CreateMultipartUpload": "REST.POST.UPLOADS",
    "CompleteMultipartUpload": "REST.POST.UPLOAD",
    "AbortMultipartUpload": "REST.DELETE.UPLOAD",
    "ListParts": "REST.GET.UPLOAD",
    "DeleteObjects": "REST.POST.MULTI_OBJECT_DELETE",
    "PostObject": "REST.POST.OBJECT",
    "GetObjectTagging": "REST.GET.OBJECT_TAGGING",
    "PutObjectTagging": "REST.PUT.OBJECT_TAGGING",
    "DeleteObjectTagging": "REST.DELETE.OBJECT_TAGGING",
    "ListObjectVersions": "REST.GET.BUCKETVERSIONS",
    "ListMultipartUploads": "REST.GET.UPLOADS",
}
# Of a query, in lower case.
_SECRET: Final = frozenset(
    {
        "signature",
        "x-amz-signature",
        "x-amz-server-side-encryption-customer-key",
        "x-amz-copy-source-server-side-encryption-customer-key",
    }
)
_AUTHENTICATION: Final = {"REST-HEADER": "AuthHeader", "REST-QUERY-STRING": "QueryString", "POST": "PostRequest"}
_SIGNATURE: Final = {"AWS4-HMAC-SHA256": "SigV4", "AWS": "SigV2"}


class AccessLogs:
    """`run` works, without end; `note` is asked about every request and must cost nothing for buckets not logged."""

    def __init__(self, walrus: Channels, shards: Shards) -> None:
        self._shards = shards
        # What one Walrus that is away holds up concerns its own buckets alone.
        self._logs = [_AccessLog(walrus, member) for member in shards]

    def note(self, exchange: Exchange, took_s: float) -> None:
        self._logs[self._shards.shard_of(exchange.bucket)].note(exchange, took_s)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for log in self._logs:
                tasks.create_task(log.run(), name="access log")


class _AccessLog:
    def __init__(self, walrus: Channels, member: str) -> None:
        self._walrus = walrus
        self._member = member
        self._logged: frozenset[str] = frozenset()
        self._records: deque[pb.AccessRecord] = deque()
        self._news = asyncio.Event()

    def note(self, exchange: Exchange, took_s: float) -> None:
        if exchange.bucket not in self._logged:
            return
        if len(self._records) >= _WAITING:
            _DROPPED.inc()
            return
        self._records.append(record_of(exchange, took_s))
        self._news.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(), name="logged buckets")
            tasks.create_task(self._pass_on(), name="access records")

    async def _follow(self) -> None:
        while True:
            try:
                stub = AccessLogServiceStub(self._walrus.channel(self._member))
                with cloud_errors():
                    async for answer in stub.WatchLoggedBuckets(pb.WatchLoggedBucketsRequest()):
                        self._logged = frozenset(answer.buckets)
            except CloudError as error:
                # What is known stays: Walrus drops what is not wanted any more.
                _log.info("the stream of logged buckets broke", error=str(error))
            await asyncio.sleep(_RETRY_S * random.uniform(0.5, 1.5))

    async def _pass_on(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            await asyncio.sleep(_GATHER_S)
            while self._records:
                batch = [self._records[place] for place in range(min(_AT_ONCE, len(self._records)))]
                try:
                    stub = AccessLogServiceStub(self._walrus.channel(self._member))
                    await stub.WriteAccessLog(pb.WriteAccessLogRequest(records=batch))
                except CloudError as error:
                    _log.info("access records wait", error=str(error), records=len(self._records))
                    await asyncio.sleep(_RETRY_S)
                    continue
                for _ in batch:
                    self._records.popleft()


def record_of(exchange: Exchange, took_s: float) -> pb.AccessRecord:
    wire, caller, answer = exchange.wire, exchange.caller, _answer_headers(exchange)
    request = caller.request if caller is not None else None
    record = pb.AccessRecord(
        bucket=exchange.bucket,
        remote_ip=wire.source_ip,
        requester=_requester(exchange),
        request_id=exchange.request_id,
        operation=operation_of(exchange),
        key=quote(exchange.key, safe="/~") if exchange.key is not None else "",
        request_line=_text(f"{wire.method} {target_of(wire)} HTTP/1.1"),
        status=exchange.status,
        error_code=exchange.code,
        sent_bytes=exchange.sent_bytes,
        total_ms=round(took_s * 1000),
        turnaround_ms=round(exchange.turnaround_s * 1000),
        referer=_text((wire.header("referer") or "")[:_SHOWN]),
        user_agent=_text((wire.header("user-agent") or "")[:_SHOWN]),
        version_id=_text(answer.get("x-amz-version-id", "") or wire.query_value("versionId") or ""),
        host_id=s3_host_id(exchange.request_id),
        signature_version=_SIGNATURE.get(request.signature_version, "") if request else "",
        authentication_type=_AUTHENTICATION.get(request.auth_type, "") if request else "",
        host=_text(wire.host),
    )
    now = Timestamp()
    now.GetCurrentTime()
    record.time.CopyFrom(now)
    if (size := _object_bytes(exchange, answer)) is not None:
        record.object_bytes = size
    return record


def _text(sent: str) -> str:
    """What is no UTF-8 keeps no request out of the log."""
    return sent if sent.isascii() else to_bytes(sent).decode("utf-8", "replace")


def operation_of(exchange: Exchange) -> str:
    """https://docs.aws.amazon.com/AmazonS3/latest/userguide/LogFormat.html#log-record-fields: REST.METHOD.RESOURCE"""
    if known := _OPERATIONS.get(exchange.action):
        return known
    first = exchange.wire.raw_query.split("&", 1)[0]
    named = first and "=" not in first.rstrip("=") and first.rstrip("=").isalpha()
    level = "SERVICE" if not exchange.bucket else "BUCKET" if exchange.key is None else "OBJECT"
    return f"REST.{exchange.wire.method}.{first.rstrip('=').upper() if named else level}"


def _requester(exchange: Exchange) -> str:
    caller = exchange.caller
    if caller is None or caller.anonymous:
        return ""
    return caller.canonical_user_id if caller.arn.endswith(":root") else caller.arn


def target_of(wire: WireRequest) -> str:
    """As it was asked for, but for what is secret in the query."""
    query = wire.raw_query
    shown = "&".join(part.split("=")[0] + "=-" if _is_secret(part) else part for part in query.split("&"))
    return (wire.raw_path + ("?" + shown if query else ""))[:_SHOWN]


def _is_secret(parameter: str) -> bool:
    """A signature, which is a credential, or a key that an object is encrypted with. Names may be encoded, too."""
    return unquote(parameter.partition("=")[0]).lower() in _SECRET


def _answer_headers(exchange: Exchange) -> dict[str, str]:
    return {name.lower(): value for name, value in exchange.answer_headers}


def _object_bytes(exchange: Exchange, answer: Mapping[str, str]) -> int | None:
    """The whole object's, where the exchange has told it."""
    wire = exchange.wire
    if exchange.action in ("GetObject", "HeadObject") and exchange.status in (200, 206):
        whole = answer.get("content-range", "").rpartition("/")[2] or answer.get("content-length", "")
    elif exchange.action in ("PutObject", "UploadPart"):
        whole = wire.header("x-amz-decoded-content-length") or wire.header("content-length") or ""
    else:
        return None
    return int(whole) if whole.isdigit() else None
