"""BundleInstance and its tasks, through boto3."""

from __future__ import annotations

import base64
import datetime
import hmac
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cloud.refusal import refused
from tests.cloud_fixture import RunningCloud
from tests.eventually import until

BUCKET = "bundles-of-tests"


@pytest.fixture(scope="module")
def ec2(fake_cloud: RunningCloud) -> Any:
    return fake_cloud.client("ec2")


@pytest.fixture(scope="module")
def instance_id(ec2: Any, fake_cloud: RunningCloud) -> Iterator[str]:
    fake_cloud.client("s3").create_bucket(Bucket=BUCKET)
    answer = ec2.run_instances(ImageId=fake_cloud.image_id, InstanceType="t2.nano", MinCount=1, MaxCount=1)
    made = str(answer["Instances"][0]["InstanceId"])
    ec2.get_waiter("instance_running").wait(InstanceIds=[made], WaiterConfig={"Delay": 1})
    yield made
    ec2.terminate_instances(InstanceIds=[made])


def storage(fake_cloud: RunningCloud, *, prefix: str = "images/web", bucket: str = BUCKET) -> dict[str, Any]:
    """As the AWS CLI makes it of --owner-akid and --owner-sak."""
    keys = fake_cloud.account()
    until_when = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    policy = {
        "expiration": until_when.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "conditions": [{"bucket": BUCKET}, {"acl": "ec2-bundle-read"}, ["starts-with", "$key", "images/"]],
    }
    text = base64.b64encode(json.dumps(policy).encode())
    signature = base64.b64encode(hmac.digest(keys.secret_access_key.encode(), text, "sha1")).decode()
    return {
        "S3": {
            "AWSAccessKeyId": keys.access_key_id,
            "Bucket": bucket,
            "Prefix": prefix,
            "UploadPolicy": text,
            "UploadPolicySignature": signature,
        }
    }


def ended(ec2: Any, bundle_id: str) -> Any:
    def look() -> Any:
        (task,) = ec2.describe_bundle_tasks(BundleIds=[bundle_id])["BundleTasks"]
        return task if task["State"] in ("complete", "failed") else None

    return until(look, within_s=120, what=f"the end of {bundle_id}")


def test_an_instance_becomes_a_bundle_that_is_registered(ec2: Any, instance_id: str, fake_cloud: RunningCloud) -> None:
    task = ec2.bundle_instance(InstanceId=instance_id, Storage=storage(fake_cloud))["BundleTask"]
    assert (task["InstanceId"], task["State"], task["Storage"]["S3"]["Prefix"]) == (
        instance_id,
        "pending",
        "images/web",
    )
    with refused("BundlingInProgress"):
        ec2.bundle_instance(InstanceId=instance_id, Storage=storage(fake_cloud))
    task = ended(ec2, task["BundleId"])
    assert (task["State"], task["Progress"]) == ("complete", "100%")
    image_id = ec2.register_image(Name="of an instance", ImageLocation=f"{BUCKET}/images/web.manifest.xml")["ImageId"]
    assert ec2.describe_images(ImageIds=[image_id])["Images"][0]["RootDeviceType"] == "instance-store"
    with refused("BundleTaskNotCancelable"):
        ec2.cancel_bundle_task(BundleId=task["BundleId"])
    found = ec2.describe_bundle_tasks(Filters=[{"Name": "state", "Values": ["complete"]}])["BundleTasks"]
    assert task["BundleId"] in {one["BundleId"] for one in found}


def test_a_task_ends_as_failed_where_its_bucket_is_not_there(
    ec2: Any, instance_id: str, fake_cloud: RunningCloud
) -> None:
    task = ec2.bundle_instance(InstanceId=instance_id, Storage={"S3": {"Bucket": "nowhere-at-all", "Prefix": "x"}})
    failed = ended(ec2, task["BundleTask"]["BundleId"])
    assert failed["State"] == "failed"
    assert failed["BundleTaskError"]["Code"] == "Client.NoSuchBucket"


def test_a_task_is_cancelled(ec2: Any, instance_id: str, fake_cloud: RunningCloud) -> None:
    task = ec2.bundle_instance(InstanceId=instance_id, Storage=storage(fake_cloud, prefix="images/no"))["BundleTask"]
    cancelled = ec2.cancel_bundle_task(BundleId=task["BundleId"])["BundleTask"]
    assert cancelled["State"] == "cancelling"
    failed = ended(ec2, task["BundleId"])
    assert (failed["State"], failed["BundleTaskError"]["Code"]) == ("failed", "Client.Cancelled")


def test_what_is_not_allowed_is_refused(ec2: Any, instance_id: str, fake_cloud: RunningCloud) -> None:
    good = storage(fake_cloud)
    with refused("AuthFailure", 401):
        ec2.bundle_instance(InstanceId=instance_id, Storage=storage(fake_cloud, prefix="elsewhere/web"))
    with refused("AuthFailure", 401):
        ec2.bundle_instance(InstanceId=instance_id, Storage=storage(fake_cloud, bucket="another"))
    with refused("AuthFailure", 401):
        ec2.bundle_instance(InstanceId=instance_id, Storage={"S3": good["S3"] | {"UploadPolicySignature": "bm8="}})
    with refused("MissingParameter"):
        ec2.bundle_instance(InstanceId=instance_id, Storage={"S3": {"Prefix": "x"}})
    with refused("InvalidBundleID.NotFound"):
        ec2.describe_bundle_tasks(BundleIds=["bun-00000000000000000"])
    with refused("InvalidInstanceID.NotFound"):
        ec2.bundle_instance(InstanceId="i-00000000000000000", Storage=good)
    with refused("DryRunOperation", 412):
        ec2.bundle_instance(InstanceId=instance_id, Storage=good, DryRun=True)
