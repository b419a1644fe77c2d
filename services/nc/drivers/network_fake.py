"""A network without packets: the same promises as the host's, in a folder, without root. Shipped, with fault knobs.

Interfaces and plans are files, so a restarted node controller finds its predecessor's. `passes` answers by the plans
what a packet would meet; the metadata service listens on a loopback port that `<folder>/<vpc>/metadata-port` tells.
The file `faults.json` in the folder sets the fields of Faults in a running process.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
import socket
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.errors import NotFound, Unavailable, WrongState
from common.ids import InterfaceId, VpcId
from mallee.nc.v1 import instance_pb2, network_pb2
from services.nc.net import policy
from services.nc.net.policy import Packet
from services.nc.net.records import Records, record_of


@dataclass(slots=True, kw_only=True)
class Faults:
    """What goes wrong. All off by default."""

    # Every call answers Unavailable.
    silent: bool = False
    prepare_delay_s: float = 0.0
    apply_delay_s: float = 0.0
    # So many of the next calls fail.
    failing_prepares: int = 0
    failing_plugs: int = 0
    failing_applies: int = 0
    failing_removes: int = 0
    # Interfaces whose guests do not answer.
    deaf: Collection[str] = ()


class FakeNetwork:
    """services.nc.drivers.base.Network in a folder of its own."""

    def __init__(self, folder: Path, node_address: str, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self._folder = folder
        self._node = node_address
        self._knobs = b""
        # Plans that stand in the folder: to be given one again costs nothing then.
        self._written: dict[str, network_pb2.VpcPlan] = {}

    async def open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._reach()

    async def close(self) -> None: ...

    async def prepare_interface(self, interface: instance_pb2.NetworkInterface) -> str:
        self._reach()
        record = record_of(interface)
        await asyncio.sleep(self.faults.prepare_delay_s)
        self._fail("failing_prepares")
        self._records(VpcId(interface.vpc_id)).write(record)
        return record.card.tap

    async def plug_interface(self, interface: instance_pb2.NetworkInterface) -> None:
        self._reach()
        self._fail("failing_plugs")
        record, vpc_id = record_of(interface), VpcId(interface.vpc_id)
        if not self._records(vpc_id).has(InterfaceId(record.interface_id)):
            raise WrongState(f"{record.interface_id} was not prepared on this node")
        self._records(vpc_id).write(record)
        self._plugged(vpc_id, InterfaceId(record.interface_id)).touch()

    async def remove_interface(self, interface_id: InterfaceId, vpc_id: VpcId) -> None:
        self._reach()
        self._fail("failing_removes")
        self._plugged(vpc_id, interface_id).unlink(missing_ok=True)
        self._records(vpc_id).drop(interface_id)
        if self._records(vpc_id).is_empty():
            self._written.pop(vpc_id, None)
            shutil.rmtree(self._folder / vpc_id, ignore_errors=True)

    async def apply_plan(self, plan: network_pb2.VpcPlan) -> None:
        self._reach()
        await asyncio.sleep(self.faults.apply_delay_s)
        self._fail("failing_applies")
        records = self._records(VpcId(plan.vpc_id))
        if self._written.get(plan.vpc_id) is plan and records.has_plan():
            return
        view = policy.view_of(plan, self._node)
        if view.revision >= records.plan_revision():
            if not records.is_empty() or view.local:
                records.write_plan(plan)
                self._written[plan.vpc_id] = plan
            else:
                shutil.rmtree(self._folder / view.vpc_id, ignore_errors=True)

    async def observe(self) -> Mapping[InterfaceId, VpcId]:
        self._reach()
        return {interface: vpc_id for vpc_id in self._vpcs() for interface in self._records(vpc_id).ids()}

    async def answering(self, interfaces: Iterable[instance_pb2.NetworkInterface]) -> set[InterfaceId]:
        self._reach()
        asked = {InterfaceId(i.interface_id): VpcId(i.vpc_id) for i in interfaces}
        return {i for i, vpc_id in asked.items() if i not in self.faults.deaf and self._plugged(vpc_id, i).exists()}

    async def metadata_socket(self, vpc_id: VpcId) -> socket.socket:
        self._reach()
        if not self._records(vpc_id).ids():
            raise NotFound(f"{vpc_id} is not on this node")
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        (self._folder / vpc_id / "metadata-port").write_text(str(listener.getsockname()[1]))
        return listener

    async def destroy(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    # What a packet would meet.

    def passes(self, source: InterfaceId | str, target: InterfaceId, packet: Packet) -> bool:
        """Whether a flow may begin from an interface of the VPC, or from an address outside (to the public address),
        to an interface plugged here."""
        for vpc_id in self._vpcs():
            if self._plugged(vpc_id, target).exists():
                view = self._records(vpc_id).view()
                by_id: dict[str, policy.Member] = {m.interface_id: m for m in view.members.values()}
                return self._is_let_in(view, by_id.get(source), by_id.get(target), str(source), packet)
        return False

    def _is_let_in(
        self,
        view: policy.View,
        sender: policy.Member | None,
        receiver: policy.Member | None,
        source: str,
        packet: Packet,
    ) -> bool:
        if receiver is None or receiver.node != self._node:
            return False
        if sender is None:
            return (
                not InterfaceId.matches(source) and bool(receiver.public) and view.may_enter(receiver, source, packet)
            )
        return view.may_leave(sender, receiver.private, packet) and view.may_enter(receiver, sender.private, packet)

    def _records(self, vpc_id: VpcId) -> Records:
        return Records(self._folder / vpc_id, vpc_id, self._node)

    def _plugged(self, vpc_id: VpcId, interface_id: InterfaceId) -> Path:
        return self._folder / vpc_id / f"{interface_id}.plugged"

    def _vpcs(self) -> list[VpcId]:
        if not self._folder.exists():
            return []
        return [VpcId(path.name) for path in sorted(self._folder.iterdir()) if VpcId.matches(path.name)]

    def _reach(self) -> None:
        self._turn_knobs()
        if self.faults.silent:
            raise Unavailable("the fake network was told not to answer")

    def _turn_knobs(self) -> None:
        try:
            knobs = (self._folder / "faults.json").read_bytes()
        except FileNotFoundError:
            return
        if knobs != self._knobs:
            self._knobs = knobs
            self.faults = dataclasses.replace(self.faults, **json.loads(knobs))

    def _fail(self, knob: str) -> None:
        left = int(getattr(self.faults, knob))
        if left > 0:
            setattr(self.faults, knob, left - 1)
            raise Unavailable("the fake network was told to fail")
