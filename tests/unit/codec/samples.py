"""Random valid values of AWS's shapes, cut to what the contract has, and the same values as protobuf messages."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, Final

from botocore.model import ListShape, MapShape, Shape, StructureShape
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

from ec2_facade.protocol.model import accepted_values, descriptor_of, members

# XML 1.0's characters but for the carriage return and what lies outside the Basic Multilingual Plane by chance.
TEXT: Final = st.text(
    st.one_of(
        st.characters(min_codepoint=0x20, max_codepoint=0x7E),
        st.sampled_from("\t\r\néß€漢😀"),
    ),
    max_size=12,
)
# What a header carries unchanged.
HEADER: Final = st.from_regex(r"[!-~]([ -~]{0,10}[!-~])?", fullmatch=True)
HEADER_NAME: Final = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)
BUCKET: Final = st.from_regex(r"[a-z0-9][a-z0-9.-]{1,20}[a-z0-9]", fullmatch=True)
MOMENT: Final = st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2040, 1, 1)).map(
    lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
)
_LIMITS: Final = {"integer": (-(2**31), 2**31 - 1), "long": (-(2**63), 2**63 - 1)}


def values(shape: StructureShape | None, message: type[Message]) -> st.SearchStrategy[dict[str, Any]]:
    """Values that the contract can express: required members always, the others at random.

    Lists and inner structures are never empty: in a query they would not be there.
    """
    return _structure(shape, message)


def _structure(shape: Shape | None, message: type[Message]) -> st.SearchStrategy[dict[str, Any]]:
    required: dict[str, st.SearchStrategy[Any]] = {}
    optional: dict[str, st.SearchStrategy[Any]] = {}
    for name, member, field in members(shape, descriptor_of(message)):
        accepted = accepted_values(field) if field is not None else None
        if field is None or accepted == frozenset():
            continue
        strategy = _value(member, field)
        if accepted is not None:
            strategy = st.sampled_from([_typed(member, value) for value in sorted(accepted)])
        needed = isinstance(shape, StructureShape) and name in shape.required_members
        (required if needed else optional)[name] = strategy
    return st.fixed_dictionaries(required, optional=optional)


def _typed(shape: Shape, accepted: str) -> Any:
    """As botocore takes it, a value that the contract spells as text."""
    match shape.type_name:
        case "boolean":
            return accepted == "true"
        case "integer" | "long":
            return int(accepted)
    return accepted


def _value(shape: Shape, field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if isinstance(shape, ListShape):
        return st.lists(_value(shape.member, field), min_size=1, max_size=2)
    if isinstance(shape, MapShape):
        return st.dictionaries(HEADER_NAME, HEADER, min_size=1, max_size=3)
    if isinstance(shape, StructureShape):
        assert field.message_type is not None
        return _structure(shape, GetMessageClass(field.message_type)).filter(bool)
    match shape.type_name:
        case "integer" | "long":
            return st.integers(*_LIMITS[shape.type_name])
        case "boolean":
            return st.booleans()
        case "double" | "float":
            return st.floats(allow_nan=False, allow_infinity=False)
        case "timestamp":
            return MOMENT
        case "blob":
            return st.binary(max_size=20)
    return _string(shape)


def _string(shape: Shape) -> st.SearchStrategy[str]:
    if shape.name == "BucketName":
        return BUCKET
    if shape.name == "ObjectKey":
        return TEXT.filter(bool)
    return HEADER if shape.serialization.get("location") == "header" else TEXT


def fill(message: Message, shape: Shape | None, value: Mapping[str, Any]) -> Message:
    """Sets in `message` what `value` says in botocore's terms."""
    for name, member, field in members(shape, descriptor_of(message)):
        if field is None or name not in value:
            continue
        given = value[name]
        target = getattr(message, field.name)
        if isinstance(member, ListShape):
            for item in given:
                if isinstance(member.member, StructureShape):
                    fill(target.add(), member.member, item)
                else:
                    target.append(item)
        elif isinstance(member, MapShape):
            for key, item in given.items():
                target[key] = item
        elif isinstance(member, StructureShape):
            target.SetInParent()
            fill(target, member, given)
        elif member.type_name == "timestamp" and field.message_type is not None:
            target.FromDatetime(given)
        elif member.type_name == "timestamp":
            setattr(message, field.name, format_datetime(given, usegmt=True))
        else:
            setattr(message, field.name, given)
    return message
