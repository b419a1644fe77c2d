"""The steps of an S3 request: address, head proved, action found, then one of three kinds of body."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Final

from aiohttp import web
from google.protobuf.message import Message

from common.errors import Denied
from common.rpc import context as rpc_context
from ec2_facade.auth.authenticate import utc_now
from ec2_facade.auth.canonical import EMPTY_SHA256, UNSIGNED_PAYLOAD
from ec2_facade.auth.mechanisms import Authentication
from ec2_facade.auth.payload import Payload
from ec2_facade.backends import Backends
from ec2_facade.body import HeldBytes
from ec2_facade.errors import Refused
from ec2_facade.exchange import Exchange
from ec2_facade.limits import Limits, Transfers
from ec2_facade.protocol import Operation, Response, RestXmlProtocol, Stream
from ec2_facade.s3 import post
from ec2_facade.s3.address import Address, read_address, read_query, url_of
from ec2_facade.s3.admission import Admission, Proved, names_nobody
from ec2_facade.s3.content import Content
from ec2_facade.s3.cors import Cors
from ec2_facade.s3.digest import check_body, check_upload
from ec2_facade.s3.download import download
from ec2_facade.s3.patience import TAKE_LONG, answer_in_time
from ec2_facade.s3.upload import upload
from ec2_facade.s3.website import Website, website_of_host
from ec2_facade.services import Endpoint, bare_host
from ec2_facade.wire import WireRequest
from mallee.s3.v1.multipart_pb2 import CompleteMultipartUploadOutput

_CHUNKED: Final = "aws-chunked"
_READS: Final = ("GetObject", "HeadObject")
_CHECKSUM: Final = "x-amz-checksum-"
_ALGORITHM: Final = "x-amz-sdk-checksum-algorithm"
# They tell where the bucket is, beside what they are asked for; as HeadBucket does, all three also who is refused.
_LISTS: Final = ("ListObjects", "ListObjectsV2")
_ENCRYPTION: Final = "x-amz-server-side-encryption"


class S3Pipeline:
    def __init__(
        self,
        protocol: RestXmlProtocol,
        authentication: Authentication,
        backends: Backends,
        limits: Limits,
        endpoint: Endpoint,
    ) -> None:
        self._protocol = protocol
        self._admission = Admission(authentication, endpoint.s3_hosts())
        self._backends = backends
        self._limits = limits
        self._endpoint = endpoint
        self._region = ("x-amz-bucket-region", endpoint.region)
        self._hosts = endpoint.s3_hosts()
        self._cors = Cors(backends)
        self._website = Website(protocol, backends, limits)
        # Room of their own, so that strangers take none from those who are known.
        self._held_of_strangers = HeldBytes(limits.strangers_held_bytes)
        self._transfers = Transfers(limits.transfers)

    async def answer(self, exchange: Exchange) -> web.StreamResponse:
        wire = exchange.wire
        if site := await self._site(wire):
            exchange.wants_page = True
        address = Address(bucket=site, key=None) if site else read_address(wire, self._hosts)
        exchange.bucket, exchange.key = address.bucket or "", address.key
        if wire.method == "OPTIONS":
            return await self._cors.preflight(exchange, address)
        await self._cors.tell(exchange, address)
        if site:
            return await self._website.answer(exchange, site)
        if address.bucket and address.key is None and wire.method == "POST" and not wire.raw_query:
            return await self._post(exchange, address)
        proved = await self._admission.admit(wire)
        exchange.account_id, exchange.caller = proved.caller.account_id, proved.caller
        query, headers = read_query(wire), object_headers(wire, proved.payload)
        operation = self._protocol.route(wire.method, address.bucket, address.key, query, headers)
        exchange.action = operation.name
        _check_reading(operation, headers)

        def parse(body: bytes = b"") -> Message:
            return self._protocol.parse(operation, address.bucket, address.key, query, headers, body)

        with rpc_context.bind(caller=proved.caller):
            match operation.stream:
                case Stream.UPLOAD:
                    check_upload(headers, proved.payload)
                    return await self._upload(exchange, operation, parse(), proved)
                case Stream.DOWNLOAD:
                    with self._transfers:
                        return await download(
                            exchange, self._backends, self._protocol, operation, parse(), self._limits
                        )
                case Stream.NONE:
                    await exchange.invite_body()
                    body, trailers = await self._read_xml(exchange, proved)
                    check_body(operation, body, headers, trailers)
                    return await self._answer(exchange, operation, parse(body), address)

    async def _answer(
        self, exchange: Exchange, operation: Operation, request: Message, address: Address
    ) -> web.StreamResponse:
        def render(answer: Message) -> Response:
            if isinstance(answer, CompleteMultipartUploadOutput):
                answer.location = url_of(exchange.wire, address)
            return self._protocol.render(operation, answer, exchange.request_id)

        if operation.name in TAKE_LONG:
            call = self._backends.call(operation, request, timeout_s=self._limits.long_s)
            return await answer_in_time(exchange, call, render, self._limits)
        try:
            answer = await self._backends.call(operation, request, timeout_s=self._limits.commit_s)
        except Denied:
            if operation.name in (*_LISTS, "HeadBucket"):
                exchange.headers.append(self._region)
            raise
        if operation.name in _LISTS:
            exchange.headers.append(self._region)
        return await exchange.send(render(answer))

    async def _site(self, wire: WireRequest) -> str | None:
        """The bucket of a website. A host that is called as its bucket is one to browsers, if the bucket is."""
        host = bare_host(wire.host)
        if self._hosts.is_own(host):
            browses = wire.method in ("GET", "HEAD") and names_nobody(wire)
            return host if browses and await self._website.stands(host) else None
        return website_of_host(host, self._endpoint.domains, self._endpoint.region)

    async def _upload(
        self, exchange: Exchange, operation: Operation, header: Message, proved: Proved
    ) -> web.StreamResponse:
        _check_length(proved.payload, self._limits)
        with self._transfers:
            content = Content(exchange.body.pieces(), proved.payload, proved.identified)
            invite = exchange.invite_body if exchange.expects_continue else None
            answer = await upload(self._backends, operation, header, content, self._limits, invite=invite)
        return await exchange.send(self._protocol.render(operation, answer, exchange.request_id))

    async def _post(self, exchange: Exchange, address: Address) -> web.StreamResponse:
        """A browser's form. What it says of its sender stands in the body, so that is asked for first."""
        exchange.action = "PostObject"
        operation = self._protocol.contract.operations["PutObject"]
        form = post.begin_form(exchange, self._limits)
        await exchange.invite_body()
        await form.read_fields()
        fields, bucket = post.expanded(form), address.bucket or ""
        caller = await self._admission.admit_form(exchange.wire, form.fields)
        exchange.account_id, exchange.caller = caller.account_id, caller
        policy = post.check_fields(fields, bucket, now=utc_now())
        header = post.put_request(self._protocol, operation, bucket, fields)
        content = post.file_content(form, policy, self._limits)
        with rpc_context.bind(caller=caller), self._transfers:
            stored = await upload(self._backends, operation, header, content, self._limits, invite=exchange.invite_body)
            await form.read_rest()
        rendered = self._protocol.render(operation, stored, exchange.request_id)
        return await exchange.send(post.answer(rendered, exchange.wire, address, fields))

    async def _read_xml(self, exchange: Exchange, proved: Proved) -> tuple[bytes, dict[str, str]]:
        if exchange.body.empty and proved.payload.hash in (UNSIGNED_PAYLOAD, EMPTY_SHA256):
            return b"", {}
        held = self._held_of_strangers if proved.anonymous else None
        raw = await exchange.body.whole(self._limits.xml_bytes, held=held)

        async def once() -> AsyncIterator[bytes]:
            yield raw

        content = Content(once(), proved.payload, proved.identified)
        body = b"".join([chunk async for chunk in content.chunks(self._limits.xml_bytes)])
        return body, content.trailers


def object_headers(wire: WireRequest, payload: Payload) -> dict[str, str]:
    """As they describe the object: its own length, and without the framing that the body came in."""
    headers: dict[str, str] = {}
    for name, value in wire.headers:
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    if payload.framing.chunked:
        headers["content-length"] = str(payload.length)
    for name in sorted(payload.trailer_names):
        if name.startswith(_CHECKSUM):
            # Some clients (AWS's CRT) announce the checksum that follows in x-amz-trailer alone.
            headers.setdefault(_ALGORITHM, name.removeprefix(_CHECKSUM).upper())
    if (encoding := headers.pop("content-encoding", "")) and (kept := _without_framing(encoding)):
        headers["content-encoding"] = kept
    return headers


def _without_framing(encoding: str) -> str:
    """Written as the client wrote it, where nothing is to be taken out."""
    codings = [coding.strip() for coding in encoding.split(",")]
    kept = [coding for coding in codings if coding.lower() != _CHUNKED]
    return ",".join(kept) if len(kept) < len(codings) else encoding


def _check_reading(operation: Operation, headers: Mapping[str, str]) -> None:
    """A reader does not choose how the object is encrypted: AWS refuses the header, though nothing comes of it."""
    if operation.name in _READS and (method := headers.get(_ENCRYPTION)):
        raise Refused(
            "InvalidArgument",
            f"{_ENCRYPTION} header is not supported for this operation.",
            status=400,
            details={"ArgumentName": _ENCRYPTION, "ArgumentValue": method},
        )


def _check_length(payload: Payload, limits: Limits) -> None:
    if payload.length is None:
        raise Refused("MissingContentLength", "You must provide the Content-Length HTTP header.", status=411)
    if payload.length > limits.object_bytes:
        raise Refused(
            "EntityTooLarge",
            "Your proposed upload exceeds the maximum allowed size",
            status=400,
            details={"ProposedSize": str(payload.length), "MaxSizeAllowed": str(limits.object_bytes)},
        )
