"""A cloud's home is a folder of its own: `destroy` deletes nothing that was there before."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from deploy.home import check_new
from deploy.machine import Unmet


def test_the_root_and_homes_of_users_are_refused_however_empty() -> None:
    with pytest.raises(Unmet, match="--home"):
        check_new(Path("/"))
    with pytest.raises(Unmet, match="is the home of user root"):
        check_new(Path(pwd.getpwnam("root").pw_dir))


@pytest.mark.parametrize("name", ["thesis.tex", ".profile", "log/old", "deep/er/file", "pki/lost+found/file"])
def test_a_folder_with_somebodys_file_is_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    with pytest.raises(Unmet) as refused:
        check_new(tmp_path)
    assert name in str(refused.value)
    assert "--home" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_link_to_a_folder_is_somebodys(tmp_path: Path) -> None:
    (tmp_path / "photos").symlink_to("/")
    with pytest.raises(Unmet, match="photos"):
        check_new(tmp_path)


def test_what_a_killed_up_or_a_fresh_file_system_leaves_is_no_reason(tmp_path: Path) -> None:
    check_new(tmp_path / "missing")
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "lost+found" / "#12").touch()
    (tmp_path / "log" / "etcd").mkdir(parents=True)
    (tmp_path / ".mallee.toml.part").touch()
    check_new(tmp_path)
