"""Sizes, IOPS and throughput of volume types, and what they may do."""

from __future__ import annotations

import pytest

from common.errors import InvalidArgument
from services.clc.volume.device import slot_of
from services.clc.volume.new import shape_of
from services.clc.volume.types import TYPES, Shape, check_shape, limits_of

MIB = 1 << 20


@pytest.mark.parametrize(
    ("given", "iops", "throughput"),
    [
        ({"size_gib": 1}, 100, 0),
        ({"size_gib": 500}, 1500, 0),
        ({"size_gib": 16_384}, 16_000, 0),
        ({"size_gib": 1, "volume_type": "gp3"}, 3000, 125),
        ({"size_gib": 1, "volume_type": "GP3", "iops": 500, "throughput_mibps": 124}, 3000, 125),
        ({"size_gib": 40, "volume_type": "gp3", "iops": 8000, "throughput_mibps": 2000}, 8000, 2000),
        ({"size_gib": 4, "volume_type": "io1", "iops": 200}, 200, 0),
        ({"size_gib": 256, "volume_type": "io2", "iops": 256_000}, 256_000, 0),
        ({"size_gib": 125, "volume_type": "st1"}, 0, 0),
        ({"size_gib": 125, "volume_type": "sc1"}, 0, 0),
        ({"size_gib": 1024, "volume_type": "standard"}, 0, 0),
    ],
)
def test_what_a_type_has_when_little_is_said(given: dict[str, int], iops: int, throughput: int) -> None:
    shape = check_shape(**given)  # type: ignore[arg-type]
    assert (shape.iops, shape.throughput_mibps) == (iops, throughput)


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ({"size_gib": 0}, "InvalidParameterValue", "too small for volume type gp2; minimum is 1GiB"),
        ({"size_gib": 16_385}, "InvalidParameterValue", "too large for volume type gp2; maximum is 16384GiB"),
        ({"size_gib": 3, "volume_type": "io1", "iops": 100}, "InvalidParameterValue", "minimum is 4GiB"),
        ({"size_gib": 124, "volume_type": "st1"}, "InvalidParameterValue", "minimum is 125GiB"),
        ({"size_gib": 1025, "volume_type": "standard"}, "InvalidParameterValue", "maximum is 1024GiB"),
        ({"size_gib": 8, "volume_type": "floppy"}, "UnknownVolumeType", "Unsupported volume type 'floppy'"),
        ({"size_gib": 8, "iops": 100}, "InvalidParameterCombination", "iops is not supported for gp2 volumes"),
        ({"size_gib": 8, "volume_type": "io1"}, "InvalidParameterCombination", "iops must be specified for io1"),
        (
            {"size_gib": 8, "throughput_mibps": 125},
            "InvalidParameterCombination",
            "only be specified for volumeType gp3",
        ),
        ({"size_gib": 8, "volume_type": "io2", "iops": 99}, "InvalidParameterValue", "minimum is 100"),
        ({"size_gib": 8, "volume_type": "gp3", "iops": 99}, "InvalidParameterValue", "minimum is 100"),
        ({"size_gib": 1, "volume_type": "gp3", "iops": 501}, "InvalidParameterValue", "ratio of 501.000000"),
        ({"size_gib": 8, "volume_type": "gp3", "iops": 80_001}, "InvalidParameterValue", "maximum is 80000"),
        ({"size_gib": 20, "volume_type": "gp3", "iops": 15_000}, "InvalidParameterValue", "ratio of 750.000000"),
        ({"size_gib": 4, "volume_type": "io1", "iops": 201}, "InvalidParameterValue", "maximum is 50"),
        ({"size_gib": 8, "volume_type": "gp3", "throughput_mibps": -1}, "InvalidParameterValue", "not positive"),
        ({"size_gib": 8, "volume_type": "gp3", "throughput_mibps": 1000}, "InvalidParameterValue", "0.333333"),
    ],
)
def test_what_a_type_does_not_take_is_refused_in_ec2s_words(given: dict[str, int], code: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words) as refused:
        check_shape(**given)  # type: ignore[arg-type]
    assert refused.value.code == code


def test_a_volume_of_a_snapshot_has_its_size_or_more() -> None:
    assert shape_of(size_gib=None, snapshot_gib=7).size_gib == 7
    assert shape_of(size_gib=9, snapshot_gib=7).size_gib == 9
    with pytest.raises(InvalidArgument, match="smaller than snapshot"):
        shape_of(size_gib=6, snapshot_gib=7)
    with pytest.raises(InvalidArgument) as refused:
        shape_of(size_gib=None, snapshot_gib=None)
    assert refused.value.code == "MissingParameter"


@pytest.mark.parametrize(
    ("shape", "iops", "throughput_mib", "burst"),
    [
        (("gp2", 100, 300, 0), 300, 128, (3000, 2000)),
        (("gp2", 1000, 3000, 0), 3000, 250, (0, 0)),
        (("gp3", 10, 3000, 125), 3000, 125, (0, 0)),
        (("io1", 100, 1000, 0), 1000, 250, (0, 0)),
        (("io1", 2000, 64_000, 0), 64_000, 1000, (0, 0)),
        (("io2", 100, 100_000, 0), 100_000, 4000, (0, 0)),
        (("st1", 1024, 0, 0), 1000, 250, (0, 0)),
        (("st1", 16_384, 0, 0), 2000, 500, (0, 0)),
        (("sc1", 1024, 0, 0), 320, 80, (0, 0)),
        (("standard", 10, 0, 0), 200, 90, (0, 0)),
    ],
)
def test_what_a_volume_may_do(
    shape: tuple[str, int, int, int], iops: int, throughput_mib: int, burst: tuple[int, int]
) -> None:
    name, size_gib, provisioned, throughput = shape
    limits = limits_of(Shape(volume_type=name, size_gib=size_gib, iops=provisioned, throughput_mibps=throughput))
    assert limits.iops == iops
    assert limits.throughput_bytes_per_s == throughput_mib * MIB
    assert (limits.burst_iops, limits.burst_s) == burst


def test_no_volume_is_without_limits() -> None:
    for its in TYPES.values():
        iops = its.iops.low if its.iops else None
        for size_gib in (its.size_gib.low, its.size_gib.high):
            limits = limits_of(check_shape(size_gib=size_gib, volume_type=its.name, iops=iops))
            assert limits.iops > 0
            assert limits.throughput_bytes_per_s > 0


@pytest.mark.parametrize(
    ("name", "slot"),
    [
        ("/dev/sda1", 0),
        ("/dev/sda", 0),
        ("/dev/sdf", 5),
        ("sdf", 5),
        ("xvdf", 5),
        ("/dev/xvdz", 25),
        ("/dev/vdb", 1),
        ("/dev/xvdba", 50),
        ("xvdcx", 97),
    ],
)
def test_the_letter_of_a_device_name_is_its_place(name: str, slot: int) -> None:
    assert slot_of(name) == slot


@pytest.mark.parametrize(
    "name",
    ["", "/dev/", "sd", "/dev/sdf1", "/dev/sdaa", "/dev/xvdby", "xvdea", "/dev/hda", "/dev/sdF", "dev/sdf", "sdf\n"],
)
def test_another_name_is_no_device(name: str) -> None:
    with pytest.raises(InvalidArgument, match="is not a valid EBS device name"):
        slot_of(name)
