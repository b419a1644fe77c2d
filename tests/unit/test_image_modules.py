"""The pure parts of the image builder: module order and the cpio archive."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from images import cpio
from images.modules import load_order

VIRTIO = {
    "virtio_blk": ["virtio", "virtio_ring"],
    "virtio_pci": ["virtio_ring", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio"],
    "virtio": ["virtio_ring"],
    "virtio_ring": [],
    "virtio_pci_modern_dev": [],
    "virtio_pci_legacy_dev": [],
}


def test_the_drivers_of_a_disk_come_in_order() -> None:
    order = load_order(["virtio_pci", "virtio_blk"], VIRTIO)
    assert order[0] == "virtio_ring"
    assert order[-2:] == ["virtio_pci", "virtio_blk"]
    assert len(order) == len(VIRTIO)


@given(st.lists(st.sets(st.integers(0, 19)), min_size=1, max_size=20))
def test_every_module_comes_once_and_after_what_it_needs(needs: list[set[int]]) -> None:
    # Module n may need smaller numbers only: no circles.
    depends = {str(n): [str(other) for other in sorted(needed) if other < n] for n, needed in enumerate(needs)}
    order = load_order(depends, depends)
    assert sorted(order) == sorted(depends)
    for name, others in depends.items():
        assert all(order.index(other) < order.index(name) for other in others)


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_cpio_unpacks_what_was_packed(tmp_path: Path) -> None:
    tree, back = tmp_path / "tree", tmp_path / "back"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/odd").write_bytes(b"\0\1\2")
    (tree / "init").write_text("#!/bin/sh\n")
    (tree / "init").chmod(0o755)
    (tree / "link").symlink_to("etc/odd")
    archive = cpio.pack(tree)
    assert archive == cpio.pack(tree)
    back.mkdir()
    subprocess.run(["cpio", "-idm", "--quiet"], cwd=back, input=archive, check=True)
    assert (back / "etc/odd").read_bytes() == b"\0\1\2"
    assert (back / "link").readlink() == Path("etc/odd")
    assert (back / "init").stat().st_mode & 0o777 == 0o755
