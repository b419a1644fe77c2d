"""Protobuf to XML: closures compiled once per shape from AWS's model, so that rendering looks nothing up.

An empty list is an empty element (`<groupSet/>`), as AWS writes it, except for those that AWS leaves out; a scalar or
structure that is not set is left out.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote

from botocore.model import ListShape, MapShape, Shape, StructureShape
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from ec2_facade.protocol.fragments import Fragments
from ec2_facade.protocol.model import members
from ec2_facade.protocol.text import escape, iso8601, quote_attribute

# Structures of so many members are rendered once for each content: Instance, Image and their like.
_LARGE: Final = 24

# What stands inside an element.
Inside = Callable[[Any], str]
# A field's whole element or elements.
Element = Callable[[Any], str]

# Lists that AWS leaves out when they are empty: tags, but for these …
_TAGS_KEPT: Final = frozenset(
    {"DescribeTagsResult", "KeyPairInfo", "NetworkAcl", "RouteTable", "SecurityGroupRule", "SnapshotInfo"}
)
# … and the following.
_LEFT_OUT: Final = frozenset(
    {
        ("Image", "ProductCodes"),
        ("ProcessorInfo", "SupportedFeatures"),
        ("VCpuInfo", "ValidCores"),
        ("VCpuInfo", "ValidThreadsPerCore"),
        ("Vpc", "Ipv6CidrBlockAssociationSet"),
    }
)

# Shapes that ListObjects and its kin escape when the client asks for `encoding-type=url`.
_URL_ENCODED: Final = frozenset(
    {"Delimiter", "KeyMarker", "Marker", "NextKeyMarker", "NextMarker", "ObjectKey", "Prefix", "StartAfter"}
)


class XmlRenderer:
    """Compiles shapes of one service, each when it is first met. `encode_keys`: for `encoding-type=url` of S3.
    `keep_tags`: for what was just made; an empty list of tags is an element, and no text is kept for a next time."""

    def __init__(self, *, encode_keys: bool = False, keep_tags: bool = False) -> None:
        self._encode_keys, self._keep_tags = encode_keys, keep_tags
        self._structures: dict[tuple[str, str], Inside] = {}

    def structure(self, shape: Shape | None, descriptor: Descriptor) -> Inside:
        """Renders what stands inside the element of a structure. Header and payload members are not part of it."""
        name = shape.name if shape is not None else ""
        key = (name, descriptor.full_name)
        if key not in self._structures:
            # Put in before it is compiled: shapes may contain themselves.
            self._structures[key] = lambda message: self._structures[key](message)
            render = self._compile(shape, descriptor)
            self._structures[key] = Fragments(render) if self._large(descriptor) else render
        return self._structures[key]

    def _large(self, descriptor: Descriptor) -> bool:
        return len(descriptor.fields) >= _LARGE and not self._keep_tags

    def _compile(self, shape: Shape | None, descriptor: Descriptor) -> Inside:
        elements: dict[FieldDescriptor, Element] = {}
        empty: list[tuple[str, str]] = []
        for member, member_shape, field in members(shape, descriptor):
            if field is None:
                continue
            if "location" in member_shape.serialization or "xmlAttribute" in member_shape.serialization:
                elements[field] = _nothing
                continue
            elements[field] = self._element(member, member_shape, field)
            if shape is not None and self._kept_empty(shape.name, member, member_shape):
                empty.append((field.name, f"<{_name(member, member_shape)}/>"))

        def alone(message: Message) -> str:
            return "".join([elements[field](value) for field, value in message.ListFields()])

        def inside(message: Message) -> str:
            text = alone(message)
            for name, element in empty:
                if not getattr(message, name):
                    text += element
            return text

        return inside if empty else alone

    def _kept_empty(self, structure: str, member: str, shape: Shape) -> bool:
        if not isinstance(shape, (ListShape, MapShape)) or shape.serialization.get("flattened"):
            return False
        if member == "Tags":
            return self._keep_tags or structure in _TAGS_KEPT
        if self._keep_tags and (structure, member) == ("Volume", "Attachments"):
            return False
        return (structure, member) not in _LEFT_OUT

    def _element(self, member: str, shape: Shape, field: FieldDescriptor) -> Element:
        name = _name(member, shape)
        if isinstance(shape, ListShape):
            return self._list(name, shape, field)
        if isinstance(shape, MapShape):
            return self._map(name, shape, field)
        return self._whole(name, shape, field)

    def _whole(self, tag: str, shape: Shape, field: FieldDescriptor) -> Element:
        """An element with what stands inside."""
        inside = self._inside(shape, field)
        attributes = _attributes(shape, field)
        if not attributes:
            return _wrap(tag, inside, few=bool(getattr(shape, "enum", ())))

        def element(message: Message) -> str:
            given = "".join([text(message) for text in attributes])
            return f"<{tag}{given}>{inside(message)}</{tag}>"

        return element

    def _list(self, name: str, shape: ListShape, field: FieldDescriptor) -> Element:
        flattened = shape.serialization.get("flattened")
        tag = shape.member.serialization.get("name", name if flattened else "member")
        item = self._whole(tag, shape.member, field)
        if flattened:
            return lambda values: item(values[0]) if len(values) == 1 else "".join([item(value) for value in values])
        return lambda values: f"<{name}>{''.join([item(value) for value in values])}</{name}>"

    def _map(self, name: str, shape: MapShape, field: FieldDescriptor) -> Element:
        entry = field.message_type
        assert entry is not None
        key_tag = shape.key.serialization.get("name", "key")
        value_tag = shape.value.serialization.get("name", "value")
        value_inside = self._inside(shape.value, entry.fields_by_name["value"])

        def entries(values: dict[str, Any], tag: str) -> str:
            return "".join(
                f"<{tag}><{key_tag}>{escape(key)}</{key_tag}><{value_tag}>{value_inside(value)}</{value_tag}></{tag}>"
                for key, value in values.items()
            )

        if shape.serialization.get("flattened"):
            return lambda values: entries(values, name)
        return lambda values: f"<{name}>{entries(values, 'entry')}</{name}>"

    def _inside(self, shape: Shape, field: FieldDescriptor) -> Inside:
        if isinstance(shape, StructureShape):
            assert field.message_type is not None
            return self.structure(shape, field.message_type)
        if self._encode_keys and shape.name in _URL_ENCODED:
            return lambda text: quote(text, safe="/")
        return scalar(shape, field)


def scalar(shape: Shape, field: FieldDescriptor) -> Inside:
    """A scalar's text in XML. What the contract keeps as a string is written as it came."""
    if field.type == FieldDescriptor.TYPE_STRING:
        return escape
    match shape.type_name:
        case "boolean":
            return lambda value: "true" if value else "false"
        case "timestamp":
            return iso8601
        case "blob":
            return lambda value: base64.b64encode(value).decode()
        case "float" | "double":
            return repr
        case _:
            return str


def _wrap(name: str, inside: Inside, *, few: bool) -> Element:
    """`few`: the values are those of an enumeration, and each of them comes again and again."""
    start, end = f"<{name}>", f"</{name}>"
    if inside is str:
        return lambda value: f"{start}{value}{end}"
    if inside is escape and few:
        return lru_cache(maxsize=256)(lambda text: start + escape(text) + end)
    if inside is escape:
        # Most values are plain text: one call less for each.
        return lambda text: (
            start + text + end
            if text.isprintable() and "&" not in text and "<" not in text and ">" not in text
            else start + escape(text) + end
        )
    return lambda value: start + inside(value) + end


def _attributes(shape: Shape, field: FieldDescriptor) -> list[Callable[[Message], str]]:
    """The members that are attributes of the element, and the namespace they need: xsi:type of a grantee."""
    found: list[Callable[[Message], str]] = []
    if not isinstance(shape, StructureShape) or field.message_type is None:
        return found
    for _, member, inner in members(shape, field.message_type):
        if inner is not None and member.serialization.get("xmlAttribute"):
            namespace = shape.serialization.get("xmlNamespace", {})
            declared = f' xmlns:{namespace["prefix"]}="{namespace["uri"]}"' if "prefix" in namespace else ""
            found.append(_attribute(f"{declared} {member.serialization['name']}", inner.name))
    return found


def _attribute(name: str, field: str) -> Callable[[Message], str]:
    def text(message: Message) -> str:
        return f'{name}="{quote_attribute(getattr(message, field))}"' if message.HasField(field) else ""

    return text


def _nothing(_value: object) -> str:
    return ""


def _name(member: str, shape: Shape) -> str:
    return str(shape.serialization.get("name", member))
