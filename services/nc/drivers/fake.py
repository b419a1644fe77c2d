"""A hypervisor without guests: the same promises as libvirt's, in a folder, without root. Shipped, with fault knobs.

Its state is files, one per domain, so that a restarted node controller finds its predecessor's VMs; a FIFO named
`control` is its back door for tests and demonstrations, one command per line:

    power-off INSTANCE      the guest shuts itself down
    crash INSTANCE          its engine process dies
    stall INSTANCE          the host's disk is full
    release INSTANCE        the guest lets go of the disks that it was asked for
    reboot-host             every domain is off and nobody can say why
    forget-events           changes are not told until the engine is reached again (`reconnect`)
    reconnect               every domain is told again
    faults JSON             sets the fields of Faults
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from common.back_door import BackDoor
from common.errors import CloudError, NoCapacity, NotFound, Unavailable, WrongState
from common.ids import InstanceId
from services.nc.drivers.base import AttachedDisk, Disk, DiskUse, Domain, Power, PowerChange
from services.nc.drivers.feed import PowerFeed, instances_of

_BOOT_LINES = (
    "[    0.000000] Linux version 6.1.0-mallee-fake (fake@mallee)",
    "[    0.000000] Command line: {arguments}",
    "[    0.210000] virtio_net virtio0 eth0: {mac}",
    "[    0.480000] EXT4-fs (vda): mounted filesystem",
    "mallee-guest: instance {instance_id}",
    "mallee-guest: ready",
)


_ANY_NUMBER: Final = 1 << 30
_UP: Final = (Power.PAUSED, Power.RUNNING, Power.STALLED)


@dataclass(slots=True, kw_only=True)
class Faults:
    """What goes wrong. All off by default."""

    prepare_delay_s: float = 0.0
    resume_delay_s: float = 0.0
    # So many of the next prepares fail.
    failing_prepares: int = 0
    # Every call answers Unavailable, as with a stopped libvirtd.
    silent: bool = False
    # Changes are lost.
    lose_events: bool = False
    # Guests do not shut down when they are asked.
    ignores_power_button: bool = False
    # Guests do not let go of disks when they are asked.
    keeps_disks: bool = False
    # So many of the next disks cannot be attached.
    failing_attaches: int = 0
    attach_delay_s: float = 0.0
    # More domains than this do not fit.
    most_domains: int = _ANY_NUMBER


class FakeHypervisor:
    kind = "fake"

    def __init__(self, folder: Path, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        # Volumes that were to be let go of by force.
        self.forced: set[str] = set()
        self._folder = folder
        self._domains = folder / "domains"
        self._feed = PowerFeed()
        self._disk_feed = PowerFeed()
        self._control = BackDoor(folder / "control", self._command)

    async def open(self) -> None:
        self._domains.mkdir(parents=True, exist_ok=True)
        for left_over in self._domains.glob("*.new"):
            left_over.unlink()
        self._control.open()

    async def close(self) -> None:
        self._control.close()

    async def prepare(self, domain: Domain) -> None:
        self._reach()
        await asyncio.sleep(self.faults.prepare_delay_s)
        if self.faults.failing_prepares > 0:
            self.faults.failing_prepares -= 1
            raise CloudError("the fake hypervisor was told to fail")
        if self._read(domain.instance_id) in (Power.PAUSED, Power.RUNNING):
            return
        if self.faults.most_domains < _ANY_NUMBER and len(os.listdir(self._domains)) >= self.faults.most_domains:
            raise NoCapacity("the host has no memory for it")
        self._write(domain.instance_id, Power.PAUSED, domain)

    async def resume(self, instance_id: InstanceId) -> None:
        self._reach()
        await asyncio.sleep(self.faults.resume_delay_s)
        if self._get(instance_id) in (Power.PAUSED, Power.STALLED):
            self._write(instance_id, Power.RUNNING)
            self._boot(instance_id)

    async def shut_down(self, instance_id: InstanceId) -> None:
        self._reach()
        if not self.faults.ignores_power_button:
            self.guest_powers_off(instance_id)

    async def power_off(self, instance_id: InstanceId, *, grace_s: float) -> None:
        self._reach()
        if self._read(instance_id) in (Power.PAUSED, Power.RUNNING, Power.STALLED):
            self._write(instance_id, Power.OFF_BY_HOST)

    async def remove(self, instance_id: InstanceId) -> None:
        self._reach()
        if self._read(instance_id) is not None:
            self._path(instance_id).unlink(missing_ok=True)
            self._tell(instance_id, None)

    async def reboot(self, instance_id: InstanceId, *, grace_s: float) -> None:
        self._reach()
        if self._get(instance_id) is not Power.RUNNING:
            raise WrongState(f"{instance_id} does not run")
        self._boot(instance_id)
        self._tell(instance_id, Power.RUNNING)

    async def copy_root(self, instance_id: InstanceId, target: Path) -> None:
        """A pretended disk is blank."""
        if self._get(instance_id) not in _UP:
            raise WrongState(f"{instance_id} does not run")

    async def screenshot(self, instance_id: InstanceId, *, wake_up: bool) -> bytes:
        self._reach()
        if self._get(instance_id) is not Power.RUNNING:
            raise WrongState(f"{instance_id} does not run", code="IncorrectInstanceState")
        return _picture(instance_id, lit=wake_up)

    async def observe(self) -> Mapping[InstanceId, Power]:
        self._reach()
        found = {InstanceId(path.stem): self._read(InstanceId(path.stem)) for path in self._domains.glob("*.json")}
        return {instance_id: power for instance_id, power in found.items() if power is not None}

    async def power_of(self, instance_id: InstanceId) -> Power | None:
        self._reach()
        return self._read(instance_id)

    async def attach_disk(self, instance_id: InstanceId, disk: Disk) -> None:
        self._reach()
        await asyncio.sleep(self.faults.attach_delay_s)
        if self._get(instance_id) not in _UP:
            raise WrongState(f"{instance_id} does not run")
        told = self._told(instance_id)
        if disk.volume_id in told["disks"]:
            return
        if self.faults.failing_attaches > 0:
            self.faults.failing_attaches -= 1
            raise CloudError("the fake hypervisor was told to fail")
        if any(other["slot"] == disk.slot for other in told["disks"].values()):
            raise CloudError(f"slot {disk.slot} is taken")
        self._store(instance_id, told | {"disks": told["disks"] | {disk.volume_id: _disk_facts(disk)}})

    async def detach_disk(self, instance_id: InstanceId, volume_id: str, *, forced: bool = False) -> None:
        self._reach()
        if self._read(instance_id) not in _UP or volume_id not in (told := self._told(instance_id))["disks"]:
            return
        told["disks"][volume_id]["asked"] = True
        if forced:
            self.forced.add(volume_id)
        self._store(instance_id, told)
        if not self.faults.keeps_disks:
            self.guest_releases(instance_id)

    async def refresh_disk(self, instance_id: InstanceId, disk: Disk) -> None:
        self._reach()
        if self._get(instance_id) not in _UP or disk.volume_id not in (told := self._told(instance_id))["disks"]:
            raise WrongState(f"{instance_id} has no {disk.volume_id}")
        facts = told["disks"][disk.volume_id]
        facts["generation"], facts["size_bytes"] = disk.generation, max(disk.size_bytes, facts["size_bytes"])
        self._store(instance_id, told)

    async def disks_of(self, instance_id: InstanceId) -> Sequence[AttachedDisk]:
        self._reach()
        if self._read(instance_id) not in _UP:
            return []
        return [
            AttachedDisk(volume_id=volume_id, **{key: facts[key] for key in ("slot", "generation", "size_bytes")})
            for volume_id, facts in self._told(instance_id)["disks"].items()
        ]

    async def disk_uses(self) -> Sequence[DiskUse]:
        self._reach()
        nothing: dict[str, Any] = {"reads": 0, "writes": 0, "read_bytes": 0, "written_bytes": 0}
        return [
            DiskUse(instance_id=instance_id, slot=disk.slot, read_s=0.0, write_s=0.0, **nothing)
            for instance_id in await self.observe()
            for disk in await self.disks_of(instance_id)
        ]

    def disk_changes(self) -> AsyncIterator[InstanceId]:
        return instances_of(self._disk_feed.subscribe())

    def changes(self) -> AsyncIterator[PowerChange]:
        return self._feed.subscribe()

    # The guest's and the host's side: what the back door and tests do.

    def guest_powers_off(self, instance_id: InstanceId) -> None:
        if self._read(instance_id) is Power.RUNNING:
            self._write(instance_id, Power.OFF_BY_GUEST)

    def guest_crashes(self, instance_id: InstanceId) -> None:
        if self._read(instance_id) in (Power.RUNNING, Power.PAUSED):
            self._write(instance_id, Power.CRASHED)

    def guest_stalls(self, instance_id: InstanceId) -> None:
        if self._read(instance_id) is Power.RUNNING:
            self._write(instance_id, Power.STALLED)

    def guest_releases(self, instance_id: InstanceId) -> None:
        told = self._told(instance_id)
        kept = {volume_id: facts for volume_id, facts in told["disks"].items() if not facts.get("asked")}
        self._store(instance_id, told | {"disks": kept})
        self._disk_feed.publish(PowerChange(instance_id=instance_id, power=None))

    def host_reboots(self) -> None:
        for path in self._domains.glob("*.json"):
            self._write(InstanceId(path.stem), Power.OFF_UNKNOWN)

    def reconnects(self) -> None:
        self.faults.lose_events = False
        for path in self._domains.glob("*.json"):
            self._tell(InstanceId(path.stem), self._read(InstanceId(path.stem)))

    def _command(self, verb: str, argument: str = "") -> None:
        match verb:
            case "power-off":
                self.guest_powers_off(InstanceId(argument))
            case "crash":
                self.guest_crashes(InstanceId(argument))
            case "stall":
                self.guest_stalls(InstanceId(argument))
            case "release":
                self.guest_releases(InstanceId(argument))
            case "reboot-host":
                self.host_reboots()
            case "forget-events":
                self.faults.lose_events = True
            case "reconnect":
                self.reconnects()
            case "faults":
                self.faults = dataclasses.replace(self.faults, **json.loads(argument))

    def _reach(self) -> None:
        if self.faults.silent:
            raise Unavailable("the fake hypervisor was told not to answer")

    def _path(self, instance_id: InstanceId) -> Path:
        return self._domains / f"{instance_id}.json"

    def _read(self, instance_id: InstanceId) -> Power | None:
        try:
            return Power(json.loads(self._path(instance_id).read_text())["power"])
        except FileNotFoundError:
            return None

    def _get(self, instance_id: InstanceId) -> Power:
        power = self._read(instance_id)
        if power is None:
            raise NotFound(f"{instance_id} is not on this host", code="InvalidInstanceID.NotFound")
        return power

    def _write(self, instance_id: InstanceId, power: Power, domain: Domain | None = None) -> None:
        told = _facts(domain) if domain is not None else self._told(instance_id)
        self._store(instance_id, told | {"power": power.value})
        self._tell(instance_id, power)

    def _told(self, instance_id: InstanceId) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self._path(instance_id).read_text())
        return told

    def _store(self, instance_id: InstanceId, told: dict[str, Any]) -> None:
        path = self._path(instance_id)
        new = path.with_suffix(".new")
        new.write_text(json.dumps(told))
        new.replace(path)

    def _tell(self, instance_id: InstanceId, power: Power | None) -> None:
        if not self.faults.lose_events:
            self._feed.publish(PowerChange(instance_id=instance_id, power=power))

    def _boot(self, instance_id: InstanceId) -> None:
        told = json.loads(self._path(instance_id).read_text())
        with Path(told["console_log"]).open("a") as console:
            for line in _BOOT_LINES:
                console.write(line.format(instance_id=instance_id, **told) + "\r\n")


def _facts(domain: Domain) -> dict[str, Any]:
    return {
        "mac": domain.mac,
        "arguments": domain.kernel_arguments,
        "console_log": str(domain.console_log),
        "disks": {disk.volume_id: _disk_facts(disk) for disk in domain.disks if disk.volume_id},
    }


def _disk_facts(disk: Disk) -> dict[str, Any]:
    return {"slot": disk.slot, "generation": disk.generation, "size_bytes": disk.size_bytes}


def _picture(instance_id: InstanceId, *, lit: bool) -> bytes:
    """A text mode's 720 by 400 dots in a colour of the instance's own, brighter when a key was pressed."""
    colour = bytes((int(digits, 16) // 2 + (128 if lit else 0)) for digits in re.findall("..", instance_id[2:8]))
    return b"P6\n720 400\n255\n" + colour * (720 * 400)
