"""The `mallee` command as scripts use it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from cli.main import app


def test_every_command_answers_in_json_where_it_is_asked_to() -> None:
    without = [name for name, options in commands(typer.main.get_command(app)) if "--json" not in options]
    assert not without


def commands(command: Any, path: str = "mallee") -> Iterator[tuple[str, set[str]]]:
    """Those that do something, and their options."""
    if inner := getattr(command, "commands", None):
        for name, sub in inner.items():
            yield from commands(sub, f"{path} {name}")
    else:
        yield path, {option for parameter in command.params for option in parameter.opts}
