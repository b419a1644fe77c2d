"""The configuration: what it does not understand it names, in one line, and nothing starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.config import CcConfig, ConfigError, NodesConfig, load, parse

BASE: dict[str, Any] = {"cloud_id": "c0de", "home": "/nowhere"}


def test_what_is_not_said_is_the_default() -> None:
    config = parse(BASE)
    assert (config.cc, config.nodes) == (CcConfig(policy="round-robin"), NodesConfig())
    assert (config.nodes.memory_overcommit, config.nodes.disk_overcommit) == (1.0, 1.0)


def test_scheduling_and_overcommit_are_the_operators_choice(tmp_path: Path) -> None:
    path = tmp_path / "mallee.toml"
    path.write_text(
        'cloud_id = "c0de"\nhome = "/nowhere"\n[cc]\npolicy = "pack"\n'
        "[nodes]\nmemory_overcommit = 2\ndisk_overcommit = 1.5\ncache_bytes = 7\n"
    )
    config = load(path)
    assert config.cc.policy == "pack"
    assert config.nodes == NodesConfig(memory_overcommit=2.0, disk_overcommit=1.5, cache_bytes=7)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cc": {"policy": "luck"}}, "cc: policy: 'luck' is none of greedy, round-robin, spread, pack"),
        ({"cc": {"policy": 1}}, "is none of"),
        ({"cc": {"polcy": "pack"}}, "unknown key 'polcy'; known are policy"),
        ({"nodes": {"cache_bytes": "20G"}}, "cache_bytes: expected int"),
        ({"nodes": {"memory_overcommit": True}}, "memory_overcommit: expected float"),
        ({"nodes": {"disk_overcommit": 0}}, "disk_overcommit"),
        ({"zones": [{"name": "a"}]}, "key 'cc_port' is missing"),
        ({"zones": {}}, "expected a list"),
        ({"cc": 1}, "expected a table"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(BASE | change)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("[[")
    for name in ("broken.toml", "missing.toml"):
        with pytest.raises(ConfigError, match=name):
            load(tmp_path / name)
