"""What the builders of guest images stand on: a build that is kept, and an archive of given packages."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from images.kept import Kept
from images.mirror import make_mirror


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    # Parts are named by where they lie in the package.
    parts = Path(__file__).parents[2] / "images/debian-12"
    return Kept(folder=tmp_path / "out", files=(tmp_path / "out/kernel", tmp_path / "out/root"), parts=parts)


class Maker:
    def __init__(self) -> None:
        self.times = 0

    def __call__(self, work: Path) -> None:
        self.times += 1
        for name in ("kernel", "root", "scratch"):
            (work / name).write_text(f"{name} {self.times}")


def ensure(kept: Kept, maker: Maker, *, refresh: bool = False) -> None:
    kept.ensure(maker, lambda step, share: None, refresh=refresh)


def test_a_build_is_made_once_and_made_anew_when_asked(kept: Kept) -> None:
    maker = Maker()
    ensure(kept, maker)
    ensure(kept, maker)
    assert [file.read_text() for file in kept.files] == ["kernel 1", "root 1"]
    ensure(kept, maker, refresh=True)
    assert [file.read_text() for file in kept.files] == ["kernel 2", "root 2"]


def test_nothing_but_the_result_stays(kept: Kept) -> None:
    left = kept.folder / ".build-of-a-killed-one"
    left.mkdir(parents=True)
    ensure(kept, Maker())
    assert {path.name for path in kept.folder.iterdir()} == {"kernel", "root", "build.json", ".lock"}


@pytest.mark.parametrize("name", ["root", "build.json"])
def test_a_build_that_is_not_whole_is_made_anew(kept: Kept, name: str) -> None:
    maker = Maker()
    ensure(kept, maker)
    (kept.folder / name).write_text("cut")
    ensure(kept, maker)
    assert maker.times == 2
    assert (kept.folder / "root").read_text() == "root 2"


def test_a_build_that_fails_leaves_the_old_one(kept: Kept) -> None:
    ensure(kept, Maker())

    def broken(work: Path) -> None:
        (work / "kernel").write_text("new")
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        kept.ensure(broken, lambda step, share: None, refresh=True)
    assert [file.read_text() for file in kept.files] == ["kernel 1", "root 1"]
    maker = Maker()
    ensure(kept, maker)
    assert maker.times == 0


def test_an_archive_holds_the_packages_and_says_what_they_are(tmp_path: Path) -> None:
    packages = [package(tmp_path, name) for name in ("one", "two")]
    mirror = tmp_path / "mirror"
    assert make_mirror(packages, mirror, suite="bookworm") == ["one", "two"]
    index = mirror / "dists/bookworm/main/binary-amd64/Packages"
    *texts, end = index.read_text().split("\n\n")
    assert end == ""
    entries = [dict(line.split(": ", 1) for line in text.splitlines()) for text in texts]
    assert [entry["Package"] for entry in entries] == ["one", "two"]
    for entry in entries:
        content = (mirror / entry["Filename"]).read_bytes()
        assert (entry["Size"], entry["SHA256"]) == (str(len(content)), hashlib.sha256(content).hexdigest())
    digest = hashlib.sha256(index.read_bytes()).hexdigest()
    release = (mirror / "dists/bookworm/Release").read_text()
    assert f" {digest} {index.stat().st_size} main/binary-amd64/Packages\n" in release


def package(folder: Path, name: str) -> Path:
    control = folder / name / "DEBIAN/control"
    control.parent.mkdir(parents=True)
    control.write_text(
        f"Package: {name}\nVersion: 1:1\nArchitecture: all\nMaintainer: nobody <n@example.org>\nDescription: {name}\n"
    )
    file = folder / f"{name}_1%3a1_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", str(folder / name), str(file)], check=True)
    return file
