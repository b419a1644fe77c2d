"""What libvirt's states, reasons and events mean to us, and whether this host has KVM. Pure, and free of libvirt.

The numbers are libvirt's ABI: https://libvirt.org/html/libvirt-libvirt-domain.html
"""

from __future__ import annotations

import enum
from typing import Final

from services.nc.drivers.base import Power


class _State(enum.IntEnum):
    """virDomainState."""

    PAUSED = 3
    SHUTOFF = 5
    CRASHED = 6


class _Event(enum.IntEnum):
    """virDomainEventType."""

    SUSPENDED = 3
    RESUMED = 4
    STOPPED = 5
    CRASHED = 8


# virDomainPausedReason
_PAUSED_REASONS: Final = {5: Power.STALLED, 10: Power.CRASHED}  # IOERROR, CRASHED
# virDomainEventSuspendedDetailType
_SUSPENDED_DETAILS: Final = {2: Power.STALLED}  # IOERROR
# virDomainShutoffReason: SHUTDOWN, DESTROYED, CRASHED, FAILED
_SHUTOFF_REASONS: Final = {1: Power.OFF_BY_GUEST, 2: Power.OFF_BY_HOST, 3: Power.CRASHED, 6: Power.CRASHED}
# virDomainEventStoppedDetailType: SHUTDOWN, DESTROYED, CRASHED, FAILED
_STOPPED_DETAILS: Final = {0: Power.OFF_BY_GUEST, 1: Power.OFF_BY_HOST, 2: Power.CRASHED, 5: Power.CRASHED}


def power_of_state(state: int, reason: int) -> Power:
    """Of virDomainGetState. Reasons that do not say who did it are OFF_UNKNOWN, so the VM is started again."""
    match state:
        case _State.PAUSED:
            return _PAUSED_REASONS.get(reason, Power.PAUSED)
        case _State.SHUTOFF:
            return _SHUTOFF_REASONS.get(reason, Power.OFF_UNKNOWN)
        case _State.CRASHED:
            return Power.CRASHED
        case _:
            return Power.RUNNING


def power_of_event(event: int, detail: int) -> Power | None:
    """Of a lifecycle event. None: it says nothing new (a start is told again as suspended or resumed)."""
    match event:
        case _Event.SUSPENDED:
            return _SUSPENDED_DETAILS.get(detail, Power.PAUSED)
        case _Event.RESUMED:
            return Power.RUNNING
        case _Event.STOPPED:
            return _STOPPED_DETAILS.get(detail, Power.OFF_UNKNOWN)
        case _Event.CRASHED:
            return Power.CRASHED
        case _:
            return None


def choose_kind(setting: str, cpuinfo: str) -> str:
    """kvm or qemu. /dev/kvm alone proves nothing: under paravirtual nesting it opens and hangs every stock guest.

    `setting` is the configured hypervisor: auto decides by the CPU flags in /proc/cpuinfo.
    """
    if setting != "auto":
        return setting
    flags = next((line.split() for line in cpuinfo.splitlines() if line.startswith("flags")), [])
    return "kvm" if "vmx" in flags or "svm" in flags else "qemu"
