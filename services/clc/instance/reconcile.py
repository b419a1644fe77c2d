"""Brings instances where their records want them, a reservation at a time, so that a launch goes out as one order.

A pass reads the records and what the zones last reported, writes the states that follow, and gives the orders that are
due. After a crash it does the same.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from common.background import all_of
from common.errors import NoCapacity, Unavailable
from common.log import get_logger
from common.patience import RoomPatience
from common.reconcile import give_way
from common.rpc import context
from mallee.cc.v1 import service_pb2 as cc
from mallee.clc.v1 import record_pb2
from mallee.nc.v1 import instance_pb2 as nc
from services.clc.address.association import take_off
from services.clc.clock import gmt, timestamp
from services.clc.instance import disks, rules
from services.clc.instance.gathering import Gathering
from services.clc.instance.launch import claims_of
from services.clc.instance.spec import spec_of
from services.clc.instance.stop import STOP_GRACE_S, rest
from services.clc.instance.terminate import shut_down
from services.clc.region.describe import zone_id
from services.clc.store import Changes, Stored, token_id
from services.clc.use_case import Cloud
from services.clc.volume.disks import plan_of

# An order is repeated when nothing was heard for this long.
REPEAT_S: Final = 5.0
# Instances in one order: 16 KiB of user data each stays below gRPC's 4 MiB message.
_BATCH: Final = 100
# Launches in one zone that follow each other so closely go out as one order, in a crowd those of a longer while: what
# an order costs, on the way to the guest, whoever calls meanwhile waits for.
_GATHER_S: Final = 0.05
_CROWD_S: Final = 0.3

_log = get_logger(__name__)

Instance = Stored[record_pb2.InstanceRecord]


@dataclass(frozen=True, slots=True)
class _Launch:
    """One instance's part of an order."""

    spec: nc.InstanceSpec
    # The one node that will do. Empty: any.
    host: str
    request_id: str


class InstanceReconciler:
    """`run` works, without end."""

    def __init__(self, cloud: Cloud, ticket_key: bytes) -> None:
        self._cloud = cloud
        self._ticket_key = ticket_key
        self._launches = {
            cluster.zone: Gathering(
                partial(self._launch, cluster.zone), rest_s=_GATHER_S, long_rest_s=_CROWD_S, most=_BATCH
            )
            for cluster in cloud.clusters
        }
        self._room = RoomPatience(cloud.clock)
        # What the nodes last said, by instance.
        self.observed: dict[str, nc.InstanceObservation] = {}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for launches in self._launches.values():
                tasks.create_task(launches.run())

    async def step(self, reservation_id: str) -> float | None:
        began = time.perf_counter()
        store = self._cloud.store
        reservation = store.get(record_pb2.ReservationRecord, reservation_id)
        if reservation is None:
            return None
        found = [store.get(record_pb2.InstanceRecord, i) for i in reservation.record.instance_ids]
        instances = [instance for instance in found if instance is not None]
        orders: dict[rules.Do, list[Instance]] = {do: [] for do in rules.Do}
        changes = Changes()
        for instance in instances:
            match self._next_step(instance.record):
                case rules.Do.ENSURE if (lost := disks.lost(self._cloud, instance.record)) is not None:
                    changes.update(instance, self._given_up(instance, *lost))
                case rules.Do.ENSURE if not disks.made(self._cloud, instance.record):
                    pass  # Its volumes nudge.
                case rules.Do() as do:
                    orders[do].append(instance)
                case None:
                    pass
                case state:
                    changes.update(instance, self._moved(changes, instance, state))
        took_s = time.perf_counter() - began
        if changes:
            await store.commit(changes)
            await give_way(took_s)
            return None  # The commit nudges: what follows from the new states is the next pass's.
        await self._order(reservation.record, orders)
        await give_way(took_s)
        if any(orders.values()):
            return REPEAT_S
        return await self._forget(reservation, instances)

    def _next_step(self, record: record_pb2.InstanceRecord) -> rules.Do | rules.State | None:
        heard = self._heard_of(record)
        return rules.next_step(record.state, heard, way_out=rules.way_out(record, heard))

    def _heard_of(self, record: record_pb2.InstanceRecord) -> nc.VmState.ValueType | None:
        heard = self.observed.get(record.instance_id)
        return heard.state if heard is not None and heard.generation == record.generation else None

    def _moved(
        self, changes: Changes, instance: Instance, state: record_pb2.InstanceState.ValueType
    ) -> record_pb2.InstanceRecord:
        """The record in its new state; what goes with it is added to the transaction."""
        draft, now = instance.draft(), self._cloud.clock()
        heard = self.observed.get(draft.instance_id)
        if heard is not None and heard.node:
            draft.node, draft.node_address = heard.node, heard.node_address
        with context.bind(request_id=draft.request_id):
            name = record_pb2.InstanceState.Name(state).removeprefix("INSTANCE_STATE_").lower()
            _log.info("an instance changes state", instance_id=draft.instance_id, state=name, node=draft.node)
        match state:
            case rules.SHUTTING_DOWN | rules.STOPPING:
                assert heard is not None
                code, message = rules.REASONS[heard.state]
                if heard.reason_code:
                    code = heard.reason_code
                    message = f"{code}: {heard.message.removeprefix(f'{code}: ')}"
                shut_down(draft, code, message, state=state, transition=f"{message.partition(': ')[2]} ({gmt(now)})")
            case rules.STOPPED:
                rest(changes, draft)
            case rules.TERMINATED:
                draft.state = state
                draft.terminated_at.CopyFrom(timestamp(now))
                for claim in claims_of(draft):
                    changes.release(claim)
                take_off(self._cloud.store, changes, draft)
            case _:
                draft.state = state
        return draft

    async def _order(self, reservation: record_pb2.ReservationRecord, orders: dict[rules.Do, list[Instance]]) -> None:
        tasks = []
        # Each order goes out, and is logged on its way, under the request that asked for it.
        for zone, request_id, instances in _batches(orders[rules.Do.ENSURE]):
            with context.bind(request_id=request_id):
                tasks.append(asyncio.ensure_future(self._ensure(zone, reservation, instances)))
        for zone, request_id, instances in _batches(orders[rules.Do.TERMINATE]):
            with context.bind(request_id=request_id):
                tasks.append(asyncio.ensure_future(self._terminate(zone, instances)))
        await all_of(*tasks)

    async def _ensure(self, zone: str, reservation: record_pb2.ReservationRecord, instances: list[Instance]) -> None:
        launches = self._launches[zone]
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(launches.ask(self._launch_of(i.record, reservation))) for i in instances]
        placed = {p.instance_id: p for p in (task.result() for task in asked) if p is not None}
        changes = Changes()
        unrecorded: list[cc.Placed] = []
        for instance in instances:
            it = placed.get(instance.record.instance_id)
            if it is None:
                continue
            if not it.error_code:
                self._accepted(instance.record)
            elif it.error_code == Unavailable.default_code or self._may_find_room(it, instance.record):
                unrecorded.append(it)
                if not it.node:
                    continue
            known = (instance.record.node, instance.record.node_address)
            if it.node and known == (it.node, it.node_address or known[1]):
                continue
            draft = instance.draft()
            if not it.node:
                changes.update(instance, self._given_up(instance, it.error_code, it.error_message))
                continue
            draft.node, draft.node_address = it.node, it.node_address
            changes.update(instance, draft)
        if changes:
            await self._cloud.store.commit(changes)
        if unrecorded:
            # No node has recorded the order: it is given again.
            raise Unavailable(f"{unrecorded[0].instance_id}: {unrecorded[0].error_message}")

    async def _launch(self, zone: str, launches: Sequence[_Launch]) -> list[cc.Placed | None]:
        order = cc.EnsureInstancesRequest(
            specs=[launch.spec for launch in launches],
            hosts={launch.spec.instance_id: launch.host for launch in launches if launch.host},
            request_ids={launch.spec.instance_id: launch.request_id for launch in launches},
        )
        # Its own line in the logs is under the first.
        with context.bind(request_id=launches[0].request_id):
            answer = await self._cloud.clusters.stub(zone).EnsureInstances(order)
        placed = {p.instance_id: p for p in answer.placed}
        return [placed.get(launch.spec.instance_id) for launch in launches]

    def _given_up(self, instance: Instance, code: str, message: str) -> record_pb2.InstanceRecord:
        """A launch that comes to nothing. A start that does leaves the instance stopped, as it was."""
        self._room.end(instance.record.instance_id)
        draft = instance.draft()
        code = code if "." in code else f"Server.{code}"
        shut_down(
            draft,
            code,
            f"{code}: {message}",
            state=rules.way_out(draft, None),
            transition=f"{message} ({gmt(self._cloud.clock())})",
        )
        return draft

    def _may_find_room(self, refused: cc.Placed, record: record_pb2.InstanceRecord) -> bool:
        no_room = refused.error_code == NoCapacity.default_code and not refused.node
        return no_room and not self._room.is_over(record.instance_id)

    def _accepted(self, record: record_pb2.InstanceRecord) -> None:
        """The node has recorded the order: it need not be given again until the zone's stream says otherwise."""
        self._room.end(record.instance_id)
        if self._heard_of(record) is None:
            self.observed[record.instance_id] = nc.InstanceObservation(
                instance_id=record.instance_id, generation=record.generation, state=nc.VM_STATE_PREPARING
            )

    async def _terminate(self, zone: str, instances: list[Instance]) -> None:
        by_id = {i.record.instance_id: i for i in instances}
        order = cc.TerminateInstancesRequest(
            instances=[
                cc.InstanceGeneration(
                    instance_id=i.record.instance_id,
                    generation=i.record.generation,
                    grace_s=STOP_GRACE_S if i.record.state == rules.STOPPING and not i.record.stop_forced else 0,
                )
                for i in instances
            ]
        )
        answer = await self._cloud.clusters.stub(zone).TerminateInstances(order)
        changes = Changes()
        for instance_id in answer.gone:
            instance = by_id[instance_id]
            self.observed.pop(instance_id, None)
            self._room.end(instance_id)
            after = rules.next_step(instance.record.state, nc.VM_STATE_GONE)
            if after in (rules.STOPPED, rules.TERMINATED):
                changes.update(instance, self._moved(changes, instance, after))
        if changes:
            await self._cloud.store.commit(changes)

    def _launch_of(self, record: record_pb2.InstanceRecord, reservation: record_pb2.ReservationRecord) -> _Launch:
        return _Launch(self._spec(record, reservation), record.host_id, record.request_id)

    def _spec(self, record: record_pb2.InstanceRecord, reservation: record_pb2.ReservationRecord) -> nc.InstanceSpec:
        store = self._cloud.store

        def find_image(image_id: str) -> record_pb2.ImageRecord | None:
            image = store.get(record_pb2.ImageRecord, image_id)
            return image.record if image else None

        groups = (
            store.get(record_pb2.SecurityGroupRecord, group_id) for group_id in record.interface.security_group_ids
        )
        return spec_of(
            record,
            reservation,
            region=self._cloud.config.region,
            zone_id=zone_id(self._cloud, record.zone),
            find_image=find_image,
            group_names=[group.record.name for group in groups if group is not None],
            ticket_key=self._ticket_key,
            disks=plan_of(self._cloud, record),
            now=self._cloud.clock(),
        )

    async def _forget(
        self, reservation: Stored[record_pb2.ReservationRecord], instances: list[Instance]
    ) -> float | None:
        """Deletes what has been terminated for long enough; seconds until the next of them."""
        keep_s, now = self._cloud.config.clc.terminated_visible_s, self._cloud.clock()
        left = {
            i.record.instance_id: i.record.terminated_at.ToSeconds() + keep_s - now
            for i in instances
            if i.record.state == rules.TERMINATED
        }
        expired = [i for i in instances if left.get(i.record.instance_id, 1.0) <= 0]
        if expired:
            changes = Changes()
            for instance in expired:
                changes.delete(instance)
                self.observed.pop(instance.record.instance_id, None)
            if len(expired) == len(instances):
                self._forget_reservation(changes, reservation)
            await self._cloud.store.commit(changes)
        return min((seconds for seconds in left.values() if seconds > 0), default=None)

    def _forget_reservation(self, changes: Changes, reservation: Stored[record_pb2.ReservationRecord]) -> None:
        changes.delete(reservation)
        record = reservation.record
        if record.client_token:
            key = token_id(record.account_id, "RunInstances", record.client_token)
            if token := self._cloud.store.get(record_pb2.ClientTokenRecord, key):
                changes.delete(token)


def _batches(instances: Iterable[Instance]) -> list[tuple[str, str, list[Instance]]]:
    """Zone, request id, and at most a batch of what they have in common, as often as it takes."""
    alike: dict[tuple[str, str], list[Instance]] = defaultdict(list)
    for instance in instances:
        alike[instance.record.zone, instance.record.request_id].append(instance)
    return [
        (zone, request_id, members[start : start + _BATCH])
        for (zone, request_id), members in alike.items()
        for start in range(0, len(members), _BATCH)
    ]
