"""A client's volumes in a cloud that is hurt: made, attached, detached, deleted, and where each may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from tests.chaos.calls import Caller, Possible

_MOST: Final = 2
_MOVING: Final = ("creating", "deleting")
# It is not there yet, or not any more; it is on its way; the instance is in another zone, or has something there.
_NOT_NOW: Final = frozenset({"IncorrectState", "VolumeInUse", "InvalidVolume.ZoneMismatch", "InvalidParameterValue"})


@dataclass(slots=True, kw_only=True)
class Volume:
    volume_id: str
    # Which instance has it.
    holder: Possible = field(default_factory=lambda: Possible(values=[None]))
    # Must it be there? None: nobody told.
    there: bool | None = True


@dataclass(slots=True, kw_only=True)
class VolumeOwner(Caller):
    volumes: list[Volume] = field(default_factory=list)
    # Client tokens of volumes that nobody has told of.
    unmade: set[str] = field(default_factory=set)

    @property
    def volume_deeds(self) -> tuple[Callable[[], None], ...]:
        return self._make_volume, self._attach_volume, self._attach_volume, self._detach_volume, self._delete_volume

    def left_by(self, instance_id: str) -> None:
        """It is about to be terminated."""
        for volume in self.volumes:
            if instance_id in volume.holder.values:
                volume.holder.trying(None)

    def _make_volume(self) -> None:
        if sum(volume.there is not False for volume in self.volumes) + len(self.unmade) >= _MOST:
            return
        token = self._name()
        self.unmade.add(token)
        zone = self.dice.choice(self.cloud.config.zones).name
        made = self._until_answered(lambda: self._ec2.create_volume(AvailabilityZone=zone, Size=1, ClientToken=token))
        if made is not None:
            self.unmade.discard(token)
            self.volumes.append(Volume(volume_id=made["VolumeId"]))

    def _attach_volume(self) -> None:
        volume = self._choose()
        if volume is None or not self.alive:
            return
        target, letter = self.dice.choice(self.alive), self.dice.choice("fghijk")
        volume.holder.trying(target)
        given = {"VolumeId": volume.volume_id, "InstanceId": target, "Device": f"/dev/sd{letter}"}
        if self._once(lambda: self._ec2.attach_volume(**given), refusals=_NOT_NOW):
            volume.holder.acknowledged(target)

    def _detach_volume(self) -> None:
        volume = self._choose()
        if volume is None:
            return
        volume.holder.trying(None)
        given = {"VolumeId": volume.volume_id, "Force": self.dice.random() < 0.3}
        if self._once(lambda: self._ec2.detach_volume(**given), refusals={"IncorrectState"}):
            volume.holder.acknowledged(None)

    def _delete_volume(self) -> None:
        """One that nobody has."""
        volume = self._choose()
        if volume is None or volume.holder.values != [None]:
            return
        volume.there = None
        given = {"VolumeId": volume.volume_id}
        try:
            if self._until_answered(
                lambda: self._ec2.delete_volume(**given),
                done={"InvalidVolume.NotFound"},
                refusals={"IncorrectState", "VolumeInUse"},
            ):
                volume.there = False
        finally:
            # A refusal says that nothing happened.
            if volume.there is None and not self.stop.is_set():
                volume.there = True

    def _choose(self) -> Volume | None:
        there = [volume for volume in self.volumes if volume.there]
        return self.dice.choice(there) if there else None


def unsettled_volumes(ec2: Any) -> list[str]:
    return [
        volume["VolumeId"]
        for volume in ec2.describe_volumes()["Volumes"]
        if volume["State"] in _MOVING or any(a["State"] != "attached" for a in volume["Attachments"])
    ]


def broken_promises_of_volumes(ec2: Any, owner: VolumeOwner, instances: dict[str, Any]) -> Iterator[str]:
    there = {volume["VolumeId"]: volume for volume in ec2.describe_volumes()["Volumes"]}
    for volume in owner.volumes:
        found = there.get(volume.volume_id)
        if volume.there is not None and volume.there != (found is not None):
            yield f"volume {volume.volume_id} is {'there' if found else 'not there'}"
        if found is None or not volume.there:
            continue
        if found["State"] not in ("available", "in-use"):
            yield f"volume {volume.volume_id} is {found['State']}"
        may_hold = [
            None if holder and instances[holder]["State"]["Name"] == "terminated" else holder
            for holder in volume.holder.values
        ]
        holder = next((attachment["InstanceId"] for attachment in found["Attachments"]), None)
        if holder not in may_hold:
            yield f"volume {volume.volume_id} is on {holder}, not one of {may_hold}"


def give_back(ec2: Any) -> None:
    """Every volume, once no instance has any."""
    for volume in ec2.describe_volumes()["Volumes"]:
        if volume["State"] == "available":
            ec2.delete_volume(VolumeId=volume["VolumeId"])
