"""A real Prometheus scrapes every service of a whole cloud, and finds what an operator asks for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cloud_fixture import RunningCloud
from tests.service.test_prometheus import prometheus, scraped


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Debian's prometheus is not installed")
async def test_prometheus_scrapes_every_service(fake_cloud: RunningCloud, tmp_path: Path) -> None:
    ec2, s3 = fake_cloud.client("ec2"), fake_cloud.client("s3")
    ec2.describe_regions()
    s3.create_bucket(Bucket="measured")
    image = fake_cloud.image_id
    run = ec2.run_instances(ImageId=image, InstanceType="t2.nano", MinCount=1, MaxCount=1)
    instance_id = run["Instances"][0]["InstanceId"]
    ec2.get_waiter("instance_running").wait(InstanceIds=[instance_id], WaiterConfig={"Delay": 1})
    zone = run["Instances"][0]["Placement"]["AvailabilityZone"]
    volume_id = ec2.create_volume(AvailabilityZone=zone, Size=3)["VolumeId"]
    soon = {"Delay": 0.2, "MaxAttempts": 100}
    ec2.get_waiter("volume_available").wait(VolumeIds=[volume_id], WaiterConfig=soon)
    ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device="/dev/sdf")
    snapshot_id = ec2.create_snapshot(VolumeId=volume_id)["SnapshotId"]
    ec2.get_waiter("snapshot_completed").wait(SnapshotIds=[snapshot_id], WaiterConfig=soon)
    ec2.get_waiter("volume_in_use").wait(VolumeIds=[volume_id], WaiterConfig=soon)
    targets = {member["Metrics"]: member["Id"] for member in fake_cloud.json("status")["Members"]}
    assert len(targets) == 6 + fake_cloud.config.facade.processes
    async with prometheus(sorted(targets), tmp_path) as url:
        up = await scraped(url, "up == 1", series=len(targets))
        assert {series["metric"]["instance"] for series in up} == set(targets)

        async def one(query: str) -> float:
            return float((await scraped(url, query))[0]["value"][1])

        assert await one('mallee_instances{state="running"}') >= 1
        assert await one("mallee_walrus_buckets") >= 1
        assert await one('sum(mallee_rpc_requests_total{method=~".*DescribeRegions", code="OK"})') >= 1
        assert await one('sum(mallee_reconcile_passes_total{outcome="done"})') >= 1
        assert await one('sum(mallee_http_requests_total{action="DescribeRegions"})') >= 1
        # What every service answers by RPC shows its latency by method and code.
        assert await one("count(count by (instance) (mallee_rpc_seconds_count))") >= 4
        # To its owner, and to its storage controller.
        assert await one('mallee_volumes{state="in-use"}') >= 1
        assert await one('sum(mallee_sc_volumes{state="available"})') >= 1
        assert await one("sum(mallee_sc_promised_bytes)") >= 3 << 30
        assert await one("sum(mallee_sc_total_bytes)") > await one("sum(mallee_sc_used_bytes)") >= 0
        assert await one("sum(mallee_sc_missing_bytes)") == 0
        # Nothing was written, so nothing had to travel.
        assert await one("sum(mallee_sc_snapshot_saved_bytes_total)") >= 3 << 30
        assert await one("sum(mallee_sc_snapshot_sent_bytes_total)") >= 0
        assert await one('sum(mallee_sc_snapshots_total{outcome="completed"})') >= 1
        for kind in ("operations", "bytes", "seconds"):
            assert await one(f'sum(mallee_nc_volume_{kind}_total{{volume="{volume_id}", kind="write"}})') >= 0
    ec2.terminate_instances(InstanceIds=[instance_id])
    ec2.get_waiter("volume_available").wait(VolumeIds=[volume_id], WaiterConfig=soon)
    ec2.delete_volume(VolumeId=volume_id)
    ec2.delete_snapshot(SnapshotId=snapshot_id)
