"""TerminateInstances: all of them are checked, then recorded as `shutting-down`; the reconciler does the rest."""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import Denied
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import instance_pb2 as ec2
from services.clc.clock import gmt
from services.clc.instance import rules
from services.clc.instance.view import state_of
from services.clc.lookup import INSTANCE, own_all
from services.clc.store import Changes, Conflict, Stored, until_committed
from services.clc.use_case import Call, Cloud, end_dry_run, use_case


@use_case("ec2.TerminateInstances")
async def terminate_instances(
    cloud: Cloud, call: Call, request: ec2.TerminateInstancesRequest
) -> ec2.TerminateInstancesResult:
    ids = list(dict.fromkeys(request.instance_ids))
    for instance in own_all(cloud.store, INSTANCE, call.account_id, ids):
        _check(instance.record)
    end_dry_run(request)
    return ec2.TerminateInstancesResult(terminating_instances=await _end_all(cloud, call, ids))


async def _end_all(cloud: Cloud, call: Call, ids: Sequence[str]) -> list[ec2.InstanceStateChange]:
    """In one transaction; where the records of many keep changing under it, in two of half as many."""

    async def attempt() -> list[ec2.InstanceStateChange]:
        changes, shown = Changes(), []
        for instance in own_all(cloud.store, INSTANCE, call.account_id, ids):
            _check(instance.record)
            shown.append(_end(changes, instance, call))
        if changes:
            await cloud.store.commit(changes)
        return shown

    try:
        return await until_committed(attempt)
    except Conflict:
        if len(ids) < 2:
            raise
    middle = len(ids) // 2
    return [*await _end_all(cloud, call, ids[:middle]), *await _end_all(cloud, call, ids[middle:])]


def _check(record: record_pb2.InstanceRecord) -> None:
    if record.disable_api_termination:
        raise Denied(
            f"The instance '{record.instance_id}' may not be terminated. Modify its 'disableApiTermination' instance"
            " attribute and try again.",
            code="OperationNotPermitted",
        )


def _end(changes: Changes, instance: Stored[record_pb2.InstanceRecord], call: Call) -> ec2.InstanceStateChange:
    before = instance.record.state
    after = before
    if rules.SHUTTING_DOWN in rules.NEXT[before]:
        after = rules.SHUTTING_DOWN
        draft = instance.draft()
        shut_down(draft, *rules.USER_INITIATED, transition=f"User initiated ({gmt(call.now)})")
        draft.request_id = call.request_id
        changes.update(instance, draft)
    return ec2.InstanceStateChange(
        instance_id=instance.record.instance_id, previous_state=state_of(before), current_state=state_of(after)
    )


def shut_down(
    draft: record_pb2.InstanceRecord,
    code: str,
    message: str,
    *,
    transition: str,
    state: rules.State = rules.SHUTTING_DOWN,
) -> None:
    """`state`: SHUTTING_DOWN or STOPPING."""
    draft.state = state
    draft.state_reason_code = code
    draft.state_reason_message = message
    draft.transition_reason = transition
