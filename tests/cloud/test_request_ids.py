"""One request id leads from the client's answer through the log of every service that had a part in it."""

from __future__ import annotations

import json

from tests.cloud_fixture import RunningCloud
from tests.eventually import eventually


def _said(cloud: RunningCloud, member: str, request_id: str) -> list[dict[str, object]]:
    """The log lines of a member under that id; s6-log puts the time before each."""
    lines = (line[line.index("{") :] for line in cloud.log(member).splitlines() if f'"{request_id}"' in line)
    return [line for line in map(json.loads, lines) if line["request_id"] == request_id]


async def test_a_launch_and_its_end_are_told_under_the_ids_their_clients_got(fake_cloud: RunningCloud) -> None:
    ec2 = fake_cloud.client("ec2")
    run = ec2.run_instances(ImageId=fake_cloud.image_id, InstanceType="t2.nano", MinCount=1, MaxCount=1)
    launched, instance_id = run["ResponseMetadata"]["RequestId"], run["Instances"][0]["InstanceId"]
    ec2.get_waiter("instance_running").wait(InstanceIds=[instance_id], WaiterConfig={"Delay": 1})
    placed = fake_cloud.json("nodes")
    node = next(n["Node"] for n in placed if any(_said(fake_cloud, n["Node"], launched)))
    cc = f"cc-{next(n['Zone'] for n in placed if n['Node'] == node)}"

    def methods(member: str, request_id: str) -> set[str]:
        return {str(line.get("method")).rpartition("/")[2] for line in _said(fake_cloud, member, request_id)}

    def actions() -> set[object]:
        facades = fake_cloud.config.facade.members
        return {line.get("action") for member in facades for line in _said(fake_cloud, member, launched)}

    # Nobody waits for the log.
    await eventually(lambda: actions() == {"RunInstances"})
    await eventually(lambda: "RunInstances" in methods("clc-1", launched))
    await eventually(lambda: "EnsureInstances" in methods(cc, launched))
    await eventually(lambda: "EnsureInstance" in methods(node, launched))
    for member, event in ((node, "a VM runs"), ("clc-1", "an instance changes state")):
        told = [line for line in _said(fake_cloud, member, launched) if line["event"] == event]
        assert [line["instance_id"] for line in told] == [instance_id]

    ended = ec2.terminate_instances(InstanceIds=[instance_id])["ResponseMetadata"]["RequestId"]
    ec2.get_waiter("instance_terminated").wait(InstanceIds=[instance_id], WaiterConfig={"Delay": 1})
    await eventually(lambda: "TerminateInstances" in methods("clc-1", ended))
    await eventually(lambda: "TerminateInstances" in methods(cc, ended))
    await eventually(lambda: "TerminateInstance" in methods(node, ended))
    await eventually(
        lambda: "nothing of a VM is left" in {line["event"] for line in _said(fake_cloud, node, ended)}
    )  # fmt: skip


async def test_an_object_is_told_under_the_id_its_client_got(fake_cloud: RunningCloud) -> None:
    s3 = fake_cloud.client("s3")
    s3.create_bucket(Bucket="told-in-the-log")
    put = s3.put_object(Bucket="told-in-the-log", Key="note", Body=b"x")["ResponseMetadata"]
    assert put["RequestId"] == put["HTTPHeaders"]["x-amz-request-id"]
    await eventually(lambda: _said(fake_cloud, "walrus-1", put["RequestId"]))
    methods = {line.get("method") for line in _said(fake_cloud, "walrus-1", put["RequestId"])}
    assert methods == {"/mallee.s3.v1.S3Service/PutObject"}
