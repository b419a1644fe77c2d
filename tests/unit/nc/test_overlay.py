from __future__ import annotations

import struct
from pathlib import Path

import pytest

from common.errors import InvalidArgument, NoCapacity
from mallee.nc.v1 import service_pb2
from services.nc.capacity import check_fits, used_by
from services.nc.overlay import Overlay, check_backing, plain_qcow2_bytes


def header(*, magic: int = 0x514649FB, version: int = 3, backing: int = 0, crypt: int = 0, features: int = 0) -> bytes:
    fixed = struct.pack(">IIQIIQI", magic, version, backing, 0, 16, 1 << 30, crypt)
    return fixed.ljust(72, b"\0") + struct.pack(">Q", features).ljust(64, b"\0")


def test_a_plain_qcow2_tells_its_size() -> None:
    assert plain_qcow2_bytes(header()) == 1 << 30
    assert plain_qcow2_bytes(header(version=2)) == 1 << 30
    assert plain_qcow2_bytes(header(features=0b1000)) == 1 << 30


@pytest.mark.parametrize(
    "hostile",
    [
        header(backing=512),
        header(features=0b100),
        header(features=0b10),
        header(features=1 << 40),
        header(crypt=1),
        header(version=4),
        header(magic=0),
        header()[:70],
        b"",
    ],
)
def test_a_qcow2_that_points_elsewhere_is_refused(hostile: bytes) -> None:
    with pytest.raises(InvalidArgument):
        plain_qcow2_bytes(hostile)


def test_an_image_larger_than_the_disk_is_refused(tmp_path: Path) -> None:
    backing = tmp_path / "image"
    backing.write_bytes(b"\0" * 2048)
    overlay = Overlay(path=tmp_path / "d", backing=backing, backing_format="raw", size_bytes=1024, owner=None)
    with pytest.raises(InvalidArgument) as refused:
        check_backing(overlay)
    assert refused.value.code == "InvalidParameterCombination"


def need(vcpus: int, memory: int, disk: int) -> service_pb2.Resources:
    return service_pb2.Resources(vcpus=vcpus, memory_bytes=memory, disk_bytes=disk)


@pytest.mark.parametrize(
    ("wanted", "fits"), [((1, 1, 1), True), ((2, 1, 1), False), ((1, 2, 1), False), ((1, 1, 2), False)]
)
def test_the_last_place_is_given_away_once(wanted: tuple[int, int, int], fits: bool) -> None:
    total = service_pb2.Resources(vcpus=3, memory_bytes=3, disk_bytes=3)
    used = used_by([need(1, 1, 1)], service_pb2.Resources(vcpus=1, memory_bytes=1, disk_bytes=1))
    if fits:
        check_fits(need(*wanted), total=total, used=used)
    else:
        with pytest.raises(NoCapacity):
            check_fits(need(*wanted), total=total, used=used)
