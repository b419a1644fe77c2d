"""Writes a CloudConfig as the TOML that common.config reads. What is at its default value is written too: the file is
the operator's list of what can be changed."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, Final

from common.config import CloudConfig

FILE_NAME: Final = "mallee.toml"
_HEAD: Final = """\
# Configuration of this cloud. `mallee up` wrote it; edit it and run `mallee up` again, which restarts what it changes.
# Only [machine] is its own note: what there was to share out among the nodes.
"""


def dump(config: CloudConfig) -> str:
    return _HEAD + "\n".join(_table("", config)) + "\n"


def write(path: Path, config: CloudConfig) -> bool:
    """Whole or not at all. False: the file says so already."""
    text = dump(config)
    if path.exists() and path.read_text() == text:
        return False
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    part.chmod(0o644)
    os.replace(part, path)
    return True


def _table(name: str, value: Any) -> list[str]:
    """Scalars first, as TOML wants it; then tables; then arrays of tables."""
    fields = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
    lines = [f"{key} = {_scalar(v)}" for key, v in fields if not _is_table(v) and not _is_tables(v)]
    for key, v in fields:
        inner = f"{name}.{key}" if name else key
        if _is_table(v):
            lines += ["", f"[{inner}]", *_table(inner, v)]
        elif _is_tables(v):
            for item in v:
                lines += ["", f"[[{inner}]]", *_table(inner, item)]
    return lines


def _is_table(value: Any) -> bool:
    return dataclasses.is_dataclass(value)


def _is_tables(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(dataclasses.is_dataclass(item) for item in value)


def _scalar(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            # A JSON string is a TOML basic string, but for DEL, which no value of ours has.
            return json.dumps(value, ensure_ascii=False)
        case tuple():
            return "[" + ", ".join(_scalar(item) for item in value) + "]"
        case _:
            raise TypeError(f"no TOML for {type(value).__name__}")
