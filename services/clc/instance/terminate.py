"""TerminateInstances: recorded as `shutting-down`, all of them or none; the reconciler does the rest."""

from __future__ import annotations

from common.errors import Denied
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import instance_pb2 as ec2
from services.clc.clock import gmt
from services.clc.instance import rules
from services.clc.instance.view import state_of
from services.clc.lookup import INSTANCE, own_all
from services.clc.store import Changes, Stored, until_committed
from services.clc.use_case import Call, Cloud, end_dry_run, use_case


@use_case("ec2.TerminateInstances")
async def terminate_instances(
    cloud: Cloud, call: Call, request: ec2.TerminateInstancesRequest
) -> ec2.TerminateInstancesResult:
    async def attempt() -> ec2.TerminateInstancesResult:
        instances = own_all(cloud.store, INSTANCE, call.account_id, request.instance_ids)
        for instance in instances:
            if instance.record.disable_api_termination:
                raise Denied(
                    f"The instance '{instance.record.instance_id}' may not be terminated. Modify its"
                    " 'disableApiTermination' instance attribute and try again.",
                    code="OperationNotPermitted",
                )
        end_dry_run(request)
        changes, shown = Changes(), []
        for instance in instances:
            shown.append(_end(changes, instance, call))
        if changes:
            await cloud.store.commit(changes)
        return ec2.TerminateInstancesResult(terminating_instances=shown)

    return await until_committed(attempt)


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


def shut_down(draft: record_pb2.InstanceRecord, code: str, message: str, *, transition: str) -> None:
    draft.state = rules.SHUTTING_DOWN
    draft.state_reason_code = code
    draft.state_reason_message = message
    draft.transition_reason = transition
