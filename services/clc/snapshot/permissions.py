"""Describe-, Modify- and ResetSnapshotAttribute: who may make volumes of a snapshot."""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import InvalidArgument, Unsupported
from common.ids import AccountId
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import snapshot_pb2 as ec2
from services.clc.snapshot.find import Snapshot, own_snapshot
from services.clc.store import Changes, until_committed
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

_PERMISSION = "createVolumePermission"
Permissions = Sequence[ec2.CreateVolumePermission]


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
    added, removed = _permissions(request)

    async def attempt() -> ec2.ModifySnapshotAttributeResponse:
        snapshot = own_snapshot(cloud.store, call.account_id, request.snapshot_id)
        draft = snapshot.draft()
        for permission in added:
            _grant(draft, permission)
        for permission in removed:
            _revoke(draft, permission)
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


def _permissions(request: ec2.ModifySnapshotAttributeRequest) -> tuple[Permissions, Permissions]:
    """Those to add and those to remove, of the structure or of the flat, older members."""
    flat = [ec2.CreateVolumePermission(user_id=user) for user in request.user_ids]
    flat += [ec2.CreateVolumePermission(group=group) for group in request.group_names]
    if request.HasField("create_volume_permission") and (flat or request.operation_type):
        raise InvalidArgument(
            "The parameter createVolumePermission cannot be used with the parameter operationType",
            code="InvalidParameterCombination",
        )
    match request.operation_type:
        case "add":
            return flat, ()
        case "remove":
            return (), flat
        case "" if not flat:
            changes = request.create_volume_permission
            if not changes.add and not changes.remove:
                raise InvalidArgument(f"The request must contain the parameter {_PERMISSION}", code="MissingParameter")
            return changes.add, changes.remove
        case other:
            raise InvalidArgument(f"Value ({other}) for parameter operationType is invalid: add or remove")


def _grant(snapshot: record_pb2.SnapshotRecord, permission: ec2.CreateVolumePermission) -> None:
    if _is_everybody(permission):
        snapshot.public = True
    elif permission.user_id not in snapshot.create_account_ids:
        snapshot.create_account_ids.append(permission.user_id)


def _revoke(snapshot: record_pb2.SnapshotRecord, permission: ec2.CreateVolumePermission) -> None:
    if _is_everybody(permission):
        snapshot.public = False
    elif permission.user_id in snapshot.create_account_ids:
        snapshot.create_account_ids.remove(permission.user_id)


def _is_everybody(permission: ec2.CreateVolumePermission) -> bool:
    if permission.group == "all" and not permission.user_id:
        return True
    try:
        AccountId("" if permission.group else permission.user_id)
    except ValueError:
        wrong = permission.group or permission.user_id
        raise InvalidArgument(
            f"Invalid value '{wrong}' for createVolumePermission: neither `all` nor an account id."
        ) from None
    return False
