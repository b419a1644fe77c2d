"""The headers of one REST action's answer, and whether a body goes with them."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Any, Final

from botocore.model import Shape
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from ec2_facade.protocol.model import Operation, Stream, descriptor_of, members
from ec2_facade.protocol.text import http_date, iso8601

# Never in a header, wherever the text came from: it would end it and begin another.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

# The text of a field in its header.
Text = Callable[[Any], str]

# AWS's model says otherwise.
_STATUSES: Final = {"PutBucketTagging": 204}


class ResponseHeaders:
    """Compiled once per action."""

    def __init__(self, operation: Operation) -> None:
        self.status = _STATUSES.get(operation.name) or int(operation.model.http.get("responseCode", 200))
        self.has_body = has_body(operation)
        self._fields: dict[FieldDescriptor, tuple[str, Text]] = {}
        # Fields of which each entry is a header, and what these begin with.
        self._prefixed: dict[FieldDescriptor, str] = {}
        descriptor = descriptor_of(operation.response_class)
        for member, shape, field in members(operation.model.output_shape, descriptor):
            if field is None:
                continue
            name = str(shape.serialization.get("name", member))
            match shape.serialization.get("location"):
                case "header":
                    self._fields[field] = name, _text(shape, field)
                case "headers":
                    self._prefixed[field] = name

    def render(self, message: Message) -> list[tuple[str, str]]:
        """In the contract's order, those that are set."""
        headers: list[tuple[str, str]] = []
        for field, value in message.ListFields():
            if (known := self._fields.get(field)) is not None:
                name, text = known
                headers.append((name, _one_line(text(value))))
            elif (prefix := self._prefixed.get(field)) is not None:
                headers += [(prefix + key, _word(_one_line(value[key]))) for key in value]
        return headers


def has_body(operation: Operation) -> bool:
    """The output has a member that is no header, and is not an object's bytes."""
    shape = operation.model.output_shape
    if shape is None or operation.stream is Stream.DOWNLOAD:
        return False
    return any("location" not in member.serialization for member in shape.members.values())


def payload(operation: Operation) -> tuple[str, Shape, FieldDescriptor] | None:
    """(member, its shape, its field) where one member is the whole body."""
    shape = operation.model.output_shape
    name = shape.serialization.get("payload") if shape is not None else None
    for member, member_shape, field in members(shape, descriptor_of(operation.response_class)):
        if member == name and field is not None:
            return member, member_shape, field
    return None


def _one_line(text: str) -> str:
    return text if text.isprintable() else _CONTROL.sub(" ", text)


def _word(value: str) -> str:
    """Beyond ASCII as RFC 2047 has it. (S3 User Guide, "Working with object metadata".)"""
    return value if value.isascii() else f"=?UTF-8?B?{base64.b64encode(value.encode()).decode()}?="


def _text(shape: Shape, field: FieldDescriptor) -> Text:
    if field.message_type is not None:
        return iso8601 if shape.serialization.get("timestampFormat") == "iso8601" else http_date
    if field.type == FieldDescriptor.TYPE_BOOL:
        return lambda value: "true" if value else "false"
    return str
