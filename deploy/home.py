"""Which folders may become a cloud's home. Everything in a home goes when its cloud does, so nothing of others' may."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Final

from deploy.config_file import FILE_NAME
from deploy.machine import SERVICE_USER, Unmet

# What mkfs makes on a fresh file system, and what a killed `up` may leave of the first file that it writes.
LOST_AND_FOUND: Final = "lost+found"
_NOBODYS: Final = {LOST_AND_FOUND, f".{FILE_NAME}.part"}


def check_place(home: Path) -> None:
    """Raises Unmet for folders that no cloud may have, however empty they are."""
    if home == Path("/"):
        raise Unmet("/ cannot be a cloud's home: choose a folder of its own with --home")
    for user in pwd.getpwall():
        if user.pw_name != SERVICE_USER and Path(user.pw_dir) == home:
            raise Unmet(f"{home} is the home of user {user.pw_name}: choose a folder of its own with --home")


def check_new(home: Path) -> None:
    """For a home without a configuration. Raises Unmet if it has what somebody else put there."""
    check_place(home)
    if found := _first_content(home):
        raise Unmet(
            f"{home} has no {FILE_NAME} but other files ({found}), which 'mallee destroy' would delete: "
            "choose an empty or new folder with --home"
        )


def _first_content(home: Path) -> str:
    """Folders without any file are nobody's loss."""
    for folder, folders, files in os.walk(home):
        here = Path(folder)
        if here == home:
            folders[:] = [name for name in folders if name != LOST_AND_FOUND]
        for name in [*files, *(name for name in folders if (here / name).is_symlink())]:
            if here != home or name not in _NOBODYS:
                return str((here / name).relative_to(home))
    return ""
