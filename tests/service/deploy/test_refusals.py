"""What `make run` says on a machine that it cannot use: one line, before anything is made."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SETUP = ROOT / "deploy/setup.sh"
# Machines unlike this one, each in a mount namespace that ends with the command.
UNLIKE = {
    "another system": (
        "printf 'ID=ubuntu\\nVERSION_ID=24.04\\n' > {folder}/release && mount --bind {folder}/release /etc/os-release",
        "mallee: this is 'ubuntu 24.04', and only Debian 12 is supported: use a Debian 12 machine",
    ),
    "no room": (
        "mount -t tmpfs -o size=1m tmpfs /opt",
        "mallee: /opt has 1 MiB free and 6144 MiB are needed: make room there",
    ),
    "no root": (
        "true",
        "mallee: virtual machines and networks need root: run it as root, or 'make run-fake' for a cloud without them",
    ),
}


@pytest.mark.root
@pytest.mark.parametrize("what", UNLIKE)
def test_a_machine_that_cannot_be_used_is_told_so_in_one_line(what: str, tmp_path: Path) -> None:
    prepare, told = UNLIKE[what]
    user = "setpriv --reuid 65534 --regid 65534 --clear-groups" if what == "no root" else ""
    # As `bash -s`: the checkout may lie where others cannot read.
    script = f"{prepare.format(folder=tmp_path)} && cd /usr && exec {user} bash -s run < {tmp_path}/setup.sh"
    (tmp_path / "setup.sh").write_text(SETUP.read_text().replace('cd "$(dirname "${BASH_SOURCE[0]}")/.."', ""))
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.splitlines()) == (1, "", [told])
