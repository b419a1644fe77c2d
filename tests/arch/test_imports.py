"""The architecture as tests: who may import whom, where a bug may be caught, how long a file may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("common", "services", "ec2_facade", "cli", "images", "deploy", "tools", "bench", "tests")

# What each part may import of ours, besides itself and the generated contracts.
MAY_IMPORT = {
    "common": (),
    "ec2_facade": ("common",),
    "services.clc": ("common",),
    "services.walrus": ("common",),
    "services.cc": ("common",),
    "services.sc": ("common",),
    "services.nc": ("common",),
    # They may know how the cloud is laid out, and speak to it only through its contracts.
    "images": ("common",),
    "deploy": ("common", "images"),
    "cli": ("common", "deploy", "images"),
}

# A bug flies to where a request or a pass ends, and nowhere else is it caught.
MAY_CATCH_EVERYTHING = {"common/rpc/interceptor.py", "common/reconcile.py"}

MAX_LINES = 400
MAX_FUNCTION_LINES = 60


@cache
def modules() -> dict[Path, ast.Module]:
    found = {}
    for folder in OURS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            found[path.relative_to(ROOT)] = ast.parse(path.read_text(), filename=str(path))
    return found


def part_of(dotted: str) -> str | None:
    """services.nc.drivers.base -> services.nc; common.ids -> common; None for what is not ours."""
    first, *rest = dotted.split(".")
    if first not in OURS:
        return None
    return f"services.{rest[0]}" if first == "services" and rest else first


def imports_of(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from services import nc` names a part as well.
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def test_each_part_imports_only_what_the_table_allows() -> None:
    wrong = []
    for path, tree in modules().items():
        here = part_of(".".join(path.with_suffix("").parts))
        if here is None or here not in MAY_IMPORT:
            continue
        for line, name in imports_of(tree):
            there = part_of(name)
            if there is not None and there != here and there not in MAY_IMPORT[here]:
                wrong.append(f"{path}:{line}: {here} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_every_service_has_its_row_in_the_table() -> None:
    services = {f"services.{path.name}" for path in (ROOT / "services").iterdir() if any(path.rglob("*.py"))}
    assert services <= set(MAY_IMPORT)


def test_imports_are_absolute() -> None:
    wrong = [
        f"{path}:{node.lineno}"
        for path, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not wrong, wrong


def test_a_bug_is_caught_in_two_places_only() -> None:
    wrong = [
        f"{path}:{node.lineno}"
        for path, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and catches_everything(node) and str(path) not in MAY_CATCH_EVERYTHING
    ]
    assert not wrong, wrong


def catches_everything(handler: ast.ExceptHandler) -> bool:
    """`except:`, `except Exception` and `except BaseException`; what is to be undone goes on an exit stack."""
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = {node.id for node in caught if isinstance(node, ast.Name)}
    return handler.type is None or not names.isdisjoint({"Exception", "BaseException"})


def test_no_seam_is_cut_by_patching() -> None:
    wrong = [
        f"{path}:{line}"
        for path, tree in modules().items()
        for line, name in imports_of(tree)
        if name.startswith(("unittest.mock", "mock."))
    ]
    assert not wrong, wrong


def test_tests_signal_only_what_is_there() -> None:
    """A pid of 0 stands for the whole process group, and with it for the run."""
    wrong = [
        f"{path}:{node.lineno}"
        for path, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in {"kill", "killpg"}
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
        and path.parts[0] in {"tests", "bench"}
        and str(path) != "tests/processes.py"
    ]
    assert not wrong, wrong


@pytest.mark.parametrize("folder", [folder for folder in OURS if folder != "tests"])
def test_every_module_says_what_it_owns(folder: str) -> None:
    wrong = [
        str(path)
        for path, tree in modules().items()
        if path.parts[0] == folder and tree.body and not ast.get_docstring(tree)
    ]
    assert not wrong, wrong


def test_files_are_short_enough_to_read() -> None:
    long = {str(path): len((ROOT / path).read_text().splitlines()) for path in modules()}
    wrong = {path: lines for path, lines in long.items() if lines > MAX_LINES}
    assert not wrong, wrong


def test_functions_are_short_enough_to_read() -> None:
    wrong = [
        f"{path}:{node.lineno} {node.name}"
        for path, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert not wrong, wrong
