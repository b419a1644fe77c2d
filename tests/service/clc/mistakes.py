"""Every single mistake that a right request of an action can have, made from botocore's model of its parameters.

A request is a mapping of Query parameters. `mistakes` enumerates: each required parameter missing, each value of a
wrong type, outside its enumeration, too long, of another kind, each id malformed, absent or somebody else's, each list
and structure bent out of shape, each member that this cloud does not serve.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from botocore.model import ListShape, Shape, StructureShape
from botocore.serialize import create_serializer
from google.protobuf.message import Message

from ec2_facade.protocol.model import Operation, descriptor_of, members
from ec2_facade.protocol.query_parse import takes

Parameters = Mapping[str, str]
Step = tuple[str, Shape]

_TYPES: Final = {
    "integer": ("", "x", "1.5", "9" * 30, "99999999999", "0x10", "²", "１"),
    "long": ("", "x", "1.5", "9" * 30, "²"),
    "double": ("", "x", "1,5"),
    "float": ("", "x", "1,5"),
    "boolean": ("", "perhaps", "2", "yes", "tru"),
    "timestamp": ("", "yesterday", "2011-99-01T00:00:00Z", "0001-01-01T00:00:00+23:59"),
    "blob": ("*", "AAA", "ü"),
}
_INVALID: Final = frozenset({"InvalidParameterValue"})
_UNKNOWN: Final = frozenset({"UnknownParameter"})
# Of lists that EC2 misses in words of their own; an instance's id is missed in the usual ones.
_MISSING: Final = {
    "InstanceId": frozenset({"InvalidParameterCombination", "MissingParameter"}),
    "Tag": frozenset({"InvalidParameterValue"}),
}
_ID: Final = re.compile(
    r"(i|ami|aki|ari|sg|sgr|vpc|subnet|eni|key|eipalloc|eipassoc|rtb|igw|acl|dopt|vol|snap|pl|import-snap|import-ami|export-ami|bun)-[0-9a-f]{17}"
)
# Codes for an id that does not look like one, and for one that stands for nothing that the caller may know of.
MALFORMED: Final = re.compile(r".*\.Malformed|InvalidParameterValue|InvalidID|Invalid.*\.NotFound|MissingParameter")
ABSENT: Final = re.compile(r"Invalid\w+\.NotFound|InvalidConversionTaskId|AuthFailure|UnsupportedOperation")
_ABSENT_KEY: Final = re.compile(f"InvalidParameterValue|{ABSENT.pattern}")
LONG: Final = 70_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    what: str
    parameters: Parameters
    # It must be refused. Otherwise it may be right all the same, as a long description may.
    certain: bool = True
    # One of these codes, if any are given; or one that matches.
    codes: frozenset[str] = frozenset()
    pattern: re.Pattern[str] | None = None


def parameters_of(operation: Operation, message: Message) -> dict[str, str]:
    """As botocore writes them: what botocore's client would send for this request."""
    value = _as_value(operation.model.input_shape, message)
    serializer = create_serializer(operation.model.service_model.protocol, include_validation=False)
    body = serializer.serialize_to_request(value, operation.model)["body"]
    return {name: str(item) for name, item in body.items() if name not in ("Action", "Version")}


def mistakes(operation: Operation, right: Parameters, foreign: Parameters) -> Iterator[Mistake]:
    """`foreign` is the same request as it would be right for another account."""
    shape = operation.model.input_shape
    yield Mistake(what="unknown", parameters={**right, "Nonsense": "1"}, codes=_UNKNOWN)
    for name in _required(shape, right):
        left = {path: value for path, value in right.items() if path != name and not path.startswith(f"{name}.")}
        above = name.rpartition(".")[0]
        if above and not any(path.startswith(f"{above}.") for path in left):
            # The structure is gone with its only member.
            continue
        yield Mistake(
            what=f"without {name}", parameters=left, codes=_MISSING.get(name, frozenset({"MissingParameter"}))
        )
    for path, value in right.items():
        yield from _bent(right, path)
        yield from _wrong(right, path, value, _leaf(shape, path), foreign.get(path, value))
    yield from _unserved(operation, right)


def _bent(right: Parameters, path: str) -> Iterator[Mistake]:
    below = {**without(right, path), f"{path}.Nonsense": "1"}
    yield Mistake(what=f"{path} is a structure", parameters=below, codes=_UNKNOWN)
    beside = {**right, f"{path}.1": "1"}
    yield Mistake(what=f"{path} is both", parameters=beside, codes=_UNKNOWN)
    parts = path.split(".")
    for depth, part in enumerate(parts):
        above = ".".join(parts[:depth])
        rest = ".".join(parts[depth + 1 :])
        if not part.isdigit():
            continue
        for index in ("x", "-1", "01", "1" * 30, ""):
            name = ".".join(filter(None, (f"{above}.{index}", rest)))
            yield Mistake(what=f"{name}", parameters={**without(right, path), name: right[path]}, codes=_UNKNOWN)
        flat = {p: v for p, v in right.items() if not p.startswith(f"{above}.")} | {above: "1"}
        yield Mistake(what=f"{above} is one value", parameters=flat, codes=_UNKNOWN)


def _wrong(right: Parameters, path: str, value: str, shape: Shape, foreign: str) -> Iterator[Mistake]:
    def put(given: str, what: str = "", **more: Any) -> Mistake:
        return Mistake(what=f"{path}: {what or given[:40]!r}", parameters={**right, path: given}, **more)

    for given in _TYPES.get(shape.type_name, ()):
        yield put(given, codes=_INVALID)
    if shape.type_name in ("integer", "long"):
        for given in ("-1", "0", "2147483647", "-2147483648"):
            yield put(given, certain=False)
    if shape.type_name != "string":
        return
    if getattr(shape, "enum", ()):
        for given in ("no-such", value.swapcase() + "x", "ü"):
            yield put(given)
    if _ID.fullmatch(value):
        prefix, digits = value.rsplit("-", 1)
        for given in (prefix, f"{prefix}-", digits, f"{prefix}-{digits[:-1]}", f"{value}0", value.upper(), f" {value}",
                      f"{prefix}-{'g' * 17}", f"{value}\n", "nonsense", f"other-{digits}"):  # fmt: skip
            yield put(given, pattern=MALFORMED)
        absent = _ABSENT_KEY if prefix == "key" else ABSENT
        yield put(f"{prefix}-{'f' * 17}", what="absent", pattern=absent)
    if foreign != value:
        yield put(foreign, what="foreign", pattern=absent if _ID.fullmatch(value) else None)
    for given in ("\0", "a\x1f", "\ufffe"):
        yield put(given, codes=frozenset({"InvalidCharacter"}))
    for given in ("", " ", "\n", "ü" * 300, "%00", "../../x", "<a>&", "*", "nan", "😀"):
        yield put(given, certain=False)
    yield put("a" * LONG, certain=not _matches_nothing(path))
    yield put("漢" * 20_000, certain=not _matches_nothing(path))


def _matches_nothing(path: str) -> bool:
    """A filter's value may be anything: what it cannot match is not there."""
    return re.fullmatch(r"Filters?\.\d+\.Value\.\d+", path) is not None


def _unserved(operation: Operation, right: Parameters) -> Iterator[Mistake]:
    """Members that AWS has and the contract does not: refused by name."""
    shape = operation.model.input_shape
    for name, member, field in members(shape, descriptor_of(operation.request_class)):
        if field is not None and takes(field):
            continue
        for path in _first_leaves(member, wire_name(name, member)):
            yield Mistake(
                what=f"unserved {path}", parameters={**right, path: "1"}, codes=frozenset({"UnsupportedOperation"})
            )


def _first_leaves(shape: Shape, path: str) -> Iterator[str]:
    if isinstance(shape, ListShape):
        yield from _first_leaves(shape.member, f"{path}.1")
    elif isinstance(shape, StructureShape) and shape.members:
        name, member = next(iter(shape.members.items()))
        yield from _first_leaves(member, f"{path}.{wire_name(name, member)}")
    else:
        yield path


def _required(shape: Shape | None, right: Parameters, prefix: str = "") -> Iterator[str]:
    """Names of the parameters that must be there, of the structures that are."""
    if isinstance(shape, StructureShape):
        for name, member in shape.members.items():
            path = prefix + wire_name(name, member)
            present = any(given == path or given.startswith(f"{path}.") for given in right)
            if present and name in shape.required_members:
                yield path
            if present:
                yield from _required(member, right, f"{path}.")
    elif isinstance(shape, ListShape):
        for index in sorted({given[len(prefix) :].split(".")[0] for given in right if given.startswith(prefix)}):
            yield from _required(shape.member, right, f"{prefix}{index}.")


def _leaf(shape: Shape | None, path: str) -> Shape:
    for part in path.split("."):
        if isinstance(shape, ListShape):
            shape = shape.member
        else:
            assert isinstance(shape, StructureShape), path
            shape = next(member for name, member in shape.members.items() if wire_name(name, member) == part)
    assert shape is not None
    return shape


def without(right: Parameters, path: str) -> dict[str, str]:
    return {name: value for name, value in right.items() if name != path}


def wire_name(member: str, shape: Shape) -> str:
    """https://smithy.io/2.0/aws/protocols/aws-ec2-query-protocol.html#query-key-resolution"""
    name = str(shape.serialization.get("queryName") or shape.serialization.get("name", member))
    return name[:1].upper() + name[1:]


def _as_value(shape: Shape | None, message: Message) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, member, field in members(shape, descriptor_of(message)):
        if field is None:
            continue
        given = getattr(message, field.name)
        if isinstance(member, ListShape):
            inner = member.member
            items = [_as_value(inner, item) if isinstance(inner, StructureShape) else item for item in given]
            if items:
                found[name] = items
        elif message.HasField(field.name):
            found[name] = _as_value(member, given) if isinstance(member, StructureShape) else given
    return found
