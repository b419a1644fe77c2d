from __future__ import annotations

import pytest

from services.nc.drivers.base import Power
from services.nc.drivers.power import choose_kind, power_of_event, power_of_state

libvirt = pytest.importorskip("libvirt")


@pytest.mark.parametrize(
    ("state", "reason", "power"),
    [
        ("RUNNING", "RUNNING_BOOTED", Power.RUNNING),
        ("PAUSED", "PAUSED_USER", Power.PAUSED),
        ("PAUSED", "PAUSED_IOERROR", Power.STALLED),
        ("SHUTDOWN", "SHUTDOWN_USER", Power.RUNNING),
        ("SHUTOFF", "SHUTOFF_SHUTDOWN", Power.OFF_BY_GUEST),
        ("SHUTOFF", "SHUTOFF_DESTROYED", Power.OFF_BY_HOST),
        ("SHUTOFF", "SHUTOFF_CRASHED", Power.CRASHED),
        ("SHUTOFF", "SHUTOFF_UNKNOWN", Power.OFF_UNKNOWN),
        ("SHUTOFF", "SHUTOFF_DAEMON", Power.OFF_UNKNOWN),
        ("CRASHED", "CRASHED_PANICKED", Power.CRASHED),
    ],
)
def test_states_are_libvirts(state: str, reason: str, power: Power) -> None:
    numbers = (getattr(libvirt, f"VIR_DOMAIN_{name}") for name in (state, reason))
    assert power_of_state(*numbers) is power


@pytest.mark.parametrize(
    ("event", "detail", "power"),
    [
        ("STARTED", "STARTED_BOOTED", None),
        ("SUSPENDED", "SUSPENDED_PAUSED", Power.PAUSED),
        ("SUSPENDED", "SUSPENDED_IOERROR", Power.STALLED),
        ("RESUMED", "RESUMED_UNPAUSED", Power.RUNNING),
        ("STOPPED", "STOPPED_SHUTDOWN", Power.OFF_BY_GUEST),
        ("STOPPED", "STOPPED_DESTROYED", Power.OFF_BY_HOST),
        ("STOPPED", "STOPPED_CRASHED", Power.CRASHED),
        ("STOPPED", "STOPPED_FROM_SNAPSHOT", Power.OFF_UNKNOWN),
    ],
)
def test_events_are_libvirts(event: str, detail: str, power: Power | None) -> None:
    numbers = (getattr(libvirt, f"VIR_DOMAIN_EVENT_{name}") for name in (event, detail))
    assert power_of_event(*numbers) is power


@pytest.mark.parametrize(
    ("setting", "flags", "kind"),
    [("auto", "fpu vmx sse", "kvm"), ("auto", "fpu svm", "kvm"), ("auto", "fpu sse", "qemu"), ("qemu", "vmx", "qemu")],
)
def test_kvm_is_chosen_by_the_cpus_word(setting: str, flags: str, kind: str) -> None:
    assert choose_kind(setting, f"processor : 0\nflags\t\t: {flags}\n") == kind
