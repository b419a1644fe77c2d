"""A request's XML body into a message, while it is being read: no tree is built, and nothing that the shape does not
have is kept, so a hostile body costs no more than its own size. Document types, and with them entities, are refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Final
from xml.parsers import expat

from botocore.model import ListShape, MapShape, Shape, StructureShape
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from common.errors import CloudError, InvalidArgument
from ec2_facade.protocol import query_parse
from ec2_facade.protocol.model import members
from ec2_facade.protocol.rest_route import not_implemented

# CompleteMultipartUpload with 10,000 parts and a checksum each is the largest of S3's.
MAX_BYTES: Final = 4 << 20
MAX_ITEMS: Final = 10_000

# What an element does: make the frame for what stands in it, from the message that surrounds it.
Open = Callable[[Message], "Frame"]


@dataclasses.dataclass(slots=True, kw_only=True)
class Compiled:
    """What may stand in one element. Filled after it is handed out: shapes may contain themselves."""

    children: dict[str, Open] = dataclasses.field(default_factory=dict)
    required: set[str] = dataclasses.field(default_factory=set)
    # Local name -> the field it goes to.
    attributes: dict[str, str] = dataclasses.field(default_factory=dict)


class Frame:
    """An open element: a structure or list (its message and what may stand in it) or a scalar (what takes its text)."""

    __slots__ = ("close", "compiled", "message", "seen", "text")

    def __init__(self, message: Message, compiled: Compiled | None, close: Callable[[str], None] | None = None) -> None:
        self.message = message
        self.compiled = compiled
        self.close = close
        self.text: list[str] = []
        self.seen: set[str] = set()


# Lists that S3 takes for malformed if they are there and hold nothing.
_NEVER_EMPTY: Final = ("RoutingRules",)


class XmlParser:
    """Compiles the payload shape of one action."""

    def __init__(self, root: str, shape: StructureShape, descriptor: Descriptor) -> None:
        self._root = root
        self._structures: dict[str, Compiled] = {}
        self._compiled = self._structure(shape, descriptor)

    def parse(self, body: bytes, message: Message) -> None:
        """Raises MalformedXML, or NotImplemented for an element that S3 has and our contract does not."""
        try:
            if len(body) > MAX_BYTES:
                raise malformed()
            _Reading(self._root, message, self._compiled).read(body)
        except InvalidArgument as error:
            # S3 has a code of its own for one document.
            if self._root == "AccessControlPolicy":
                raise InvalidArgument(error.message, code="MalformedACLError") from None
            raise

    def _structure(self, shape: StructureShape, descriptor: Descriptor) -> Compiled:
        if descriptor.full_name in self._structures:
            return self._structures[descriptor.full_name]
        compiled = self._structures[descriptor.full_name] = Compiled()
        for member, member_shape, field in members(shape, descriptor):
            name = str(member_shape.serialization.get("name", member))
            if member_shape.serialization.get("xmlAttribute"):
                if field is not None:
                    compiled.attributes[name.rpartition(":")[2]] = field.name
                continue
            if isinstance(member_shape, ListShape) and member_shape.serialization.get("flattened"):
                name = str(member_shape.member.serialization.get("name", name))
            taken = field is not None and query_parse.takes(field)
            compiled.children[name] = self._open(member_shape, field) if field and taken else _refuse(name)
            if member in shape.required_members:
                compiled.required.add(name)
        return compiled

    def _open(self, shape: Shape, field: FieldDescriptor) -> Open:
        if isinstance(shape, MapShape):
            return _refuse(field.name)
        if isinstance(shape, ListShape):
            add = self._open_item(shape.member, field)
            if shape.serialization.get("flattened"):
                return add
            name = str(shape.member.serialization.get("name", "member"))
            items = Compiled(children={name: add}, required={name} if shape.name in _NEVER_EMPTY else set())
            return lambda message: Frame(message, items)
        return self._open_single(shape, field)

    def _open_item(self, shape: Shape, field: FieldDescriptor) -> Open:
        attribute = field.name
        if isinstance(shape, StructureShape):
            assert field.message_type is not None
            compiled = self._structure(shape, field.message_type)
            return lambda message: Frame(_with_room(getattr(message, attribute)).add(), compiled)
        convert = _scalar(field)
        return lambda message: Frame(
            message, None, lambda text: _with_room(getattr(message, attribute)).append(convert(text))
        )

    def _open_single(self, shape: Shape, field: FieldDescriptor) -> Open:
        attribute = field.name
        if isinstance(shape, StructureShape):
            assert field.message_type is not None
            compiled = self._structure(shape, field.message_type)

            def open_structure(message: Message) -> Frame:
                inner = getattr(message, attribute)
                inner.SetInParent()
                return Frame(inner, compiled)

            return open_structure
        convert = _scalar(field)
        if field.message_type is not None:
            return lambda message: Frame(
                message, None, lambda text: getattr(message, attribute).CopyFrom(convert(text))
            )
        return lambda message: Frame(message, None, lambda text: setattr(message, attribute, convert(text)))


class _Reading:
    """One body being read: a stack of open elements."""

    def __init__(self, root: str, message: Message, compiled: Compiled) -> None:
        self._root = root
        self._outermost = Frame(message, compiled)
        self._stack: list[Frame] = []

    def read(self, body: bytes) -> None:
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.StartDoctypeDeclHandler = self._refuse_doctype
        try:
            parser.Parse(body, True)
        except (expat.ExpatError, ValueError, LookupError):
            raise malformed() from None

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rpartition(" ")[2]
        frame = self._inner(name) if self._stack else self._outermost
        if frame is self._outermost and name != self._root:
            raise malformed()
        if frame.compiled is not None:
            for attribute, value in attributes.items():
                if to := frame.compiled.attributes.get(attribute.rpartition(" ")[2]):
                    setattr(frame.message, to, value)
        self._stack.append(frame)

    def _inner(self, name: str) -> Frame:
        outer = self._stack[-1]
        if outer.compiled is None or name not in outer.compiled.children:
            raise malformed()
        outer.seen.add(name)
        return outer.compiled.children[name](outer.message)

    def _end(self, _name: str) -> None:
        frame = self._stack.pop()
        if frame.close is not None:
            frame.close("".join(frame.text))
        elif frame.compiled is not None and not frame.seen >= frame.compiled.required:
            raise malformed()

    def _text(self, text: str) -> None:
        if self._stack and self._stack[-1].close is not None:
            self._stack[-1].text.append(text)
        elif text.strip():
            raise malformed()

    def _refuse_doctype(self, *_: Any) -> None:
        raise malformed()


def _with_room(items: Any) -> Any:
    """For one more: an empty element is a few bytes, and its message a hundred."""
    if len(items) >= MAX_ITEMS:
        raise malformed()
    return items


def _scalar(field: FieldDescriptor) -> Callable[[str], Any]:
    convert = query_parse.timestamp if field.message_type is not None else query_parse.scalar(field)
    is_text = field.type == FieldDescriptor.TYPE_STRING

    def from_text(text: str) -> Any:
        try:
            return convert(text if is_text else text.strip(), field.name)
        except InvalidArgument:
            raise malformed() from None

    return from_text


def _refuse(name: str) -> Open:
    def refuse(_message: Message) -> Frame:
        raise not_implemented(name)

    return refuse


def malformed() -> CloudError:
    message = "The XML you provided was not well-formed or did not validate against our published schema"
    return InvalidArgument(message, code="MalformedXML")
