"""The request of one REST action: where each member stands (path, query, header, prefixed headers, body)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from botocore.model import ListShape, Shape, StructureShape
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from common.errors import CloudError, InvalidArgument
from ec2_facade.protocol import query_parse
from ec2_facade.protocol.model import Operation, descriptor_of, members
from ec2_facade.protocol.parse_xml import XmlParser
from ec2_facade.protocol.rest_route import not_implemented
from ec2_facade.protocol.text import parse_date

# A recipient must ignore these when they are no dates (RFC 9110, 13.1.3 and 13.1.4).
_CONDITIONS: Final = frozenset({"if-modified-since", "if-unmodified-since"})
# Numbers that S3 takes for not sent where nothing is written after their `=`.
_MAY_BE_EMPTY: Final = frozenset({"max-parts", "part-number-marker"})

# Presigned requests carry S3's own headers in the query.
_S3_PREFIX: Final = "x-amz-"

# But these say nothing to an action.
_OF_SIGNATURE: Final = frozenset(
    f"X-Amz-{name}" for name in ("Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature")
)

# S3 takes no notice of digests there: what SDKs presign without a body tells that of nothing (`AAAAAA==`).
# https://github.com/aws/aws-sdk-go-v2/issues/2610 and https://github.com/aws/aws-sdk/issues/480
_OF_NO_BODY: Final = frozenset(
    {
        "x-amz-sdk-checksum-algorithm",
        *(f"x-amz-checksum-{name}" for name in ("crc32", "crc32c", "crc64nvme", "sha1", "sha256")),
    }
)

# Of a header (RFC 9110, 5.6.2), in lower case.
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+\Z")

_ITEM: Final = re.compile(r'\s*"((?:\\"|[^"])*)"\s*(?=,|$)|([^,]*)')

# Puts one member's text into the message.
Put = Callable[[Message, str], None]


class RequestParser:
    """Compiled once per action."""

    def __init__(self, operation: Operation) -> None:
        self._class = operation.request_class
        self._labels: dict[str, str] = {}
        self._query: dict[str, Put] = {}
        self._headers: dict[str, Put] = {}
        self._prefixes: list[tuple[str, str]] = []
        self._xml: tuple[str, XmlParser] | None = None
        self._raw: FieldDescriptor | None = None
        self._body_required = False
        shape = operation.model.input_shape
        for member, member_shape, field in members(shape, descriptor_of(self._class)):
            self._bind(member, member_shape, field)
        if isinstance(shape, StructureShape):
            self._bind_payload(shape)

    def parse(
        self, bucket: str | None, key: str | None, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
    ) -> Message:
        message = self._class()
        for label, attribute in self._labels.items():
            value = bucket if label == "Bucket" else key
            if value is not None:
                setattr(message, attribute, value)
        for name, value in query.items():
            if (put := self._query.get(name)) is not None:
                put(message, value)
        self._parse_headers(message, query, headers)
        self._parse_body(message, body)
        return message

    def _parse_headers(self, message: Message, query: Mapping[str, str], headers: Mapping[str, str]) -> None:
        given = headers
        if not query.keys() <= _OF_SIGNATURE:
            asked = [(name.lower(), value) for name, value in query.items() if name not in _OF_SIGNATURE]
            told = {name: value for name, value in asked if name.startswith(_S3_PREFIX) and name not in _OF_NO_BODY}
            given = told | dict(headers)
        for name, value in given.items():
            try:
                self._parse_header(message, name, value)
            except UnicodeEncodeError:
                raise invalid_argument(name, value, "string in UTF-8") from None

    def _parse_header(self, message: Message, name: str, value: str) -> None:
        if put := self._headers.get(name):
            put(message, value)
            return
        for prefix, attribute in self._prefixes:
            if name.startswith(prefix) and len(name) > len(prefix):
                if not _NAME.match(name):
                    # Out of a form or a query: no answer could show it.
                    raise invalid_argument(name, value, "header")
                getattr(message, attribute)[name[len(prefix) :]] = value

    def _parse_body(self, message: Message, body: bytes) -> None:
        if self._raw is not None:
            is_text = self._raw.type == FieldDescriptor.TYPE_STRING
            setattr(message, self._raw.name, _text(body) if is_text else body)
        if self._xml is None:
            return
        attribute, parser = self._xml
        if body.strip():
            inner = getattr(message, attribute)
            inner.SetInParent()
            parser.parse(body, inner)
        elif self._body_required:
            raise InvalidArgument("Request Body is empty", code="MissingRequestBodyError")

    def _bind(self, member: str, shape: Shape, field: FieldDescriptor | None) -> None:
        name = str(shape.serialization.get("name", member))
        match shape.serialization.get("location"):
            case "uri" if field is not None:
                self._labels[name] = field.name
            case "querystring":
                self._query[name] = _put(name, shape, field)
            case "header":
                self._headers[name.lower()] = _put(name, shape, field)
            case "headers" if field is not None:
                self._prefixes.append((name.lower(), field.name))

    def _bind_payload(self, shape: StructureShape) -> None:
        payload = shape.serialization.get("payload")
        for member, member_shape, field in members(shape, descriptor_of(self._class)):
            # An object's bytes are no field: they are the stream.
            if member != payload or field is None:
                continue
            if not isinstance(member_shape, StructureShape):
                self._raw = field
                continue
            assert field.message_type is not None
            root = str(member_shape.serialization.get("name", member_shape.name))
            self._xml = (field.name, XmlParser(root, member_shape, field.message_type))
            self._body_required = member in shape.required_members


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise InvalidArgument("The body is not UTF-8", code="InvalidArgument") from None


def _put(name: str, shape: Shape, field: FieldDescriptor | None) -> Put:
    if field is None:

        def refuse(_message: Message, _value: str) -> None:
            raise not_implemented(name)

        return refuse
    attribute = field.name
    if field.message_type is not None:
        return _put_date(name, attribute)
    convert: Callable[[str, str], Any] = query_parse.scalar(field, any_text=True)
    is_list = isinstance(shape, ListShape)

    def put(message: Message, value: str) -> None:
        if not value and name in _MAY_BE_EMPTY:
            return
        try:
            if is_list:
                getattr(message, attribute).extend(convert(item, name) for item in _items(value))
            else:
                setattr(message, attribute, convert(value, name))
        except InvalidArgument:
            raise invalid_argument(name, value, shape.type_name) from None

    return put


def _items(value: str) -> list[str]:
    """Of a list in a header: an item with a comma or a quote in it stands in quotes."""
    found = []
    position = 0
    while position <= len(value):
        item = _ITEM.match(value, position)
        assert item is not None
        found.append(item[1].replace('\\"', '"') if item[1] is not None else item[2].strip())
        position = item.end() + 1
    return found


def _put_date(name: str, attribute: str) -> Put:
    def put(message: Message, value: str) -> None:
        moment = parse_date(value)
        if moment is not None:
            getattr(message, attribute).CopyFrom(moment)
        elif name.lower() not in _CONDITIONS:
            raise invalid_argument(name, value, "timestamp")

    return put


def invalid_argument(name: str, value: str, type_name: str) -> CloudError:
    message = f"Provided {name} is not a valid {type_name}"
    if type_name in ("integer", "long"):
        message = f"Provided {name} not an integer or within integer range"
    details = {"ArgumentName": _shown(name), "ArgumentValue": _shown(value[:200])}
    return InvalidArgument(_shown(message), details=details, code="InvalidArgument")


def _shown(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
