"""What a store says of its share of the buckets."""

from __future__ import annotations

from pathlib import Path

import pytest

from common import shard_file
from common.config import ConfigError


def test_a_new_store_is_the_share_it_was_made_as(tmp_path: Path) -> None:
    shard_file.claim(tmp_path, 1, 3)
    assert (tmp_path / "shard").read_text() == "2 of 3\n"
    shard_file.claim(tmp_path, 1, 3)
    for shard, count in ((0, 3), (1, 2), (0, 1)):
        with pytest.raises(ConfigError, match="set it to 3 again"):
            shard_file.claim(tmp_path, shard, count)
    assert (tmp_path / "shard").read_text() == "2 of 3\n"


def test_a_store_of_an_earlier_version_holds_all_buckets(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").touch()
    with pytest.raises(ConfigError, match="set it to 1 again"):
        shard_file.claim(tmp_path, 0, 2)
    assert not (tmp_path / "shard").exists()
    shard_file.claim(tmp_path, 0, 1)
    assert (tmp_path / "shard").read_text() == "1 of 1\n"


def test_what_is_not_there_yet_is_no_other_share(tmp_path: Path) -> None:
    shard_file.check(tmp_path / "none", 1, 2)
    shard_file.check(tmp_path, 1, 2)
    assert not list(tmp_path.iterdir())


def test_a_file_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shard").write_text("two of three")
    with pytest.raises(ConfigError, match="two of three"):
        shard_file.check(tmp_path, 1, 3)
