"""Writes the mirrored contracts (proto/mallee/{ec2,sts,s3}/v1) from botocore's models and proto/contract.toml.

    tools/import_shapes.py [--check]

Field numbers are for ever: what stands in the tree keeps its number, new members are appended, and one that the list no
longer names becomes `reserved` (and gets its old number back if it returns). With --check nothing is written, and the
exit status says whether the tree is what the list makes of the models.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import botocore.session
from botocore.model import StructureShape
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from common.aws_names import field_name, input_message, output_message, stream_message

ROOT: Final = Path(__file__).resolve().parent.parent / "proto"
TIMESTAMP: Final = "google.protobuf.Timestamp"
SCALARS: Final = {
    "string": "string",
    "character": "string",
    "integer": "int32",
    "long": "int64",
    "boolean": "bool",
    "double": "double",
    # Its text must come out as it went in.
    "float": "double",
    "blob": "bytes",
    "timestamp": TIMESTAMP,
}
# Keys of a service's table that are not nouns.
SETTINGS: Final = frozenset({"documentation", "types"})
BODY: Final = """
// Ends an upload: without it nothing is stored.
message BodyEnd {
  // Bytes in all the chunks.
  optional int64 length = 1;
  // The trailers of an aws-chunked body, names in lower case: x-amz-checksum-crc32 and its kin.
  map<string, string> trailers = 2;
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbering:
    """What stands in the tree for one message: field -> number, and what was retired."""

    fields: dict[str, int] = field(default_factory=dict)
    retired: dict[str, int] = field(default_factory=dict)

    def number(self, names: list[str]) -> Numbering:
        """The numbering once the message has exactly these fields."""
        known = self.retired | self.fields
        last = max(known.values(), default=0)
        fields: dict[str, int] = {}
        for name in names:
            if name not in known:
                last += 1
            fields[name] = known.get(name, last)
        return Numbering(fields=fields, retired={n: i for n, i in known.items() if n not in fields})


@dataclass(slots=True, kw_only=True)
class ProtoFile:
    noun: str
    header: str
    messages: list[str] = field(default_factory=list)
    imports: set[str] = field(default_factory=set)

    def text(self, package: str) -> str:
        imports = "".join(f'import "{path}";\n' for path in sorted(self.imports))
        head = f'{self.header}syntax = "proto3";\n\npackage {package};\n' + (f"\n{imports}" if imports else "")
        return head + "".join(f"\n{message}" for message in self.messages)


class ContractError(Exception):
    """contract.toml and botocore's model contradict each other."""


class Importer:
    """One service: from its table in contract.toml to the text of its proto files."""

    def __init__(self, service: str, table: Mapping[str, Any], numbers: Mapping[str, Numbering]) -> None:
        self.service = service
        self.package = f"mallee.{service}.v1"
        self.folder = f"mallee/{service}/v1"
        self.documentation = table["documentation"]
        self.types: Mapping[str, str] = table.get("types", {})
        self.nouns = {noun: content for noun, content in table.items() if noun not in SETTINGS}
        self.model = botocore.session.get_session().get_service_model(service)
        self.numbers = numbers
        self.home: dict[str, str] = {}
        # Shape -> member -> the values accepted in a request, None where all are.
        self.allowed: dict[str, dict[str, str | None]] = {}
        for noun, content in self.nouns.items():
            for shape, members in content.get("shapes", {}).items():
                if shape in self.home:
                    raise ContractError(f"{service}: {shape} stands twice")
                self.home[shape] = noun
                self.allowed[shape] = dict(map(parse_member, members.split()))
        self.used: set[str] = set()

    def files(self) -> dict[str, str]:
        """Path below proto/ -> text."""
        protos = {noun: self._file(noun, content) for noun, content in self.nouns.items()}
        if idle := sorted(set(self.home) - self.used):
            raise ContractError(f"{self.service}: no action reaches {', '.join(idle)}")
        if any(self._stream(action) == "upload" for action in self._actions()):
            protos["body"] = ProtoFile(noun="body", header=self._header("How a body travels."), messages=[BODY[1:]])
        protos["service"] = self._service()
        return {f"{self.folder}/{noun}.proto": proto.text(self.package) for noun, proto in protos.items()}

    def _actions(self) -> Iterator[str]:
        for content in self.nouns.values():
            yield from content.get("actions", {})

    def _header(self, text: str) -> str:
        return f"// {text} Written by tools/import_shapes.py from botocore's model; edit contract.toml.\n"

    def _file(self, noun: str, content: Mapping[str, Any]) -> ProtoFile:
        proto = ProtoFile(noun=noun, header=self._header(f"AWS's shapes around `{noun}`."))
        for action in content.get("actions", {}):
            if action not in self.model.operation_names:
                raise ContractError(f"{self.service}: AWS has no action {action}")
            self._reach_roots(action, proto)
        for shape in content.get("shapes", {}):
            proto.messages.append(self._message(shape, proto))
        return proto

    def _reach_roots(self, action: str, proto: ProtoFile) -> None:
        """The messages that belong to the action and not to a shape of AWS's: empty ones and stream frames."""
        operation = self.model.operation_model(action)
        for shape, name in (
            (operation.input_shape, input_message(action, None)),
            (operation.output_shape, output_message(action, None)),
        ):
            if shape is None:
                proto.messages.append(self._render(name, []))
            else:
                self._home_of(shape.name)
                self.used.add(shape.name)
        if stream := self._stream(action):
            header = operation.input_shape if stream == "upload" else operation.output_shape
            assert header is not None
            proto.messages.append(self._frame(action, header.name, stream, proto))

    def _stream(self, action: str) -> str | None:
        operation = self.model.operation_model(action)
        if operation.has_streaming_input:
            return "upload"
        return "download" if operation.has_streaming_output else None

    def _frame(self, action: str, header: str, stream: str, proto: ProtoFile) -> str:
        end = ""
        if stream == "upload":
            proto.imports.add(f"{self.folder}/body.proto")
            end = "    BodyEnd end = 3;\n"
        order = "the header, chunks of up to 1 MiB" + (", the end" if stream == "upload" else "")
        return (
            f"// One message of the stream: {order}. The header comes for an empty object too.\n"
            f"message {stream_message(action)} {{\n  oneof part {{\n"
            f"    {header} header = 1;\n    bytes chunk = 2;\n{end}  }}\n}}\n"
        )

    def _home_of(self, shape: str) -> str:
        if shape not in self.home:
            known = " ".join(self._structure(shape).members)
            raise ContractError(f'{self.service}: add a line for {shape}, of its members: {shape} = "{known}"')
        return self.home[shape]

    def _structure(self, name: str) -> StructureShape:
        shape = self.model.shape_for(name)
        assert isinstance(shape, StructureShape)
        return shape

    def _message(self, name: str, proto: ProtoFile) -> str:
        shape = self._structure(name)
        lines = []
        for member, accepted in self.allowed[name].items():
            if member not in shape.members:
                raise ContractError(f"{self.service}: {name} has no member {member}")
            member_shape = shape.members[member]
            options = []
            if accepted is not None:
                proto.imports.add("mallee/common/v1/contract.proto")
                options.append(f'(mallee.common.v1.accepted) = "{accepted}"')
            if member_shape.metadata.get("sensitive"):
                options.append("debug_redact = true")
            option = f" [{', '.join(options)}]" if options else ""
            lines.append((field_name(member), self._field_type(member_shape, proto), option))
        return self._render(name, lines)

    def _render(self, name: str, lines: list[tuple[str, str, str]]) -> str:
        numbering = self.numbers.get(f"{self.package}.{name}", Numbering()).number([line[0] for line in lines])
        if not numbering.fields and not numbering.retired:
            return f"message {name} {{}}\n"
        body = ""
        if numbering.retired:
            numbers = ", ".join(str(number) for number in numbering.retired.values())
            names = ", ".join(f'"{retired}"' for retired in numbering.retired)
            body += f"  reserved {numbers};\n  reserved {names};\n"
        for field_, type_, option in sorted(lines, key=lambda line: numbering.fields[line[0]]):
            body += f"  {type_} {field_} = {numbering.fields[field_]}{option};\n"
        return f"message {name} {{\n{body}}}\n"

    def _field_type(self, shape: Any, proto: ProtoFile) -> str:
        match shape.type_name:
            case "list":
                return f"repeated {self._type(shape.member, proto)}"
            case "map":
                return f"map<{self._type(shape.key, proto)}, {self._type(shape.value, proto)}>"
            case "structure":
                return self._type(shape, proto)
            case _:
                type_ = self._type(shape, proto)
                return type_ if type_ == TIMESTAMP else f"optional {type_}"

    def _type(self, shape: Any, proto: ProtoFile) -> str:
        if shape.name in self.types:
            return self.types[shape.name]
        if shape.type_name in ("list", "map"):
            raise ContractError(f"{self.service}: {shape.name} nests a list or map directly, which protobuf cannot say")
        if shape.type_name != "structure":
            type_ = SCALARS[shape.type_name]
            if type_ == TIMESTAMP:
                proto.imports.add("google/protobuf/timestamp.proto")
            return type_
        home = self._home_of(shape.name)
        self.used.add(shape.name)
        if home != proto.noun:
            proto.imports.add(f"{self.folder}/{home}.proto")
        return str(shape.name)

    def _service(self) -> ProtoFile:
        title = self.model.metadata.get("serviceFullName", self.service)
        proto = ProtoFile(noun="service", header=self._header(f"{title}: one RPC per action."))
        name = f"{self.service.capitalize()}Service"
        body = f"// AWS's own promises: {self.documentation.format(action='<Action>')}\nservice {name} {{\n"
        rpcs = []
        for noun, content in self.nouns.items():
            for action, comment in content.get("actions", {}).items():
                proto.imports.add(f"{self.folder}/{noun}.proto")
                rpcs.append(self._rpc(action, comment, proto))
        proto.messages.append(body + "\n".join(rpcs) + "}\n")
        return proto

    def _rpc(self, action: str, comment: str, proto: ProtoFile) -> str:
        operation = self.model.operation_model(action)
        shapes = [
            shape.name if shape is not None else None for shape in (operation.input_shape, operation.output_shape)
        ]
        request, response = input_message(action, shapes[0]), output_message(action, shapes[1])
        for shape in shapes:
            if shape is not None:
                proto.imports.add(f"{self.folder}/{self.home[shape]}.proto")
        match self._stream(action):
            case "upload":
                request = f"stream {stream_message(action)}"
            case "download":
                response = f"stream {stream_message(action)}"
        lines = "".join(f"  // {line}\n".replace("// \n", "//\n") for line in comment.strip("\n").splitlines())
        return f"{lines}  rpc {action}({request}) returns ({response});\n"


def parse_member(entry: str) -> tuple[str, str | None]:
    """Tenancy=default -> ("Tenancy", "default"), Tenancy= -> ("Tenancy", ""), Tenancy -> ("Tenancy", None)"""
    member, restricted, values = entry.partition("=")
    return member, values if restricted else None


def existing_numbers(root: Path, service: str) -> dict[str, Numbering]:
    """Full message name -> its numbering, as the tree has it now."""
    files = sorted(str(path.relative_to(root)) for path in (root / "mallee" / service).glob("**/*.proto"))
    if not files:
        return {}
    with tempfile.NamedTemporaryFile(suffix=".binpb") as out:
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{root}", f"--descriptor_set_out={out.name}", *files]
        if subprocess.run(command, check=False).returncode != 0:
            raise ContractError(f"the files of {service} do not compile: their field numbers cannot be read")
        descriptors = FileDescriptorSet.FromString(Path(out.name).read_bytes())
    numbers = {}
    for file in descriptors.file:
        for message in file.message_type:
            # Ranges and names are written in one order, one number a range.
            retired = {n: r.start for n, r in zip(message.reserved_name, message.reserved_range, strict=True)}
            fields = {f.name: f.number for f in message.field}
            numbers[f"{file.package}.{message.name}"] = Numbering(fields=fields, retired=retired)
    return numbers


def generate(root: Path = ROOT) -> dict[str, str]:
    """Path below proto/ -> what the file must hold."""
    contract = tomllib.loads((root / "contract.toml").read_text())
    texts: dict[str, str] = {}
    for service, table in contract.items():
        texts |= Importer(service, table, existing_numbers(root, service)).files()
    return texts


def stale_files(root: Path, texts: Mapping[str, str]) -> list[str]:
    """Files of the mirrored folders that differ from `texts`, or should not be there."""
    there = {
        str(path.relative_to(root)): path.read_text()
        for folder in {str(Path(path).parent) for path in texts}
        for path in (root / folder).glob("*.proto")
    }
    return sorted(path for path in there.keys() | texts.keys() if there.get(path) != texts.get(path))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing, fail if something would change")
    check = parser.parse_args().check
    try:
        texts = generate()
    except ContractError as error:
        print(f"proto/contract.toml: {error}", file=sys.stderr)
        return 1
    stale = stale_files(ROOT, texts)
    if check:
        for path in stale:
            print(f"proto/{path} is not what proto/contract.toml says: run tools/import_shapes.py", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        if path in texts:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(texts[path])
        else:
            (ROOT / path).unlink()
        print(f"proto/{path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
