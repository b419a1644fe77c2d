"""Dotted parameters into a message, strictly: what is not understood is refused by name, never dropped.

The parameters become a tree by their dots; parsers compiled once per shape walk it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from botocore.model import ListShape, MapShape, Shape, StringShape, StructureShape
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from common.errors import CloudError, InvalidArgument, Unsupported
from ec2_facade.protocol.model import Operation, accepted_values, descriptor_of, members
from ec2_facade.protocol.text import NOT_XML, parse_date

# A value, or what stands below a dot.
Node = dict[str, "Node | str"]
# Sets a field of the message from what stands below its name; the last argument is the name as the client wrote it.
Setter = Callable[[Message, "Node | str", str], None]
# Adds one element to a repeated field.
Scalar = Callable[[str, str], Any]
# What a structure's parameters do, and those it must have: by name, the latter with AWS's member.
Parser = tuple[dict[str, Setter], dict[str, str]]

# Of a parameter's name: deeper than any shape, and of a list: more elements than a request has parameters.
_MAX_DEPTH: Final = 20
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,5}")
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,20}")
# Lists that EC2 misses in words of their own: member → code and message.
_NONE_GIVEN: Final = {
    "InstanceIds": ("InvalidParameterCombination", "No instances specified"),
    "Tags": ("InvalidParameterValue", "You must specify one or more tags to create"),
}
_INTEGER_BITS: Final = {FieldDescriptor.TYPE_INT32: 32, FieldDescriptor.TYPE_INT64: 64}


def tree(params: Iterable[tuple[str, str]]) -> Node:
    """{"Filter.1.Name": "x"} -> {"Filter": {"1": {"Name": "x"}}}"""
    root: Node = {}
    for name, value in params:
        *parents, leaf = name.split(".", _MAX_DEPTH)
        node = root
        for part in parents:
            below = node.setdefault(part, {})
            if not isinstance(below, dict):
                raise unknown(name)
            node = below
        if leaf in node:
            raise unknown(name)
        node[leaf] = value
    return root


class ParameterParser:
    """The parameters of one action."""

    def __init__(self, operation: Operation, *, ec2: bool) -> None:
        self._ec2 = ec2
        self._structures: dict[str, Parser] = {}
        self._shape = operation.model.input_shape
        self._root = self._structure(self._shape, descriptor_of(operation.request_class))

    def knows(self, name: str) -> bool:
        return name in self._root[0]

    def parse(self, node: Node, message: Message) -> None:
        self._fill(self._root, message, node, "")

    def _fill(self, parser: Parser, message: Message, node: Node, prefix: str) -> None:
        setters, required = parser
        for name, below in node.items():
            setter = setters.get(name)
            if setter is None:
                raise unknown(prefix + first_name(name, below))
            setter(message, below, prefix + name)
        for name, member in required.items():
            if name not in node:
                raise self._missing(prefix + name, member)

    def _missing(self, path: str, member: str) -> CloudError:
        if self._ec2 and member in _NONE_GIVEN:
            code, message = _NONE_GIVEN[member]
            return InvalidArgument(message, code=code)
        return missing(path)

    def _structure(self, shape: Shape | None, descriptor: Descriptor) -> Parser:
        if descriptor.full_name in self._structures:
            return self._structures[descriptor.full_name]
        setters: dict[str, Setter] = {}
        required: dict[str, str] = {}
        # Put in before it is filled: shapes may contain themselves.
        self._structures[descriptor.full_name] = (setters, required)
        for member, member_shape, field in members(shape, descriptor):
            name = self._name(member, member_shape)
            setters[name] = self._setter(member_shape, field) if field is not None and takes(field) else refuse
            if isinstance(shape, StructureShape) and member in shape.required_members:
                required[name] = member
        return setters, required

    def _name(self, member: str, shape: Shape) -> str:
        if self._ec2 and "queryName" in shape.serialization:
            return str(shape.serialization["queryName"])
        if not self._ec2 and isinstance(shape, (ListShape, MapShape)) and shape.serialization.get("flattened"):
            inner = shape.member.serialization if isinstance(shape, ListShape) else {}
            return str(inner.get("name") or shape.serialization.get("name", member))
        name = str(shape.serialization.get("name", member))
        return name[:1].upper() + name[1:] if self._ec2 else name

    def _setter(self, shape: Shape, field: FieldDescriptor) -> Setter:
        if isinstance(shape, ListShape):
            return self._list(shape, field)
        if isinstance(shape, MapShape):
            return self._map(shape, field)
        attribute = field.name
        if isinstance(shape, StructureShape):
            assert field.message_type is not None
            parser = self._structure(shape, field.message_type)

            def set_structure(message: Message, below: Node | str, path: str) -> None:
                inner = getattr(message, attribute)
                inner.SetInParent()
                self._fill(parser, inner, branch(below, path), path + ".")

            return set_structure
        if field.message_type is not None:
            return _set_timestamp(attribute)
        convert = scalar(field, known=known_values(shape))

        def set_scalar(message: Message, below: Node | str, path: str) -> None:
            setattr(message, attribute, convert(leaf(below, path), path))

        return set_scalar

    def _list(self, shape: ListShape, field: FieldDescriptor) -> Setter:
        attribute = field.name
        item_name = None
        if not self._ec2 and not shape.serialization.get("flattened"):
            item_name = shape.member.serialization.get("name", "member")
        add = self._adder(shape.member, field)

        def set_list(message: Message, below: Node | str, path: str) -> None:
            values = getattr(message, attribute)
            for index, item, item_path in elements(below, path, item_name):
                del index
                add(values, item, item_path)

        return set_list

    def _adder(self, shape: Shape, field: FieldDescriptor) -> Callable[[Any, Node | str, str], None]:
        if isinstance(shape, StructureShape):
            assert field.message_type is not None
            parser = self._structure(shape, field.message_type)
            return lambda values, item, path: self._fill(parser, values.add(), branch(item, path), path + ".")
        convert = timestamp if field.message_type is not None else scalar(field)
        return lambda values, item, path: values.append(convert(leaf(item, path), path))

    def _map(self, shape: MapShape, field: FieldDescriptor) -> Setter:
        attribute = field.name
        entry_name = None if self._ec2 or shape.serialization.get("flattened") else "entry"
        key_name = shape.key.serialization.get("name", "key")
        value_name = shape.value.serialization.get("name", "value")
        assert field.message_type is not None
        convert = scalar(field.message_type.fields_by_name["value"])

        def set_map(message: Message, below: Node | str, path: str) -> None:
            values = getattr(message, attribute)
            for _, item, item_path in elements(below, path, entry_name):
                pair = branch(item, item_path)
                for name in pair.keys() - {key_name, value_name}:
                    raise unknown(f"{item_path}.{name}")
                for name in (key_name, value_name):
                    if name not in pair:
                        raise missing(f"{item_path}.{name}")
                key = leaf(pair[key_name], f"{item_path}.{key_name}")
                value_path = f"{item_path}.{value_name}"
                values[key] = convert(leaf(pair[value_name], value_path), value_path)

        return set_map


def elements(below: Node | str, path: str, item_name: str | None) -> list[tuple[int, Node | str, str]]:
    """A list's items in the order of their numbers: (number, item, name as the client wrote it)."""
    if item_name is not None:
        if below == "":
            # How the standard protocol writes an empty list.
            return []
        inner = branch(below, path)
        for name in inner.keys() - {item_name}:
            raise unknown(f"{path}.{first_name(name, inner[name])}")
        below, path = inner[item_name], f"{path}.{item_name}"
    found = []
    for index, item in branch(below, path).items():
        if not _INDEX.fullmatch(index):
            raise unknown(f"{path}.{first_name(index, item)}")
        found.append((int(index), item, f"{path}.{index}"))
    return sorted(found, key=lambda entry: entry[0])


def branch(below: Node | str, path: str) -> Node:
    if isinstance(below, str):
        raise unknown(path)
    return below


def leaf(below: Node | str, path: str) -> str:
    if isinstance(below, dict):
        raise unknown(f"{path}.{first_name(*next(iter(below.items())))}")
    return below


def first_name(name: str, below: Node | str) -> str:
    """The whole name of the first parameter at or below a node, for the message of an error."""
    while isinstance(below, dict):
        part, below = next(iter(below.items()))
        name = f"{name}.{part}"
    return name


def refuse(_message: Message, _below: Node | str, path: str) -> None:
    raise Unsupported(f"The parameter {path} is not supported by this cloud.")


def takes(field: FieldDescriptor) -> bool:
    """A request may have it at all. A scalar that accepts no value may still be sent empty, as some clients do."""
    return not (field.is_repeated or field.message_type is not None) or accepted_values(field) is None


def known_values(shape: Shape) -> Sequence[str]:
    """AWS's own values of a member, where it has a list of them."""
    return shape.enum if isinstance(shape, StringShape) else ()


def scalar(field: FieldDescriptor, *, any_text: bool = False, known: Sequence[str] = ()) -> Scalar:
    """The conversion of one value. Raises InvalidArgument, or Unsupported for one that the contract does not accept.

    `any_text`: also what XML cannot hold, as S3's names may; its listings encode them. `known`: AWS's own values; any
    other is no value at all.
    """
    convert = _as_it_is if any_text and field.type == FieldDescriptor.TYPE_STRING else _conversion(field)
    accepted = accepted_values(field)
    if accepted is None:
        return convert

    def restricted(value: str, path: str) -> Any:
        converted = convert(value, path)
        if value and canonical(converted) not in accepted:
            if known and value not in known:
                raise invalid(value, path, f"Expecting one of: {', '.join(known)}.")
            raise Unsupported(f"The value {value[:100]} of the parameter {path} is not supported by this cloud.")
        return converted

    return restricted


def canonical(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _conversion(field: FieldDescriptor) -> Scalar:
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return text
        case FieldDescriptor.TYPE_BOOL:
            return boolean
        case FieldDescriptor.TYPE_BYTES:
            return blob
        case FieldDescriptor.TYPE_DOUBLE | FieldDescriptor.TYPE_FLOAT:
            return number
        case _:
            bits = _INTEGER_BITS[field.type]
            return lambda value, path: integer(value, path, bits)


def _as_it_is(value: str, _path: str) -> str:
    return value


def text(value: str, path: str) -> str:
    """No answer could show it again otherwise."""
    if value.isprintable() or not NOT_XML.search(value):
        return value
    raise InvalidArgument(f"The parameter {path} holds a character that XML cannot", code="InvalidCharacter")


def boolean(value: str, path: str) -> bool:
    match value.lower():
        case "true" | "1":
            return True
        case "false" | "0":
            return False
    raise invalid(value, path, "Expecting a boolean: true or false.")


def integer(value: str, path: str, bits: int) -> int:
    if not _INTEGER.fullmatch(value):
        raise invalid(value, path, "Expecting an integer.")
    found = int(value)
    if not -(1 << bits - 1) <= found < 1 << bits - 1:
        raise invalid(value, path, "The number is out of range.")
    return found


def number(value: str, path: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise invalid(value, path, "Expecting a number.") from None


def blob(value: str, path: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise invalid(value, path, "Expecting base64.") from None


def timestamp(value: str, path: str) -> Timestamp:
    found = parse_date(value)
    if found is None:
        raise invalid(value, path, "Expecting a date and time of ISO 8601.")
    return found


def _set_timestamp(attribute: str) -> Setter:
    def set_timestamp(message: Message, below: Node | str, path: str) -> None:
        getattr(message, attribute).CopyFrom(timestamp(leaf(below, path), path))

    return set_timestamp


def unknown(path: str) -> CloudError:
    return InvalidArgument(f"The parameter {path} is not recognized", code="UnknownParameter")


def missing(path: str) -> CloudError:
    return InvalidArgument(f"The request must contain the parameter {path}", code="MissingParameter")


def invalid(value: str, path: str, expectation: str) -> CloudError:
    shown = value if len(value) <= 100 else f"{value[:100]}…"
    return InvalidArgument(
        f"Value ({shown}) for parameter {path} is invalid. {expectation}", code="InvalidParameterValue"
    )
