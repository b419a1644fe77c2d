"""Describe-, Modify- and ResetSnapshotAttribute: who may make volumes of a snapshot."""

from __future__ import annotations

from common.errors import InvalidArgument, Unsupported
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import snapshot_pb2 as ec2
from services.clc import attribute as attribute_errors
from services.clc.sharing import asked_changes, share
from services.clc.snapshot.find import Snapshot, own_snapshot
from services.clc.store import Changes, until_committed
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

_PERMISSION = "createVolumePermission"


@use_case("ec2.DescribeSnapshotAttribute")
async def describe_snapshot_attribute(
    cloud: Cloud, call: Call, request: ec2.DescribeSnapshotAttributeRequest
) -> ec2.DescribeSnapshotAttributeResult:
    if request.attribute not in (_PERMISSION, "productCodes"):
        raise InvalidArgument("The request received was invalid.", code="InvalidRequest")
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
    _check_asked(request)

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
    if request.attribute != _PERMISSION:
        raise InvalidArgument("The request received was invalid.", code="InvalidRequest")

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


def _check_asked(request: ec2.ModifySnapshotAttributeRequest) -> None:
    """Raises InvalidArgument unless one operation on the permission is asked for."""
    if request.attribute == "productCodes":
        raise Unsupported("Product codes are not supported: this cloud has no marketplace.")
    if request.attribute not in ("", _PERMISSION):
        raise attribute_errors.unknown(request.attribute)
    asked = request.create_volume_permission
    if asked.add and asked.remove:
        raise InvalidArgument(
            f"One and only one operation type may be specified for {_PERMISSION}s", code="InvalidParameterCombination"
        )
    if asked.add or asked.remove:
        return
    if not (request.attribute or request.operation_type or request.user_ids or request.group_names):
        raise attribute_errors.none_given()
    if request.operation_type not in ("add", "remove"):
        raise InvalidArgument(
            f"No operation specified for {_PERMISSION} attribute.", code="InvalidParameterCombination"
        )


def _share(snapshot: record_pb2.SnapshotRecord, request: ec2.ModifySnapshotAttributeRequest) -> None:
    flat = [ec2.CreateVolumePermission(user_id=user) for user in request.user_ids]
    flat += [ec2.CreateVolumePermission(group=group) for group in request.group_names]
    structure = request.create_volume_permission if request.HasField("create_volume_permission") else None
    added, removed = asked_changes(_PERMISSION, structure, flat, request.operation_type)
    if not added and not removed:
        raise InvalidArgument(f"The request must contain the parameter {_PERMISSION}", code="MissingParameter")
    share(snapshot, snapshot.create_account_ids, added=added, removed=removed, malformed=_malformed)


def _malformed(given: str) -> InvalidArgument:
    return InvalidArgument(
        f"Invalid value '{given}' for {_PERMISSION}: neither `all` nor an account id.",
        code="InvalidAMIAttributeItemValue",
    )
