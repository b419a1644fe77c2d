"""StopInstances and StartInstances: what an instance has on volumes, and its private address, stay while it is stopped.

An instance whose root device is an instance store can do neither. (EC2 User Guide, "Stop and start your instance".)
"""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

from common.errors import Denied, InvalidArgument, NoCapacity, Unavailable, Unsupported, WrongState
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import instance_pb2 as ec2
from services.clc.capacity import Room
from services.clc.clock import gmt, timestamp
from services.clc.instance import rules
from services.clc.instance.limit import within_limit
from services.clc.instance.request import room_of
from services.clc.instance.terminate import shut_down
from services.clc.instance.view import state_of
from services.clc.lookup import INSTANCE, own_all
from services.clc.store import Changes, Stored, until_committed
from services.clc.use_case import Call, Cloud, end_dry_run, use_case
from services.clc.volume.disks import check_root
from services.clc.vpc.addresses import public_claim

# How long a guest may take to shut down before the plug is pulled.
STOP_GRACE_S: Final = 60

Instance = Stored[record_pb2.InstanceRecord]


@use_case("ec2.StopInstances")
async def stop_instances(cloud: Cloud, call: Call, request: ec2.StopInstancesRequest) -> ec2.StopInstancesResult:
    forced = request.force or request.skip_os_shutdown

    async def attempt() -> ec2.StopInstancesResult:
        instances = _named(cloud, call, request.instance_ids, "stopped")
        for instance in instances:
            _check_stop(instance.record)
        end_dry_run(request)
        changes, shown = Changes(), []
        for instance in instances:
            before, draft = instance.record.state, instance.draft()
            if before == rules.RUNNING or (forced and before == rules.STOPPING and not draft.stop_forced):
                if before == rules.RUNNING:
                    transition = f"User initiated ({gmt(call.now)})"
                    shut_down(draft, *rules.USER_INITIATED, state=rules.STOPPING, transition=transition)
                draft.stop_forced, draft.request_id = forced, call.request_id
                changes.update(instance, draft)
            shown.append(_change(before, draft))
        if changes:
            await cloud.store.commit(changes)
        return ec2.StopInstancesResult(stopping_instances=shown)

    return await until_committed(attempt)


@use_case("ec2.StartInstances")
async def start_instances(cloud: Cloud, call: Call, request: ec2.StartInstancesRequest) -> ec2.StartInstancesResult:
    async def attempt() -> ec2.StartInstancesResult:
        instances = _named(cloud, call, request.instance_ids, "started")
        for instance in instances:
            if instance.record.state not in (rules.STOPPED, rules.PENDING, rules.RUNNING):
                raise _wrong_state(instance.record, "started")
        starting = [i for i in instances if i.record.state == rules.STOPPED]
        for instance in starting:
            check_root(cloud, instance.record)
        changes = Changes()
        _admit(cloud, call, changes, starting)
        end_dry_run(request)
        return ec2.StartInstancesResult(starting_instances=await _start(cloud, call, changes, instances, starting))

    return await until_committed(attempt)


async def _start(
    cloud: Cloud, call: Call, changes: Changes, instances: Sequence[Instance], starting: Sequence[Instance]
) -> list[ec2.InstanceStateChange]:
    with_public = [i.key for i in starting if i.record.public_ipv4_at_start and not i.record.allocation_id]
    with contextlib.ExitStack() as held:
        public = dict(zip(with_public, held.enter_context(cloud.addresses.hold_public(len(with_public))), strict=True))
        for zone, rooms in _rooms(starting).items():
            held.enter_context(cloud.clusters.admitting(zone, rooms))
        shown = []
        for instance in instances:
            before, draft = instance.record.state, instance.draft()
            if before == rules.STOPPED:
                _wake(draft, call)
                if address := public.get(instance.key, ""):
                    draft.interface.public_ipv4 = address
                    changes.claim(public_claim(address), draft.instance_id)
                changes.update(instance, draft)
            shown.append(_change(before, draft))
        if changes:
            await cloud.store.commit(changes)
        return shown


def rest(changes: Changes, draft: record_pb2.InstanceRecord) -> None:
    """It has stopped: it is on no node, and the address that it was given by the pool is free. Its own elastic address
    stays with it."""
    draft.state = rules.STOPPED
    draft.node = draft.node_address = ""
    draft.stop_forced = False
    if draft.interface.public_ipv4 and not draft.allocation_id:
        changes.release(public_claim(draft.interface.public_ipv4))
        draft.interface.public_ipv4 = ""


def _wake(draft: record_pb2.InstanceRecord, call: Call) -> None:
    draft.state = rules.PENDING
    draft.generation += 1
    # In whole seconds, as of a launch.
    draft.launch_time.CopyFrom(timestamp(int(call.now)))
    draft.state_reason_code = draft.state_reason_message = draft.transition_reason = ""
    draft.metadata_options.unapplied = False
    draft.request_id = call.request_id


def _named(cloud: Cloud, call: Call, instance_ids: Sequence[str], verb: str) -> list[Instance]:
    """A dry run is told the same: the request would not have succeeded."""
    if not instance_ids:
        raise InvalidArgument("No instances specified", code="InvalidParameterCombination")
    instances = own_all(cloud.store, INSTANCE, call.account_id, list(dict.fromkeys(instance_ids)))
    for instance in instances:
        if instance.record.root_device_type == rules.EBS:
            continue
        if instance.record.state not in (rules.PENDING, rules.RUNNING):
            raise _wrong_state(instance.record, verb)
        raise Unsupported(
            f"The instance '{instance.record.instance_id}' does not have an 'ebs' root device type and cannot be"
            f" {verb}."
        )
    return instances


def _check_stop(record: record_pb2.InstanceRecord) -> None:
    if record.state not in (rules.RUNNING, rules.STOPPING, rules.STOPPED):
        raise _wrong_state(record, "stopped")
    if record.disable_api_stop and record.state == rules.RUNNING:
        raise Denied(
            f"The instance '{record.instance_id}' may not be stopped. Modify its 'disableApiStop' instance attribute"
            " and try again.",
            code="OperationNotPermitted",
        )


def _admit(cloud: Cloud, call: Call, changes: Changes, starting: Sequence[Instance]) -> None:
    """Raises NoCapacity where their zones, or the account's limit, have no room for all of them."""
    if not starting:
        return
    vcpus = sum(i.record.shape.vcpus for i in starting)
    within_limit(cloud, changes, call.account_id, vcpus=vcpus, least=1, most=1)
    for zone, rooms in _rooms(starting).items():
        for room, count in Counter(rooms).items():
            fit = cloud.clusters.admissible(zone, room, count)
            if fit is None:
                raise Unavailable("The cluster controller of the zone does not answer yet; try again in a moment.")
            if fit < count:
                raise NoCapacity(
                    f"We currently do not have sufficient capacity in the Availability Zone {zone} to start {count}"
                    f" instances of this size: {fit} of them fit now. Try again later, or change their type.",
                    code="InsufficientInstanceCapacity",
                )


def _rooms(instances: Sequence[Instance]) -> dict[str, list[Room]]:
    rooms: defaultdict[str, list[Room]] = defaultdict(list)
    for instance in instances:
        rooms[instance.record.zone].append(room_of(instance.record.shape))
    return rooms


def _wrong_state(record: record_pb2.InstanceRecord, verb: str) -> WrongState:
    return WrongState(
        f"The instance '{record.instance_id}' is not in a state from which it can be {verb}.",
        code="IncorrectInstanceState",
    )


def _change(before: rules.State, after: record_pb2.InstanceRecord) -> ec2.InstanceStateChange:
    return ec2.InstanceStateChange(
        instance_id=after.instance_id, previous_state=state_of(before), current_state=state_of(after.state)
    )
