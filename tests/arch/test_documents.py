"""The documents are true: what they name is there, and the walk of RunInstances is as short as it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_HOPS, MAX_FILES_A_HOP = 3, 4
_FILE = re.compile(r"`([a-z0-9_]+(?:/[a-z0-9_.]+)*\.(?:py|sh|toml|txt|proto))`")


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_named_files_are_there(document: str) -> None:
    names = {name for name in _FILE.findall((ROOT / document).read_text()) if "/" in name}
    assert not [name for name in names if not (ROOT / name).is_file() and not any(ROOT.glob(f"*/**/{name}"))]


def test_the_walk_of_a_launch_is_short() -> None:
    _, _, text = (ROOT / "ARCHITECTURE.md").read_text().partition("## RunInstances, file by file")
    rows = [line.split("|") for line in text.partition("\n## ")[0].splitlines() if line.startswith("| ")][1:]
    hops = [row[1] for row in rows if "hop" in row[1]]
    assert [re.search(r"hop (\d)", hop).group(1) for hop in hops] == ["1", "2", "3"][:MAX_HOPS]  # type: ignore[union-attr]
    for row in rows:
        files = _FILE.findall(row[2])
        assert 1 <= len(files) <= MAX_FILES_A_HOP, row[1]
        assert all((ROOT / name).is_file() for name in files), row[1]
