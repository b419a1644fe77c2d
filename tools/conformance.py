"""What of AWS this cloud serves: every action that botocore knows, and of each that is served its members and filters.

    python -m tools.conformance [--out conformance-report]

Prints the report and writes it as report.txt and index.html. Nothing in it is written by hand: actions, members and
accepted values come from the contracts, filters from the tables that the CLC evaluates. An output member that the
contract has for its form alone, and no service ever names, is absent.
"""

from __future__ import annotations

import argparse
import html
import re
import sys
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from botocore.model import ListShape, Shape, StructureShape
from google.protobuf.descriptor import Descriptor

from ec2_facade.protocol import Contract, Operation
from ec2_facade.protocol.model import accepted_values, descriptor_of, members
from ec2_facade.s3 import post

ROOT: Final = Path(__file__).resolve().parent.parent
SERVICES: Final = ("ec2", "sts", "s3")
# Filters stand in the model as a list in its documentation alone; what is listed within an entry are values.
_FILTER: Final = re.compile(r"<ul>|</ul>|<li> *<p> *<code>([^<]+)</code>(:&lt;key&gt;)?")
_NAME: Final = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """Paths of members, as AWS names them: Placement.Tenancy."""

    honoured: tuple[str, ...]
    # With the values that are accepted: Placement.Tenancy (default).
    restricted: tuple[str, ...]
    # Of an input refused by name, of an output absent.
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    honoured: tuple[str, ...]
    refused: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    name: str
    input: Members
    output: Members
    # None: the action has none.
    filters: Filters | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    name: str
    title: str
    served: tuple[Action, ...]
    refused: tuple[str, ...]
    # What AWS documents and its model does not have.
    beside: tuple[Action, ...] = ()

    @property
    def known(self) -> int:
        return len(self.served) + len(self.refused)


def survey(service: str, filters: Mapping[str, tuple[str, ...]], named: Collection[str]) -> Service:
    """One service as it is served. `filters`: action -> the filters that are evaluated. `named`: see named_fields."""
    contract = Contract(service)
    return Service(
        name=service,
        title=str(contract.model.metadata["serviceFullName"]),
        served=tuple(_action(operation, filters, named) for _, operation in sorted(contract.operations.items())),
        refused=tuple(name for name in contract.model.operation_names if name not in contract.operations),
        beside=(_post_object(contract),) if service == "s3" else (),
    )


def _post_object(contract: Contract) -> Action:
    """A browser's form: fields of its own, and those that are headers of PutObject."""
    put = contract.operations["PutObject"]
    assert put.model.input_shape is not None
    honoured, restricted, missing = sorted(post.OWN_FIELDS), [], []
    for _, member, field in members(put.model.input_shape, descriptor_of(put.request_class)):
        header = str(member.serialization.get("name", "")).lower()
        name = post.field_of(header) if member.serialization.get("location") in ("header", "headers") else None
        if name is None:
            continue
        name += "*" if name.endswith("-") else ""
        accepted = accepted_values(field) if field is not None else frozenset[str]()
        if accepted is None:
            honoured.append(name)
        elif accepted:
            restricted.append(f"{name} ({', '.join(sorted(accepted))})")
        else:
            missing.append(name)
    return Action(
        name="PostObject",
        input=Members(honoured=tuple(honoured), restricted=tuple(restricted), missing=tuple(missing)),
        output=Members(honoured=("Location", "Bucket", "Key", "ETag"), restricted=(), missing=()),
        filters=None,
    )


def _action(operation: Operation, filters: Mapping[str, tuple[str, ...]], named: Collection[str]) -> Action:
    model = operation.model
    return Action(
        name=operation.name,
        input=_members(model.input_shape, descriptor_of(operation.request_class)),
        output=_members(model.output_shape, descriptor_of(operation.response_class), filled=named),
        filters=_filters(operation, filters),
    )


def _members(shape: Shape | None, descriptor: Descriptor, *, filled: Collection[str] | None = None) -> Members:
    """`filled`: of an output, the names of fields that a service fills; None for an input."""
    honoured, restricted, missing = [], [], []
    for path, accepted, present in _walk(shape, descriptor, filled=filled):
        if not present or accepted == frozenset():
            missing.append(path)
        elif accepted is not None:
            restricted.append(f"{path} ({', '.join(sorted(accepted))})")
        else:
            honoured.append(path)
    return Members(honoured=tuple(honoured), restricted=tuple(restricted), missing=tuple(missing))


def _walk(
    shape: Shape | None,
    descriptor: Descriptor,
    prefix: str = "",
    above: tuple[str, ...] = (),
    *,
    filled: Collection[str] | None,
) -> Iterator[tuple[str, frozenset[str] | None, bool]]:
    """(path, accepted values, whether the contract has it) of all members; what is missing is not looked into."""
    for name, member, field in members(shape, descriptor):
        assert shape is not None
        path = prefix + name
        inner = member.member if isinstance(member, ListShape) else member
        # A body's bytes are no field of the contract's messages: they are its stream.
        streamed = bool(member.serialization.get("streaming"))
        nested = field.message_type if field is not None and isinstance(inner, StructureShape) else None
        accepted = accepted_values(field) if filled is None and field is not None else None
        served = field is not None and (filled is None or field.name in filled)
        if nested is None or inner.name in above or accepted is not None or not served:
            yield path, accepted, served or streamed
        else:
            mark = "[]." if inner is not member else "."
            yield from _walk(inner, nested, path + mark, (*above, inner.name), filled=filled)


def _filters(operation: Operation, evaluated: Mapping[str, tuple[str, ...]]) -> Filters | None:
    shape = operation.model.input_shape
    if shape is None or "Filters" not in shape.members:
        return None
    documented = set(_documented(shape.members["Filters"].documentation))
    honoured = set(evaluated.get(operation.name, ()))
    return Filters(honoured=tuple(sorted(honoured)), refused=tuple(sorted(documented - honoured)))


def _documented(text: str) -> Iterator[str]:
    depth = 0
    for found in _FILTER.finditer(text):
        depth += {"<ul>": 1, "</ul>": -1}.get(found[0], 0)
        if found[1] and depth == 1:
            name = html.unescape(found[1] + (found[2] or ""))
            # Some pages forget the key.
            yield "tag:<key>" if name == "tag" else name


def evaluated_filters() -> Mapping[str, tuple[str, ...]]:
    """Of each EC2 action, what the CLC's tables hold once all its use cases are loaded."""
    from services.clc.filters import FILTERS
    from services.clc.use_case import load_use_cases

    load_use_cases()
    found: defaultdict[str, tuple[str, ...]] = defaultdict(tuple)
    for table, names in FILTERS.items():
        # An action with two tables names what the second is of: `ec2.DescribeInstances (reservation)`.
        found[table.removeprefix("ec2.").partition(" ")[0]] += names
    return found


def named_fields() -> frozenset[str]:
    """Every name that the code of the services has: a field that is not among them is never filled."""
    sources = (path.read_text() for folder in ("services", "ec2_facade") for path in (ROOT / folder).rglob("*.py"))
    return frozenset(name for source in sources for name in _NAME.findall(source))


def as_text(services: list[Service]) -> str:
    lines = [
        ", and ".join([f"{s.name}: {len(s.served)} of {s.known} actions served", *(one.name for one in s.beside)])
        for s in services
    ]
    for service in services:
        lines += ["", f"{service.name} ({service.title})"]
        for action in (*service.served, *service.beside):
            lines += ["", f"  {action.name}"]
            for title, names in _rows(action):
                lines.append(f"    {title:<26}{len(names):>4}  {', '.join(names)}".rstrip())
        lines += ["", f"  refused: {', '.join(service.refused)}"]
    return "\n".join(lines) + "\n"


def as_html(services: list[Service]) -> str:
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Mallee: conformance</title>',
        "<style>body{font:15px/1.5 sans-serif;max-width:70em;margin:2em auto;padding:0 1em}"
        "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.3em .6em;text-align:left;"
        "vertical-align:top}summary{cursor:pointer;font-weight:bold}details{margin:.3em 0}</style>",
        "<h1>What of AWS is served</h1><table><tr><th>Service<th>Served<th>AWS has</tr>",
        *(f"<tr><td>{html.escape(s.title)}<td>{len(s.served)}<td>{s.known}</tr>" for s in services),
        "</table>",
    ]
    for service in services:
        parts.append(f"<h2>{html.escape(service.title)}</h2>")
        for action in (*service.served, *service.beside):
            parts.append(f"<details><summary>{action.name}</summary><table>")
            for title, names in _rows(action):
                parts.append(f"<tr><th>{title} ({len(names)})<td>{html.escape(', '.join(names))}</tr>")
            parts.append("</table></details>")
        refused = html.escape(", ".join(service.refused))
        parts.append(f"<details><summary>{len(service.refused)} refused actions</summary><p>{refused}</details>")
    return "\n".join(parts) + "\n"


def _rows(action: Action) -> list[tuple[str, tuple[str, ...]]]:
    rows = [
        ("input honoured", action.input.honoured),
        ("input at these values", action.input.restricted),
        ("input refused", action.input.missing),
        ("output honoured", action.output.honoured),
        ("output absent", action.output.missing),
    ]
    if action.filters is not None:
        rows += [("filters honoured", action.filters.honoured), ("filters refused", action.filters.refused)]
    return [(title, names) for title, names in rows if names]


def main() -> int:
    parser = argparse.ArgumentParser(description="What of AWS this cloud serves.")
    parser.add_argument("--out", type=Path, default=ROOT / "conformance-report")
    out: Path = parser.parse_args().out
    filters = evaluated_filters()
    named = named_fields()
    services = [survey(service, filters if service == "ec2" else {}, named) for service in SERVICES]
    text = as_text(services)
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.txt").write_text(text)
    (out / "index.html").write_text(as_html(services))
    sys.stdout.write(text)
    print(f"\nwritten to {out}/index.html and report.txt", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
