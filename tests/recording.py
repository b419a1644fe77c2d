"""A request that knows what was read of it: an input member that was set and stays unread is dropped in silence.

    request = recording(ec2.RunInstancesRequest(image_id="ami-1", …))
    check(cloud, call, request)
    assert not unread(request)

It stands in for its message wherever that is read: fields, HasField, repeated and inner messages. Reading a repeated
scalar or a map in any way reads all of it. What the contract accepts at certain values alone need not be read: the
facade has seen to it. Messages of types named in `whole` count as read when they are handed out,
and are the real ones, so that they can be stored.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final, TypeVar, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from ec2_facade.protocol.model import accepted_values

M = TypeVar("M", bound=Message)
Path = tuple[str | int, ...]

WHOLE: Final = frozenset({"Tag"})


def recording(message: M, *, whole: Collection[str] = WHOLE) -> M:
    """The message, watched. `whole`: names of message types that are not looked into."""
    return cast(M, _Recording(message, (), set(), frozenset(whole)))


def unread(message: Message) -> list[str]:
    """The fields that were set and never read, as tag_specifications[0].resource_type."""
    watched = cast(_Recording, message)
    found = object.__getattribute__(watched, "_unread")()
    return sorted(_spelt(path) for path in found)


class _Recording:
    def __init__(self, message: Message, path: Path, reads: set[Path], whole: frozenset[str]) -> None:
        self._message = message
        self._path = path
        self._reads = reads
        self._whole = whole

    @property
    def __class__(self) -> type:
        # Code that asks for the type is told the truth about what it reads.
        return type(self._message)

    @__class__.setter
    def __class__(self, value: type) -> None:
        raise TypeError("a recording keeps its type")

    def __getattr__(self, name: str) -> Any:
        field = self._message.DESCRIPTOR.fields_by_name.get(name)
        value = getattr(self._message, name)
        if field is None:
            return value
        path = (*self._path, name)
        self._reads.add(path)
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            return value
        if field.is_repeated:
            return [self._inner(item, (*path, index)) for index, item in enumerate(value)]
        return self._inner(value, path)

    def HasField(self, name: str) -> bool:
        self._reads.add((*self._path, name))
        return self._message.HasField(name)

    def __eq__(self, other: object) -> bool:
        return self._message == other

    def __hash__(self) -> int:
        return id(self)

    def _inner(self, message: Message, path: Path) -> Any:
        if message.DESCRIPTOR.name in self._whole:
            self._reads.update(leaf for leaf, _ in _leaves(message, path))
            return message
        self._reads.add(path)
        return _Recording(message, path, self._reads, self._whole)

    def _unread(self) -> Iterator[Path]:
        return (
            path
            for path, field in _leaves(self._message, self._path)
            if path not in self._reads and accepted_values(field) is None
        )


def _leaves(message: Message, path: Path) -> Iterator[tuple[Path, FieldDescriptor]]:
    """Every set field that holds no message with set fields of its own."""
    for field, value in message.ListFields():
        inner = (*path, field.name)
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            yield inner, field
        elif field.is_repeated:
            for index, item in enumerate(value):
                yield from _message_leaves(item, (*inner, index), field)
        else:
            yield from _message_leaves(value, inner, field)


def _message_leaves(message: Message, path: Path, field: FieldDescriptor) -> Iterator[tuple[Path, FieldDescriptor]]:
    yield from list(_leaves(message, path)) or [(path, field)]


def _spelt(path: Path) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")
