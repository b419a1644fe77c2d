"""BundleInstance, CancelBundleTask, DescribeBundleTasks: an instance-store instance's disk on its way to a bucket."""

from __future__ import annotations

from typing import Final

from common.errors import InvalidArgument, Unauthenticated, Unsupported, WrongState
from common.ids import BundleTaskId
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import bundle_task_pb2 as ec2
from services.clc.account import secrets
from services.clc.bundle_task import policy
from services.clc.clock import timestamp, written
from services.clc.filters import FilterTable
from services.clc.instance import rules
from services.clc.lookup import BUNDLE_TASK, INSTANCE, own, own_all
from services.clc.store import Changes, Stored, sorted_by_creation, until_committed
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

Task = Stored[record_pb2.BundleTaskRecord]

STATES: Final = {
    record_pb2.BUNDLE_TASK_STATE_PENDING: "pending",
    record_pb2.BUNDLE_TASK_STATE_BUNDLING: "bundling",
    record_pb2.BUNDLE_TASK_STATE_STORING: "storing",
    record_pb2.BUNDLE_TASK_STATE_CANCELLING: "cancelling",
    record_pb2.BUNDLE_TASK_STATE_COMPLETE: "complete",
    record_pb2.BUNDLE_TASK_STATE_FAILED: "failed",
}
ENDED: Final = frozenset({record_pb2.BUNDLE_TASK_STATE_COMPLETE, record_pb2.BUNDLE_TASK_STATE_FAILED})
_MAX_PREFIX: Final = 900

_FILTERS = FilterTable[ec2.BundleTask](
    "ec2.DescribeBundleTasks",
    {
        "bundle-id": lambda t: t.bundle_id,
        "error-code": lambda t: t.bundle_task_error.code or None,
        "error-message": lambda t: t.bundle_task_error.message or None,
        "instance-id": lambda t: t.instance_id,
        "progress": lambda t: t.progress,
        "s3-bucket": lambda t: t.storage.s3.bucket,
        "s3-prefix": lambda t: t.storage.s3.prefix,
        "start-time": lambda t: written(t.start_time),
        "state": lambda t: t.state,
        "update-time": lambda t: written(t.update_time),
    },
)


def bundling_claim(instance_id: str) -> str:
    """Held by the one task that an instance may have under way."""
    return f"bundling/{instance_id}"


@use_case("ec2.BundleInstance")
async def bundle_instance(cloud: Cloud, call: Call, request: ec2.BundleInstanceRequest) -> ec2.BundleInstanceResult:
    storage = request.storage.s3
    for name, given in (("Storage.S3.Bucket", storage.bucket), ("Storage.S3.Prefix", storage.prefix)):
        if not given:
            raise InvalidArgument(f"The request must contain the parameter {name}", code="MissingParameter")
    if len(storage.prefix.encode()) > _MAX_PREFIX:
        raise InvalidArgument(f"Storage.S3.Prefix may have {_MAX_PREFIX} bytes")

    async def attempt() -> ec2.BundleInstanceResult:
        instance = own(cloud.store, INSTANCE, call.account_id, request.instance_id)
        _check(cloud, instance.record)
        record = record_pb2.BundleTaskRecord(
            bundle_id=BundleTaskId.new(),
            account_id=call.account_id,
            instance_id=instance.record.instance_id,
            state=record_pb2.BUNDLE_TASK_STATE_PENDING,
            started=timestamp(call.now),
            updated=timestamp(call.now),
            bucket=storage.bucket,
            prefix=storage.prefix,
            access_key_id=storage.aws_access_key_id,
            bucket_account_id=_owner(cloud, call, storage),
            request_id=call.request_id,
        )
        end_dry_run(request)
        changes = Changes()
        changes.require(instance)
        changes.create(record)
        changes.claim(bundling_claim(record.instance_id), record.bundle_id)
        await cloud.store.commit(changes)
        return ec2.BundleInstanceResult(bundle_task=shown(record))

    return await until_committed(attempt)


@use_case("ec2.CancelBundleTask")
async def cancel_bundle_task(
    cloud: Cloud, call: Call, request: ec2.CancelBundleTaskRequest
) -> ec2.CancelBundleTaskResult:
    async def attempt() -> ec2.CancelBundleTaskResult:
        task = own(cloud.store, BUNDLE_TASK, call.account_id, request.bundle_id)
        if task.record.state in ENDED:
            raise WrongState(f"The bundle task '{request.bundle_id}' has ended.", code="BundleTaskNotCancelable")
        end_dry_run(request)
        draft = task.draft()
        draft.state = record_pb2.BUNDLE_TASK_STATE_CANCELLING
        draft.updated.CopyFrom(timestamp(call.now))
        changes = Changes()
        changes.update(task, draft)
        await cloud.store.commit(changes)
        return ec2.CancelBundleTaskResult(bundle_task=shown(draft))

    return await until_committed(attempt)


@use_case("ec2.DescribeBundleTasks")
async def describe_bundle_tasks(
    cloud: Cloud, call: Call, request: ec2.DescribeBundleTasksRequest
) -> ec2.DescribeBundleTasksResult:
    matches = _FILTERS.matcher(request.filters)
    end_dry_run(request)
    if request.bundle_ids:
        found = own_all(cloud.store, BUNDLE_TASK, call.account_id, request.bundle_ids)
    else:
        found = list(cloud.store.owned(record_pb2.BundleTaskRecord, call.account_id))
    views = (shown(task.record) for task in sorted_by_creation(found))
    return ec2.DescribeBundleTasksResult(bundle_tasks=[view for view in views if matches(view)])


def shown(record: record_pb2.BundleTaskRecord) -> ec2.BundleTask:
    return ec2.BundleTask(
        bundle_id=record.bundle_id,
        instance_id=record.instance_id,
        state=STATES[record.state],
        start_time=record.started,
        update_time=record.updated,
        progress=f"{record.progress_percent}%",
        storage=ec2.Storage(
            s3=ec2.S3Storage(aws_access_key_id=record.access_key_id or None, bucket=record.bucket, prefix=record.prefix)
        ),
        bundle_task_error=(
            ec2.BundleTaskError(code=record.error_code, message=record.error_message) if record.error_code else None
        ),
    )


def _check(cloud: Cloud, instance: record_pb2.InstanceRecord) -> None:
    if instance.root_device_type == rules.EBS:
        raise Unsupported(
            f"The instance '{instance.instance_id}' has an 'ebs' root device type and cannot be bundled: use"
            " CreateImage."
        )
    if instance.state != rules.RUNNING:
        raise WrongState(
            f"The instance '{instance.instance_id}' is not in a state from which it can be bundled.",
            code="IncorrectInstanceState",
        )
    if cloud.store.holder(bundling_claim(instance.instance_id)) is not None:
        raise WrongState(
            f"The instance '{instance.instance_id}' has a bundling task in progress already.", code="BundlingInProgress"
        )


def _owner(cloud: Cloud, call: Call, storage: ec2.S3Storage) -> str:
    """Account in whose name the bundle is stored. Raises Unauthenticated."""
    if not storage.upload_policy and not storage.upload_policy_signature and not storage.aws_access_key_id:
        return call.account_id
    key = cloud.store.get(record_pb2.AccessKeyRecord, storage.aws_access_key_id)
    if key is None:
        raise Unauthenticated("The access key of the upload policy is not known.", code="AuthFailure")
    secret = secrets.unseal(cloud.master_key, key.record.access_key_id, key.record.sealed_secret)
    policy.check(
        storage.upload_policy,
        storage.upload_policy_signature,
        secret=secret,
        bucket=storage.bucket,
        prefix=storage.prefix,
        now=call.now,
    )
    return key.record.account_id
