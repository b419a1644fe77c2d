"""Debian packages as files: fetched by apt, unpacked by dpkg, never installed into this machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

# It names the newest kernel built for virtual machines, and stands for that one here.
KERNEL: Final = "linux-image-cloud-amd64"
ROOT_PACKAGES: Final = (
    "busybox-static",
    "dropbear-bin",
    "libc6",
    "libcrypt1",
    "libgmp10",
    "libtomcrypt1",
    "libtommath1",
    "openssh-sftp-server",
    "zlib1g",
)
BOOT_LOADER_PACKAGES: Final = ("mtools", "syslinux", "syslinux-common")


class ImageBuildError(Exception):
    """The image cannot be built; the message says why and what to do."""


def fetch(cache: Path, wanted: Sequence[str], *, with_dependencies: bool = False, refresh: bool = False) -> list[Path]:
    """The packages' files; `with_dependencies`: all that a machine without any package would need, in patterns of apt.

    Those in `cache` are taken, so a second time needs no network; `refresh` asks apt again.
    """
    index = cache / "fetched.json"
    if index.exists() and not refresh:
        known = json.loads(index.read_text())
        files = [cache / name for name in known["files"]]
        if known["wanted"] == list(wanted) and all(file.exists() for file in files):
            return files
    cache.mkdir(parents=True, exist_ok=True)
    download = _download_whole if with_dependencies else _download
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        if refresh:
            run(["apt-get", "-q", "update"])
        try:
            download(Path(folder), wanted)
        except ImageBuildError:
            # A fresh machine has no package lists; old ones name packages that are gone.
            run(["apt-get", "-q", "update"])
            download(Path(folder), wanted)
        files = [file.replace(cache / file.name) for file in sorted(Path(folder).glob("*.deb"))]
    for old in set(cache.glob("*.deb")) - set(files):
        old.unlink()
    index.write_text(json.dumps({"wanted": wanted, "files": [file.name for file in files]}))
    return files


def unpack(packages: Sequence[Path], folder: Path) -> None:
    for package in packages:
        run(["dpkg", "-x", str(package), str(folder)])


def run(command: Sequence[str], *, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Its standard output. Raises ImageBuildError with what it said."""
    try:
        done = subprocess.run(
            command, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=True
        )
    except FileNotFoundError as error:
        raise ImageBuildError(f"{command[0]} is not installed") from error
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout).strip().splitlines()
        raise ImageBuildError(f"{' '.join(command[:3])} … failed: {said[-1] if said else error.returncode}") from error
    return done.stdout


def _kernel_package() -> str:
    """The package that the meta package depends on: linux-image-<version>-cloud-amd64."""
    text = run(["apt-cache", "show", "--no-all-versions", KERNEL])
    found = re.search(r"^Depends:.*?\b(linux-image-[0-9][^ ,]*)", text, re.MULTILINE)
    if found is None:
        raise ImageBuildError(f"{KERNEL} depends on no kernel; is this Debian on amd64?")
    return found[1]


# apt's own user may not write to the folder.
_AS_ROOT: Final = ("-q", "-o", "APT::Sandbox::User=root")


def _download(folder: Path, wanted: Sequence[str]) -> None:
    names = [_kernel_package() if name == KERNEL else name for name in wanted]
    run(["apt-get", *_AS_ROOT, "download", *names], cwd=folder)


def _download_whole(folder: Path, wanted: Sequence[str]) -> None:
    """apt is shown a machine without packages, so that what this one has decides nothing."""
    (folder / "partial").mkdir(exist_ok=True)
    nothing = folder / "status"
    nothing.touch()
    settings = {
        "Dir::State::status": nothing,
        "Dir::State::extended_states": "/dev/null",
        "Dir::Cache": folder,
        "Dir::Cache::archives": folder,
        "Debug::NoLocking": "true",
    }
    options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
    how = ("-y", "--no-install-recommends", "--download-only")
    run(["apt-get", *_AS_ROOT, *how, *options, "install", *wanted])
