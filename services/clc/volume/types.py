"""Volume types: what each takes for its size, IOPS and throughput, what it has by default, and what it may do.

Pure. (EBS User Guide, "Amazon EBS volume types"; API reference, CreateVolume.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from common.errors import InvalidArgument
from mallee.sc.v1 import volume_pb2

DEFAULT_TYPE: Final = "gp2"
GIB: Final = 1 << 30
_MIB: Final = 1 << 20
# Of one operation, as limits count them.
_OPERATION: Final = 256 << 10
# gp2: I/O credits of a volume that was idle, and the rate that they may be spent at.
_CREDITS: Final = 5_400_000
_BURST_IOPS: Final = 3000


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    low: int
    high: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeType:
    name: str
    size_gib: Range
    # What may be asked for. None: nothing.
    iops: Range | None = None
    # What every volume of the type has, asked for or not. 0: it has to be said.
    default_iops: int = 0
    iops_per_gib: int = 0
    # As `iops`: what every volume of the type has, and at most.
    throughput_mibps: Range | None = None


TYPES: Final = {
    its.name: its
    for its in (
        VolumeType(name="gp2", size_gib=Range(low=1, high=16_384)),
        VolumeType(
            name="gp3",
            size_gib=Range(low=1, high=65_536),
            iops=Range(low=100, high=80_000),
            default_iops=3000,
            iops_per_gib=500,
            throughput_mibps=Range(low=125, high=2000),
        ),
        VolumeType(name="io1", size_gib=Range(low=4, high=16_384), iops=Range(low=100, high=64_000), iops_per_gib=50),
        VolumeType(
            name="io2", size_gib=Range(low=4, high=65_536), iops=Range(low=100, high=256_000), iops_per_gib=1000
        ),
        VolumeType(name="st1", size_gib=Range(low=125, high=16_384)),
        VolumeType(name="sc1", size_gib=Range(low=125, high=16_384)),
        VolumeType(name="standard", size_gib=Range(low=1, high=1024)),
    )
}
_MOST_MIBPS_PER_IOPS: Final = 0.25
# Of the types whose throughput goes by their size: MiB/s of a TiB, and at most; operations that small ones may do.
_DISKS: Final = {"st1": (250, 500, 500), "sc1": (80, 250, 250)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a volume is, besides what is on it. 0: not a figure of its type."""

    size_gib: int
    volume_type: str
    iops: int
    throughput_mibps: int

    @property
    def size_bytes(self) -> int:
        return self.size_gib * GIB


def check_shape(
    *, size_gib: int, volume_type: str = "", iops: int | None = None, throughput_mibps: int | None = None
) -> Shape:
    """The shape with its defaults. Raises InvalidArgument in EC2's words (InvalidParameterValue, -Combination)."""
    its = type_of(volume_type or DEFAULT_TYPE)
    _check_size(its, size_gib)
    if iops is not None and its.iops is None:
        raise _contradiction(f"The parameter iops is not supported for {its.name} volumes.")
    if throughput_mibps is not None and its.throughput_mibps is None:
        raise _contradiction("Throughput can only be specified for volumeType gp3.")
    if its.iops is None:
        return Shape(
            size_gib=size_gib, volume_type=its.name, iops=_baseline_iops(its.name, size_gib), throughput_mibps=0
        )
    if iops is None and not its.default_iops:
        raise _contradiction(f"The parameter iops must be specified for {its.name} volumes.")
    asked = its.default_iops if iops is None else iops
    _check_iops(its, asked, size_gib)
    provisioned = max(asked, its.default_iops)
    if its.throughput_mibps is None:
        return Shape(size_gib=size_gib, volume_type=its.name, iops=provisioned, throughput_mibps=0)
    throughput = max(throughput_mibps or 0, its.throughput_mibps.low)
    if throughput_mibps is not None and throughput_mibps < 0:
        raise InvalidArgument(f"Value ({throughput_mibps}) for parameter throughput is invalid: it is not positive.")
    _check_throughput(its.throughput_mibps, throughput, provisioned)
    return Shape(size_gib=size_gib, volume_type=its.name, iops=provisioned, throughput_mibps=throughput)


def type_of(name: str) -> VolumeType:
    """In upper case, too. Raises InvalidArgument (UnknownVolumeType)."""
    its = TYPES.get(name.lower())
    if its is None:
        raise InvalidArgument(f"Unsupported volume type '{name}' for volume creation.", code="UnknownVolumeType")
    return its


def limits_of(shape: Shape) -> volume_pb2.VolumeLimits:
    """What the storage controller lets the volume do."""
    size_gib, iops = shape.size_gib, shape.iops
    match shape.volume_type:
        case "gp2":
            burst = iops < _BURST_IOPS
            return volume_pb2.VolumeLimits(
                iops=iops,
                throughput_bytes_per_s=(128 if size_gib <= 170 else 250) * _MIB,
                burst_iops=_BURST_IOPS if burst else 0,
                burst_s=_CREDITS // (_BURST_IOPS - iops) if burst else 0,
            )
        case "gp3":
            return volume_pb2.VolumeLimits(iops=iops, throughput_bytes_per_s=shape.throughput_mibps * _MIB)
        case "io1":
            # Operations of 256 KiB up to 500 MiB/s; beyond 32,000 IOPS of 16 KiB each.
            throughput = max(min(iops * _OPERATION, 500 * _MIB), min(iops * (16 << 10), 1000 * _MIB))
            return volume_pb2.VolumeLimits(iops=iops, throughput_bytes_per_s=throughput)
        case "io2":
            return volume_pb2.VolumeLimits(iops=iops, throughput_bytes_per_s=min(iops * _OPERATION, 4000 * _MIB))
        case "st1" | "sc1" as name:
            per_tib, most, operations = _DISKS[name]
            # Their operations are 1 MiB at most: what counts in smaller ones must not end them below their throughput.
            throughput = min(per_tib * size_gib * _MIB // 1024, most * _MIB)
            return volume_pb2.VolumeLimits(
                iops=max(operations, -(-throughput // _OPERATION)), throughput_bytes_per_s=throughput
            )
        case _:
            return volume_pb2.VolumeLimits(iops=200, throughput_bytes_per_s=90 * _MIB)


def _baseline_iops(name: str, size_gib: int) -> int:
    return min(max(100, 3 * size_gib), 16_000) if name == "gp2" else 0


def _check_size(its: VolumeType, size_gib: int) -> None:
    if size_gib < its.size_gib.low:
        raise InvalidArgument(
            f"Volume of {size_gib}GiB is too small for volume type {its.name}; minimum is {its.size_gib.low}GiB."
        )
    if size_gib > its.size_gib.high:
        raise InvalidArgument(
            f"Volume of {size_gib}GiB is too large for volume type {its.name}; maximum is {its.size_gib.high}GiB."
        )


def _check_iops(its: VolumeType, iops: int, size_gib: int) -> None:
    assert its.iops is not None
    if iops < its.iops.low:
        raise InvalidArgument(f"Volume iops of {iops} is too low; minimum is {its.iops.low}.")
    if iops > its.iops.high:
        raise InvalidArgument(f"Volume iops of {iops} is too high; maximum is {its.iops.high}.")
    # What every volume of the type has anyway is no matter of its size.
    if iops != its.default_iops and iops > its.iops_per_gib * size_gib:
        raise InvalidArgument(
            f"Iops to volume size ratio of {iops / size_gib:f} is too high; maximum is {its.iops_per_gib}"
        )


def _check_throughput(allowed: Range, throughput: int, iops: int) -> None:
    if throughput > allowed.high:
        raise InvalidArgument(f"Throughput (MiBps) of {throughput} is too high; maximum is {allowed.high}.")
    if throughput > _MOST_MIBPS_PER_IOPS * iops:
        raise InvalidArgument(
            f"Throughput (MiBps) to iops ratio of {throughput / iops:f} is too high; maximum is"
            f" {_MOST_MIBPS_PER_IOPS:f} MiBps per iops"
        )


def _contradiction(words: str) -> InvalidArgument:
    return InvalidArgument(words, code="InvalidParameterCombination")
