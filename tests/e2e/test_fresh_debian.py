"""`make run` in a fresh Debian 12, from nothing to a login and back to nothing."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from tests.cloud_fixture import free_ranges
from tests.e2e.fresh_debian import FreshDebian, fresh_debian
from tests.ports import free_port_base

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def debian() -> Iterator[FreshDebian]:
    with fresh_debian() as debian:
        yield debian


def test_from_nothing_to_a_login_and_back_to_nothing(debian: FreshDebian) -> None:
    # A policy that the administrator has set comes back.
    policy = debian.root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\n# the administrator's\nexit 0\n")
    policy.chmod(0o755)
    base, ranges = free_port_base(), " ".join(free_ranges())
    done = debian.run(f"""
set -e
apt-get -q update && apt-get -qy install --no-install-recommends make procps
cd /root/mallee
deploy/setup.sh run
ps -eo comm= | sort -u >/running
SECONDS=0
trap 'mallee destroy --yes || true' EXIT
make run UP="--port-base {base} {ranges}" >/printed
echo "make run, installed: $SECONDS s"
make run >/dev/null
cd /root
{{ echo set -e; tail -n 5 /printed; }} >lines
sed -i '$ s/$/ hostname/' lines
bash lines
trap - EXIT
mallee destroy --yes
ps -eo comm= | sort -u >/running-after
""")
    assert any("ip-172-31-" in line for line in done.stdout.splitlines()[-3:]), done.stdout
    assert "administrator's" in policy.read_text()
    for moment in ("running", "running-after"):
        running = set((debian.root / moment).read_text().split())
        assert not running & {"etcd", "libvirtd", "virtlogd", "virtlockd", "dnsmasq", "systemd", "s6-svscan"}
    enabled = debian.root / "etc/systemd/system/multi-user.target.wants"
    assert not {path.name for path in enabled.glob("*")} & {"etcd.service", "libvirtd.service"}
    assert not (debian.root / "var/lib/mallee").exists()


def test_an_ordinary_user_makes_a_cloud_without_machines(debian: FreshDebian) -> None:
    done = debian.run(f"""
useradd --create-home somebody && cp -r /root/mallee /home/somebody/mallee && chown -R somebody: /home/somebody
cat >/home/somebody/try <<'END'
set -e
cd ~/mallee
make run-fake UP="--port-base {free_port_base()}" >~/printed
eval "$(tail -n 4 ~/printed)"
~/.local/bin/mallee destroy --yes
END
setpriv --reuid=somebody --regid=somebody --init-groups env -i HOME=/home/somebody PATH=/usr/bin:/bin \
    $(env | grep -E '^(PIP_|SSL_CERT_FILE)') /bin/bash /home/somebody/try
""")
    assert "The cloud is gone" in done.stdout


def test_repeating_it_installs_nothing(debian: FreshDebian) -> None:
    done = debian.run("cd /root/mallee && deploy/setup.sh run")
    assert "Installing" not in done.stderr


def test_an_interrupted_installation_is_done_again(debian: FreshDebian) -> None:
    # With one small package instead of all: another lock, another environment.
    checkout = debian.root / "root/mallee"
    lock = (checkout / "requirements.lock").read_text()
    first = re.split(r"^(?=\S)", lock, maxsplit=2, flags=re.MULTILINE)[1]
    (checkout / "requirements.lock").write_text(first)
    module = first.partition("==")[0]
    try:
        venv = Path(debian.run("cd /root/mallee && deploy/setup.sh run >&2 && readlink .venv").stdout.strip())
        assert f"venv-{sha256(first.encode()).hexdigest()[:12]}" == venv.name
        (debian.root / venv.relative_to("/") / ".complete").unlink()
        shutil.rmtree(debian.root / venv.relative_to("/") / "lib/python3.11/site-packages" / module)
        again = debian.run(f"cd /root/mallee && deploy/setup.sh run && .venv/bin/python -c 'import {module}'")
        assert "Installing Python packages" in again.stderr
    finally:
        (checkout / "requirements.lock").write_text(lock)


def test_what_is_not_debian_12_is_refused_in_one_line(debian: FreshDebian) -> None:
    release = debian.root / "etc/os-release"
    before = release.read_text()
    release.unlink()
    release.write_text(before.replace('"12"', '"11"'))
    done = debian.run("cd /root/mallee && deploy/setup.sh run", check=False)
    release.write_text(before)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Debian 12" in done.stderr
