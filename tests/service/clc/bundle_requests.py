"""Each action on bundle tasks, with every member set."""

from __future__ import annotations

import base64
import datetime
import hmac
import json
from typing import Any, Final

from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import bundle_task_pb2
from services.clc.account import secrets
from tests.service.clc.address_requests import booted
from tests.service.clc.making import Make, of, reads
from tests.service.clc.stage import Stage

BUCKET: Final = "bundles"


async def bundle(stage: Stage) -> Any:
    """Into the caller's own bucket, by an upload policy that the caller has signed."""
    (key,) = stage.cloud.store.owned(record_pb2.AccessKeyRecord, stage.callers[0].account_id)
    secret = secrets.unseal(stage.cloud.master_key, key.record.access_key_id, key.record.sealed_secret)
    until = datetime.datetime.fromtimestamp(stage.now + 3600, datetime.UTC)
    said = {"expiration": until.isoformat(), "conditions": [{"bucket": BUCKET}, ["starts-with", "$key", "web"]]}
    policy = base64.b64encode(json.dumps(said).encode())
    return bundle_task_pb2.BundleInstanceRequest(
        instance_id=await booted(stage),
        storage=bundle_task_pb2.Storage(
            s3=bundle_task_pb2.S3Storage(
                aws_access_key_id=key.record.access_key_id,
                bucket=BUCKET,
                prefix="web",
                upload_policy=policy,
                upload_policy_signature=base64.b64encode(hmac.digest(secret.encode(), policy, "sha1")).decode(),
            )
        ),
    )


async def task(stage: Stage) -> str:
    return str((await stage.run("BundleInstance", await bundle(stage))).bundle_task.bundle_id)


BUNDLES: dict[str, Make] = {
    "BundleInstance": bundle,
    "CancelBundleTask": of(task, bundle_task_pb2.CancelBundleTaskRequest(), "bundle_id"),
    "DescribeBundleTasks": reads(bundle_task_pb2.DescribeBundleTasksRequest(), state="*"),
}

BUNDLES_NAMED: dict[tuple[str, str], Make] = {
    ("DescribeBundleTasks", "by id"): of(task, bundle_task_pb2.DescribeBundleTasksRequest(), "bundle_ids"),
}
