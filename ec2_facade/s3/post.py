"""PostObject: a browser's form brings an object, allowed by the policy that somebody signed for it, or by the bucket.

https://docs.aws.amazon.com/AmazonS3/latest/API/RESTObjectPOST.html. Walrus sees a PutObject; the file is never held.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from google.protobuf.message import Message

from common.errors import InvalidArgument
from ec2_facade.auth.payload import Framing, Payload
from ec2_facade.errors import Refused
from ec2_facade.exchange import Exchange
from ec2_facade.limits import Limits
from ec2_facade.protocol import Operation, Response, RestXmlProtocol
from ec2_facade.protocol.text import element
from ec2_facade.s3.address import Address, url_of
from ec2_facade.s3.admission import need_fields
from ec2_facade.s3.content import Content
from ec2_facade.s3.form import FIELDS_BYTES, Form, boundary_of
from ec2_facade.s3.form_policy import FormPolicy, read_policy
from ec2_facade.wire import WireRequest

# Fields that are an object's headers by the same name, and those whose header is called otherwise.
_HEADERS: Final = frozenset(
    {
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-md5",
        "content-type",
        "expires",
        "x-amz-checksum-algorithm",
    }
)
_RENAMED: Final = {"acl": "x-amz-acl"}
# Fields of the signature and of the answer.
_NO_HEADERS: Final = frozenset(
    {"x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-signature", "x-amz-security-token"}
)
# What the form itself is told; `file` is the object's bytes.
OWN_FIELDS: Final = _NO_HEADERS | {
    "awsaccesskeyid",
    "file",
    "key",
    "policy",
    "redirect",
    "signature",
    "success_action_redirect",
    "success_action_status",
}
_FILENAME: Final = "${filename}"
_STATUSES: Final = {"200": 200, "201": 201}
# The frame around fields and file.
_FRAME_BYTES: Final = 64 << 10


def begin_form(exchange: Exchange, limits: Limits) -> Form:
    """Raises Refused for a body that cannot be one."""
    boundary = boundary_of(exchange.wire)
    if boundary is None:
        condition = "Bucket POST must be of the enclosure-type multipart/form-data"
        message = "At least one of the pre-conditions you specified did not hold"
        raise Refused("PreconditionFailed", message, status=412, details={"Condition": condition})
    length = exchange.body.announced
    if length is None:
        raise Refused("MissingContentLength", "You must provide the Content-Length HTTP header.", status=411)
    if length > limits.object_bytes + FIELDS_BYTES + _FRAME_BYTES:
        raise _too_large(length, limits.object_bytes)
    return Form(exchange.body.pieces(), boundary)


def expanded(form: Form) -> dict[str, str]:
    """The fields, with the file's name where they ask for it."""
    return {name: value.replace(_FILENAME, form.filename) for name, value in form.fields.items()}


def check_fields(fields: Mapping[str, str], bucket: str, *, now: datetime) -> FormPolicy | None:
    """Against the form's policy; None where it has none. Raises Refused."""
    need_fields(fields, "key")
    if not fields["key"]:
        message = "User key must have a length greater than 0."
        details = {"ArgumentName": "key", "ArgumentValue": ""}
        raise Refused("InvalidArgument", message, status=400, details=details)
    if "policy" not in fields:
        return None
    policy = read_policy(fields["policy"])
    policy.check({**fields, "bucket": bucket}, now=now)
    return policy


def field_of(header: str) -> str | None:
    """The field that brings what PutObject has in this header; None: no field does."""
    if header == "x-amz-tagging":
        return "tagging"
    renamed = {header: name for name, header in _RENAMED.items()}
    if header in renamed:
        return renamed[header]
    return header if header in _HEADERS or header.startswith("x-amz-") else None


def put_request(protocol: RestXmlProtocol, operation: Operation, bucket: str, fields: Mapping[str, str]) -> Message:
    """PutObject's header. Raises CloudError."""
    headers = {
        _RENAMED.get(name, name): value
        for name, value in fields.items()
        if name in _HEADERS or name in _RENAMED or (name.startswith("x-amz-") and name not in _NO_HEADERS)
    }
    if "tagging" in fields:
        headers["x-amz-tagging"] = _tags(protocol, fields["tagging"])
    return protocol.parse(operation, bucket, fields["key"], {}, headers)


def file_content(form: Form, policy: FormPolicy | None, limits: Limits) -> Content:
    """The file's bytes; fails while they stream if they are more, and at their end if they are less than allowed."""
    least, most = (policy.least_bytes, policy.most_bytes) if policy else (0, None)
    most = limits.object_bytes if most is None else min(most, limits.object_bytes)
    payload = Payload(framing=Framing.UNSIGNED, hash="", length=None)
    return Content(_measured(form, least, most), payload, None)


async def _measured(form: Form, least: int, most: int) -> AsyncIterator[bytes]:
    size = 0
    async for part in form.file():
        size += len(part)
        if size > most:
            raise _too_large(size, most)
        yield part
    if size < least:
        raise Refused(
            "EntityTooSmall",
            "Your proposed upload is smaller than the minimum allowed size",
            status=400,
            details={"ProposedSize": str(size), "MinSizeAllowed": str(least)},
        )


def _too_large(size: int, most: int) -> Refused:
    return Refused(
        "EntityTooLarge",
        "Your proposed upload exceeds the maximum allowed size",
        status=400,
        details={"ProposedSize": str(size), "MaxSizeAllowed": str(most)},
    )


def answer(stored: Response, wire: WireRequest, address: Address, fields: Mapping[str, str]) -> Response:
    """As the form wants it: somewhere else, the object's address as XML, or nothing. `stored`: what a PUT would get."""
    bucket, key = address.bucket or "", fields["key"]
    etag = next((value for name, value in stored.headers if name.lower() == "etag"), "")
    headers = [pair for pair in stored.headers if pair[0].lower() != "content-type"]
    target = fields.get("success_action_redirect") or fields.get("redirect") or ""
    if _is_address(target):
        told = urlencode({"bucket": bucket, "key": key, "etag": etag}, quote_via=quote)
        location = f"{target}{'&' if urlsplit(target).query else '?'}{told}"
        return Response(status=303, headers=[*headers, ("Location", location)])
    location = url_of(wire, address._replace(key=key))
    headers.append(("Location", location))
    status = _STATUSES.get(fields.get("success_action_status", ""), 204)
    if status != 201:
        return Response(status=status, headers=headers)
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<PostResponse>{element('Location', location)}{element('Bucket', bucket)}{element('Key', key)}"
        f"{element('ETag', etag)}</PostResponse>"
    )
    return Response(status=status, headers=[*headers, ("Content-Type", "application/xml")], body=body.encode())


def _is_address(text: str) -> bool:
    """Of the web, and fit to stand in a header. S3 takes no notice of any other."""
    if not text.isascii() or not text.isprintable() or " " in text:
        return False
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def _tags(protocol: RestXmlProtocol, xml: str) -> str:
    """The document of PutBucketTagging as the header of PutObject has it."""
    operation = protocol.contract.operations["PutBucketTagging"]
    parsed: Any = protocol.parse(operation, "", None, {}, {}, xml.encode())
    if not xml.strip():
        raise InvalidArgument("The tagging field is empty", code="InvalidArgument")
    return urlencode([(tag.key, tag.value) for tag in parsed.tagging.tag_set], quote_via=quote)
