"""Describe-, Modify- and ResetSnapshotAttribute: who may make volumes of a snapshot."""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import InvalidArgument, Unsupported
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import snapshot_pb2 as ec2
from services.clc.sharing import asked_changes, share
from services.clc.snapshot.find import Snapshot, own_snapshot
from services.clc.store import Changes, until_committed
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

_PERMISSION = "createVolumePermission"


@use_case("ec2.DescribeSnapshotAttribute")
async def describe_snapshot_attribute(
    cloud: Cloud, call: Call, request: ec2.DescribeSnapshotAttributeRequest
) -> ec2.DescribeSnapshotAttributeResult:
    _check_attribute(request.attribute, (_PERMISSION, "productCodes"))
    snapshot = own_snapshot(cloud.store, call.account_id, request.snapshot_id).record
    end_dry_run(request)
    answer = ec2.DescribeSnapshotAttributeResult(snapshot_id=snapshot.snapshot_id)
    if request.attribute == _PERMISSION:
        answer.create_volume_permissions.extend(
            ec2.CreateVolumePermission(user_id=user) for user in snapshot.create_account_ids
        )
        if snapshot.public:
            answer.create_volume_permissions.add(group="all")
    return answer


@use_case("ec2.ModifySnapshotAttribute")
async def modify_snapshot_attribute(
    cloud: Cloud, call: Call, request: ec2.ModifySnapshotAttributeRequest
) -> ec2.ModifySnapshotAttributeResponse:
    if request.attribute:
        _check_attribute(request.attribute, (_PERMISSION,))

    async def attempt() -> ec2.ModifySnapshotAttributeResponse:
        snapshot = own_snapshot(cloud.store, call.account_id, request.snapshot_id)
        draft = snapshot.draft()
        _share(draft, request)
        end_dry_run(request)
        await _replace(cloud, snapshot, draft)
        return ec2.ModifySnapshotAttributeResponse()

    return await until_committed(attempt)


@use_case("ec2.ResetSnapshotAttribute")
async def reset_snapshot_attribute(
    cloud: Cloud, call: Call, request: ec2.ResetSnapshotAttributeRequest
) -> ec2.ResetSnapshotAttributeResponse:
    _check_attribute(request.attribute, (_PERMISSION,))

    async def attempt() -> ec2.ResetSnapshotAttributeResponse:
        snapshot = own_snapshot(cloud.store, call.account_id, request.snapshot_id)
        draft = snapshot.draft()
        draft.public = False
        draft.create_account_ids.clear()
        end_dry_run(request)
        await _replace(cloud, snapshot, draft)
        return ec2.ResetSnapshotAttributeResponse()

    return await until_committed(attempt)


async def _replace(cloud: Cloud, snapshot: Snapshot, draft: record_pb2.SnapshotRecord) -> None:
    if draft != snapshot.record:
        changes = Changes()
        changes.update(snapshot, draft)
        await cloud.store.commit(changes)


def _check_attribute(attribute: str, known: Sequence[str]) -> None:
    if not attribute:
        raise InvalidArgument("The request must contain the parameter attribute", code="MissingParameter")
    if attribute == "productCodes" and attribute not in known:
        raise Unsupported("Product codes are not supported: this cloud has no marketplace.")
    if attribute not in known:
        raise InvalidArgument(f"Value ({attribute}) for parameter attribute is invalid: {', '.join(known)}")


def _share(snapshot: record_pb2.SnapshotRecord, request: ec2.ModifySnapshotAttributeRequest) -> None:
    flat = [ec2.CreateVolumePermission(user_id=user) for user in request.user_ids]
    flat += [ec2.CreateVolumePermission(group=group) for group in request.group_names]
    structure = request.create_volume_permission if request.HasField("create_volume_permission") else None
    added, removed = asked_changes(_PERMISSION, structure, flat, request.operation_type)
    if not added and not removed:
        raise InvalidArgument(f"The request must contain the parameter {_PERMISSION}", code="MissingParameter")
    share(snapshot, snapshot.create_account_ids, added=added, removed=removed, malformed=_malformed)


def _malformed(given: str) -> InvalidArgument:
    return InvalidArgument(f"Invalid value '{given}' for {_PERMISSION}: neither `all` nor an account id.")
