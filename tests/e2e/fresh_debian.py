"""A fresh Debian 12 to install into: a root made by debootstrap, with its own processes.

The root is kept as a tarball under /var/cache/mallee-tests. It reaches registries the way this machine does: apt's and
pip's settings are copied in. Its mounts live in a mount namespace, its processes in a process namespace: both end with
the command that made them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CACHE = Path("/var/cache/mallee-tests")
CHECKOUT = Path(__file__).parents[2]
# Where the machine's own way to its registries is written down.
SETTINGS = ["/etc/apt", "/etc/pip.conf", "/root/.config/pip", "/etc/resolv.conf", "/etc/hosts"]
KEPT_VARIABLES = re.compile(r"PIP_|https?_proxy|no_proxy", re.IGNORECASE)
# Apart from Debian's own bundle, which installing ca-certificates in there makes afresh.
AUTHORITIES, BUNDLE = "/etc/ssl/certs/ca-certificates.crt", "/etc/authorities-of-the-host.pem"


class FreshDebian:
    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, script: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """As root in there, in namespaces that end with it."""
        mounts = "\n".join(
            f"mkdir -p {self.root}{path}; mount --bind {path} {self.root}{path}" for path in _local_indexes()
        )
        # A mount point of its own, as a machine's root is one.
        outer = f"""set -e
mount --bind {self.root} {self.root}
mount -t proc proc {self.root}/proc
mount -t sysfs sysfs {self.root}/sys
mount -t tmpfs tmpfs {self.root}/run
mount -t tmpfs tmpfs {self.root}/dev
mkdir {self.root}/dev/net {self.root}/dev/pts {self.root}/dev/shm
mount -t tmpfs -o mode=1777 tmpfs {self.root}/dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts {self.root}/dev/pts
ln -s pts/ptmx {self.root}/dev/ptmx
ln -s /proc/self/fd {self.root}/dev/fd
for device in null zero full random urandom tty net/tun; do
    touch {self.root}/dev/$device
    mount --bind /dev/$device {self.root}/dev/$device
done
{mounts}
exec chroot {self.root} /bin/bash -c "$0"
"""
        environment = {key: value for key, value in os.environ.items() if KEPT_VARIABLES.match(key)}
        environment |= dict.fromkeys(("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"), BUNDLE)
        environment |= {"HOME": "/root", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        done = subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/bash", "-c", outer, script],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=800,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done


def _local_indexes() -> list[str]:
    """Folders of this machine that pip's settings name, by two parts: an index points to files beside it."""
    shown = subprocess.run(
        ["/usr/bin/python3", "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    texts = [shown.stdout, *(value for key, value in os.environ.items() if key.startswith("PIP_"))]
    named = {match for text in texts for match in re.findall(r"(?<![\w:])(?:file://)?(/(?:opt|srv|mnt)/[\w.-]+)", text)}
    return sorted(path for path in named if Path(path).is_dir())


@contextmanager
def fresh_debian() -> Iterator[FreshDebian]:
    """With a clone of this checkout in /root/mallee, and nothing installed."""
    CACHE.mkdir(parents=True, exist_ok=True)
    root = CACHE / f"root-{os.getpid()}"
    for left in CACHE.glob("root-*"):
        if not Path(f"/proc/{left.name.removeprefix('root-')}").exists():
            shutil.rmtree(left)
    tarball = CACHE / "bookworm.tar"
    if not tarball.exists():
        _make_tarball(tarball)
    root.mkdir()
    subprocess.run(["tar", "-xf", str(tarball), "-C", str(root)], check=True)
    for path in map(Path, SETTINGS):
        target = Path(f"{root}{path}")
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, target, dirs_exist_ok=True, ignore_dangling_symlinks=True)
        elif path.exists():
            target.unlink(missing_ok=True)
            shutil.copyfile(path, target)
    shutil.copyfile(AUTHORITIES, f"{root}{BUNDLE}")
    _copy_checkout(root / "root" / "mallee")
    try:
        yield FreshDebian(root)
    finally:
        shutil.rmtree(root)


def _make_tarball(tarball: Path) -> None:
    root, part = CACHE / f"root-{os.getpid()}", tarball.with_suffix(f".{os.getpid()}")
    mirror = re.search(r"\b(https?://\S*?/debian)/?(?:\s|$)", subprocess.getoutput("apt-cache policy"))
    address = [mirror.group(1)] if mirror else []
    made = subprocess.run(
        ["debootstrap", "--variant=minbase", "bookworm", str(root), *address],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout[-2000:]
    subprocess.run(["tar", "-cf", str(part), "-C", str(root), "."], check=True)
    part.rename(tarball)
    shutil.rmtree(root)


def _copy_checkout(target: Path) -> None:
    """What a clone has: no environment, no generated stubs."""
    target.mkdir()
    excluded = ["./.git", "./.venv", "./gen", "./.*_cache", "__pycache__"]
    options = [f"--exclude={pattern}" for pattern in excluded]
    packed = subprocess.run(["tar", "-c", *options, "."], cwd=CHECKOUT, capture_output=True, check=False)
    # 1: somebody edited a file meanwhile.
    assert packed.returncode in (0, 1), packed.stderr
    subprocess.run(["tar", "-x"], cwd=target, input=packed.stdout, check=True)
