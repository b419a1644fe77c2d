"""The documents are true: what they name is there, and the walk of RunInstances goes where it says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_FILES_A_HOP = 4
# The hops of the walk: what each is in the code, and the stub by which it calls the next.
HOPS = {
    "1": ("services/clc", "ClusterControllerServiceStub"),
    "2": ("services/cc", "NodeControllerServiceStub"),
    "3": ("services/nc", ""),
}
_STUBS = {stub for _, stub in HOPS.values() if stub}
_FILE = re.compile(r"`([a-z0-9_]+(?:/[a-z0-9_.]+)*\.(?:py|sh|toml|txt|proto))`")
_USE_CASE = '@use_case("ec2.RunInstances")'


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_named_files_are_there(document: str) -> None:
    names = {name for name in _FILE.findall((ROOT / document).read_text()) if "/" in name}
    assert not [name for name in names if not (ROOT / name).is_file() and not any(ROOT.glob(f"*/**/{name}"))]


def walk() -> dict[str, list[str]]:
    """The first cell of each row → the files it names."""
    _, _, text = (ROOT / "ARCHITECTURE.md").read_text().partition("## RunInstances, file by file")
    rows = [line.split("|") for line in text.partition("\n## ")[0].splitlines() if line.startswith("| ")][1:]
    return {row[1].strip(): _FILE.findall(row[2]) for row in rows}


def test_every_row_of_the_walk_names_a_few_files_that_are_there() -> None:
    for row, files in walk().items():
        assert 1 <= len(files) <= MAX_FILES_A_HOP, row
        assert all((ROOT / name).is_file() for name in files), row


def test_a_launch_takes_the_hops_of_the_walk_and_no_more() -> None:
    found = [match.group(1) for row in walk() if (match := re.match(r"hop (\d)", row))]
    assert found == list(HOPS)
    for folder, stub in HOPS.values():
        sources = [path.read_text() for path in (ROOT / folder).rglob("*.py")]
        assert {each for each in _STUBS if any(each in source for source in sources)} == {stub} - {""}, folder


@pytest.mark.parametrize("number", HOPS)
def test_a_hop_goes_from_its_handler_to_the_files_of_the_walk(number: str) -> None:
    folder, _ = HOPS[number]
    (files,) = (files for row, files in walk().items() if row.startswith(f"hop {number}"))
    assert files[0] == f"{folder}/service.py"
    assert set(files) <= reached(files[0])


def reached(handler: str) -> set[str]:
    """By imports within its service; the CLC's handler finds the action's use case by its name."""
    folder = "/".join(handler.split("/")[:2])
    waiting = [handler]
    if folder == HOPS["1"][0]:
        waiting += [str(p.relative_to(ROOT)) for p in (ROOT / folder).rglob("*.py") if _USE_CASE in p.read_text()]
    found: set[str] = set()
    while waiting:
        if (name := waiting.pop()) not in found:
            found.add(name)
            waiting += [there for there in imported(name) if there.startswith(f"{folder}/")]
    return found


def imported(name: str) -> Iterator[str]:
    for node in ast.walk(ast.parse((ROOT / name).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for dotted in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                if (ROOT / (path := f"{dotted.replace('.', '/')}.py")).is_file():
                    yield path
