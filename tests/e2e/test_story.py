"""The whole story with real machines, by boto3: upload, register, run, log in, open and close, reboot, terminate.

The tests build on one another's fleet and stand in the order in which a user would live through them.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError
from PIL import Image

from common.config import CloudConfig
from tests.cloud_fixture import RunningCloud
from tests.e2e.fleet import BUCKET, Fleet, decoded_console, describe, fleet_of, run, wait_for_state
from tests.e2e.guest_ssh import answers
from tests.e2e.host_traces import traces_of_instances
from tests.eventually import until

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(900)]

# Documentation addresses (RFC 5737) that nothing here routes: what a guest sends there must die on this machine.
NOWHERE = "198.51.100.7"
# In a guest's shell: a token for what follows, and the beginning of a read with it.
TOKEN = "T=$(http -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' PUT http://169.254.169.254/latest/api/token)"
GET_METADATA = 'http -H "X-aws-ec2-metadata-token: $T" GET http://169.254.169.254/latest'


@pytest.fixture(scope="module")
def escapes() -> Iterator[str]:
    """A rule table that counts what guests' addresses send out by this machine's real interface."""
    table = f"mallee_test_{os.getpid()}"
    subprocess.run(["nft", "-f", "-"], input=_counting(table), text=True, check=True)
    yield table
    subprocess.run(["nft", "delete", "table", "inet", table], check=True)


def _counting(table: str) -> str:
    real = json.loads(subprocess.run(["ip", "-j", "route", "show", "default"], capture_output=True, check=True).stdout)
    interface = real[0]["dev"] if real else "lo"
    return f"""
table inet {table}
delete table inet {table}
table inet {table} {{
    chain out {{
        type filter hook postrouting priority 300;
        oifname "{interface}" ip saddr {{ 172.31.0.0/16, 169.254.0.0/16, 100.64.0.0/10, 198.18.0.0/15 }} counter
        oifname "{interface}" ip daddr {NOWHERE} counter
    }}
}}
"""


def escaped(table: str) -> int:
    listing = subprocess.run(["nft", "-j", "list", "table", "inet", table], capture_output=True, check=True).stdout
    rules = [entry["rule"] for entry in json.loads(listing)["nftables"] if "rule" in entry]
    return sum(part["counter"]["packets"] for rule in rules for part in rule["expr"] if "counter" in part)


@pytest.fixture(scope="module")
def fleet(real_cloud: RunningCloud, escapes: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet_of(real_cloud, tmp_path_factory.mktemp("fleet")) as it:
        yield it


def test_images_are_told_by_their_content(fleet: Fleet) -> None:
    assert fleet.kernel_id.startswith("aki-")
    assert fleet.ramdisk_id.startswith("ari-")
    assert fleet.image_id.startswith("ami-")


def test_the_created_key_opens_every_instance_and_user_data_ran(fleet: Fleet) -> None:
    for instance in fleet.instances():
        said = fleet.ssh.run(instance["PublicIpAddress"], "hostname; cat /root/proof; ip -4 addr show eth0")
        assert instance["PrivateDnsName"].split(".")[0] in said
        assert "user-data-was-here" in said
        assert f"inet {instance['PrivateIpAddress']}/" in said


def test_instances_stand_in_the_zones_asked_for_and_on_different_nodes(fleet: Fleet) -> None:
    zones = [instance["Placement"]["AvailabilityZone"] for instance in fleet.instances()]
    assert zones == ["us-east-1a", "us-east-1a", "us-east-1b"]
    used = [node["Node"] for node in fleet.cloud.json("nodes") if node["Used"]["Vcpus"]]
    assert len(used) == 3


def test_metadata_is_the_instances_own(fleet: Fleet) -> None:
    first, second, third = fleet.instances()
    get, token = GET_METADATA, TOKEN
    for instance in (first, second, third):
        paths = ("instance-id", "local-ipv4", "public-ipv4", "instance-type", "ami-id", "security-groups",
                 "placement/availability-zone")  # fmt: skip
        reads = "; ".join(f"{get}/meta-data/{path}; echo" for path in paths)
        said = fleet.ssh.run(instance["PublicIpAddress"], f"{token}; {reads}").split()
        assert said == [
            instance["InstanceId"],
            instance["PrivateIpAddress"],
            instance["PublicIpAddress"],
            "t2.nano",
            fleet.image_id,
            "fleet",
            instance["Placement"]["AvailabilityZone"],
        ]
        document = json.loads(
            fleet.ssh.run(instance["PublicIpAddress"], f"{token}; {get}/dynamic/instance-identity/document")
        )
        assert document["instanceId"] == instance["InstanceId"]
        assert document["accountId"] == fleet.cloud.account().account_id


def test_metadata_answers_version_1_as_well(fleet: Fleet) -> None:
    said = fleet.ssh.run(fleet.addresses()[0], "http GET http://169.254.169.254/latest/meta-data/instance-id")
    assert said.strip() == fleet.ids[0]


def test_metadata_follows_what_changes_under_the_running_guest(fleet: Fleet) -> None:
    instance_id = fleet.ids[2]

    def told(path: str) -> str:
        """By version 2, page of the refusal included."""
        return fleet.ssh.run(fleet.addresses()[2], f"{TOKEN}; {GET_METADATA}/meta-data/{path}", check=False).strip()

    def told_v1() -> str:
        get = "http GET http://169.254.169.254/latest/meta-data/instance-id"
        return fleet.ssh.run(fleet.addresses()[2], get, check=False).strip()

    def change(**options: str) -> None:
        fleet.ec2.modify_instance_metadata_options(InstanceId=instance_id, **options)
        until(
            lambda: describe(fleet.ec2, [instance_id])[0]["MetadataOptions"]["State"] == "applied",
            what=f"{options} applied",
        )

    change(HttpTokens="required", InstanceMetadataTags="enabled")
    assert "401" in told_v1()
    assert told("tags/instance/Name") == "us-east-1b"
    fleet.ec2.create_tags(Resources=[instance_id], Tags=[{"Key": "Name", "Value": "renamed"}])
    until(lambda: told("tags/instance/Name") == "renamed", what="the new tag")
    more = fleet.ec2.create_security_group(GroupName="more", Description="one more")["GroupId"]
    fleet.ec2.modify_instance_attribute(InstanceId=instance_id, Groups=[fleet.group_id, more])
    until(lambda: set(told("security-groups").split()) == {"fleet", "more"}, what="both groups")
    fleet.ec2.modify_instance_attribute(InstanceId=instance_id, Groups=[fleet.group_id])
    fleet.ec2.delete_security_group(GroupId=more)
    until(lambda: told("security-groups") == "fleet", what="one group again")
    address = fleet.ec2.allocate_address()
    fleet.ec2.associate_address(AllocationId=address["AllocationId"], InstanceId=instance_id)
    until(lambda: told("public-ipv4") == address["PublicIp"], what="the new address")
    change(HttpEndpoint="disabled")
    assert "403" in told("instance-id")
    change(HttpEndpoint="enabled", HttpTokens="optional")
    assert told_v1() == instance_id


def test_instances_reach_each_other_across_nodes_and_zones_once_their_group_allows_it(fleet: Fleet) -> None:
    first, *others = fleet.instances()
    here = first["PublicIpAddress"]
    fetch = "http -t 4 GET http://{}:8080/proof"
    for other in others:
        assert "was-here" not in fleet.ssh.run(here, fetch.format(other["PrivateIpAddress"]), check=False)
    permission = {"IpProtocol": "tcp", "FromPort": 8080, "ToPort": 8080}
    among = permission | {"UserIdGroupPairs": [{"GroupId": fleet.group_id}]}
    fleet.ec2.authorize_security_group_ingress(GroupId=fleet.group_id, IpPermissions=[among])
    for other in others:

        def fetched(address: str = other["PrivateIpAddress"]) -> bool:
            return "was-here" in fleet.ssh.run(here, fetch.format(address), check=False)

        until(fetched, what="the group's own members are let in")
    # By the public address an instance is nobody's group member: it needs a CIDR rule.
    assert "was-here" not in fleet.ssh.run(here, fetch.format(others[0]["PublicIpAddress"]), check=False)
    pool = permission | {"IpRanges": [{"CidrIp": fleet.cloud.config.network.public_pool}]}
    fleet.ec2.authorize_security_group_ingress(GroupId=fleet.group_id, IpPermissions=[pool])
    for other in others:

        def fetched_publicly(address: str = other["PublicIpAddress"]) -> bool:
            return "was-here" in fleet.ssh.run(here, fetch.format(address), check=False)

        until(fetched_publicly, what="public addresses reach across nodes and zones")


def test_a_group_is_closed_and_opened_live_and_open_connections_are_cut(fleet: Fleet) -> None:
    address, other = fleet.addresses()[0], fleet.addresses()[1]
    assert answers(other, 22)
    open_session = subprocess.Popen(
        ["ssh", "-i", str(fleet.ssh.key), "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null",
         "-oServerAliveInterval=1", "-oServerAliveCountMax=3", f"root@{address}", "echo in; sleep 600"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert open_session.stdout is not None
        assert open_session.stdout.readline().strip() == "in"
        rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "CidrIp": "0.0.0.0/0"}
        fleet.ec2.revoke_security_group_ingress(GroupId=fleet.group_id, **rule)
        until(lambda: not answers(address, 22), what="port 22 is closed")
        assert open_session.wait(timeout=30) != 0
        fleet.ec2.authorize_security_group_ingress(GroupId=fleet.group_id, **rule)
        until(lambda: answers(address, 22), what="port 22 is open again")
    finally:
        open_session.kill()
        open_session.wait()


def test_a_guest_uses_s3_and_ec2_at_the_stated_address(fleet: Fleet) -> None:
    config = fleet.cloud.config
    endpoint = f"http://{config.network.guest_facade_address}:{config.facade.port}"
    keys = fleet.cloud.account()
    session = boto3.Session(keys.access_key_id, keys.secret_access_key, region_name=config.region)
    s3, ec2 = session.client("s3", endpoint_url=endpoint), session.client("ec2", endpoint_url=endpoint)
    put = s3.generate_presigned_url("put_object", Params={"Bucket": BUCKET, "Key": "from/a guest"})
    get = s3.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "from/a guest"})
    me = ec2.generate_presigned_url("describe_instances", Params={"InstanceIds": [fleet.ids[2]]}, HttpMethod="GET")
    said = fleet.ssh.run(
        fleet.addresses()[2], f"echo hello from inside | http PUT '{put}' - && http GET '{get}' && http GET '{me}'"
    )
    assert "hello from inside" in said
    assert f"<instanceId>{fleet.ids[2]}</instanceId>" in said
    assert fleet.s3.get_object(Bucket=BUCKET, Key="from/a guest")["Body"].read() == b"hello from inside\n"


def test_nothing_else_of_the_host_is_reached(fleet: Fleet) -> None:
    targets = list(_host_doors(fleet.cloud.config))
    assert len(targets) > 20
    probe = " ".join(
        f"(nc -w 2 {host} {port} </dev/null >/dev/null 2>&1 && echo OPEN {host}:{port}) &" for host, port in targets
    )
    # The one door that is meant to be open shows that the probe can tell.
    config = fleet.cloud.config
    facade = f"nc -w 1 {config.network.guest_facade_address} {config.facade.port} </dev/null && echo OPEN facade"
    said = fleet.ssh.run(fleet.addresses()[0], f"{probe} wait; {facade}; true", timeout_s=240)
    assert said.split("\n")[:-1] == ["OPEN facade"]


def _host_doors(config: CloudConfig) -> Iterator[tuple[str, int]]:
    """Every port of the cloud's services, on every address of this machine that the guest might route to."""
    ports = {config.clc.port, config.clc.metrics_port, config.walrus.port, config.walrus.metrics_port,
             config.facade.metrics_port, 22, 53}  # fmt: skip
    ports |= {int(endpoint.rpartition(":")[2]) for endpoint in config.etcd.endpoints}
    for zone in config.zones:
        ports |= {zone.cc_port, zone.cc_metrics_port}
    for port in sorted(ports | {config.facade.port}):
        yield config.management_address, port
    for zone in config.zones:
        for node in zone.nodes:
            for port in (node.port, node.metrics_port, 16509, 22):
                yield node.address, port


def test_guests_go_nowhere_and_no_packet_leaves_by_the_real_interface(fleet: Fleet, escapes: str) -> None:
    fleet.ssh.run(fleet.addresses()[0], f"ping -c 2 -W 1 {NOWHERE}; nc -w 2 {NOWHERE} 80 </dev/null; true")
    assert escaped(escapes) == 0


def test_the_console_shows_what_the_guest_wrote(fleet: Fleet) -> None:
    for instance_id in fleet.ids:
        assert f"mallee-guest: ready {instance_id}" in decoded_console(fleet.ec2, instance_id)
    fleet.ssh.run(fleet.addresses()[0], "echo written just now > /dev/ttyS0")
    until(lambda: "written just now" in decoded_console(fleet.ec2, fleet.ids[0]), what="the latest line")


def test_the_screen_is_a_picture_and_the_checks_have_passed(fleet: Fleet) -> None:
    shot = fleet.ec2.get_console_screenshot(InstanceId=fleet.ids[0], WakeUp=True)
    with Image.open(io.BytesIO(base64.b64decode(shot["ImageData"]))) as picture:
        assert picture.format == "JPEG"
        assert len(set(picture.convert("L").tobytes())) > 1, "the firmware's words are on it"
    for status in fleet.ec2.describe_instance_status(InstanceIds=fleet.ids)["InstanceStatuses"]:
        assert (status["SystemStatus"]["Status"], status["InstanceStatus"]["Status"]) == ("ok", "ok")


def test_a_reboot_keeps_disk_and_addresses(fleet: Fleet) -> None:
    address = fleet.addresses()[1]
    before = fleet.ssh.run(address, "echo kept > /root/kept; sync; cat /proc/sys/kernel/random/boot_id")
    fleet.ec2.reboot_instances(InstanceIds=[fleet.ids[1]])

    def rebooted() -> bool:
        if not answers(address, 22):
            return False
        said = fleet.ssh.run(address, "cat /proc/sys/kernel/random/boot_id /root/kept", check=False)
        return "kept" in said and before.strip() not in said

    until(rebooted, within_s=180, every_s=0.5, what="a new boot with the old disk")


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_a_disk_image_boots_by_itself(fleet: Fleet, form: str) -> None:
    path = fleet.files.disk_raw if form == "raw" else fleet.files.disk_qcow2
    fleet.s3.upload_file(str(path), BUCKET, f"disk.{form}")
    image_id = fleet.ec2.register_image(Name=f"disk {form}", ImageLocation=f"{BUCKET}/disk.{form}")["ImageId"]
    instance_id = run(fleet, image_id)
    wait_for_state(fleet.ec2, [instance_id], "running")
    address = describe(fleet.ec2, [instance_id])[0]["PublicIpAddress"]
    fleet.ssh.wait(address)
    fleet.ec2.terminate_instances(InstanceIds=[instance_id])
    wait_for_state(fleet.ec2, [instance_id], "terminated")


def test_an_image_cannot_read_a_file_of_the_host(fleet: Fleet, tmp_path: Path) -> None:
    hostile = {
        "backing": ["-b", "/etc/shadow", "-F", "raw", "hostile.qcow2", "1M"],
        "data-file": ["-o", "data_file=data,data_file_raw=on", "hostile.qcow2", "1M"],
    }
    for name, arguments in hostile.items():
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *arguments], cwd=tmp_path, check=True)
        fleet.s3.upload_file(str(tmp_path / "hostile.qcow2"), BUCKET, f"hostile-{name}")
        with pytest.raises(ClientError) as caught:
            fleet.ec2.register_image(Name=f"hostile {name}", ImageLocation=f"{BUCKET}/hostile-{name}")
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
        (tmp_path / "hostile.qcow2").unlink()


def test_a_raw_disk_that_pretends_to_be_qcow2_inside_stays_raw(fleet: Fleet, tmp_path: Path) -> None:
    """The guest writes a header that names a host's file to its own disk, and sees its own bytes after a reboot."""
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "/etc/shadow", "-F", "raw", "header.qcow2", "1M"],
        cwd=tmp_path, check=True,
    )  # fmt: skip
    # What ext4 leaves free before its superblock, so that the guest lives on.
    header = (tmp_path / "header.qcow2").read_bytes()[:1024]
    assert b"/etc/shadow" in header
    disk = tmp_path / "disk.img"
    disk.write_bytes(fleet.files.machine.read_bytes())
    key = "late-header"
    fleet.s3.upload_file(str(disk), BUCKET, key)
    image_id = fleet.ec2.register_image(
        Name="late header", ImageLocation=f"{BUCKET}/{key}", KernelId=fleet.kernel_id, RamdiskId=fleet.ramdisk_id
    )["ImageId"]
    instance_id = run(fleet, image_id)
    wait_for_state(fleet.ec2, [instance_id], "running")
    address = describe(fleet.ec2, [instance_id])[0]["PublicIpAddress"]
    fleet.ssh.wait(address)
    encoded = base64.b64encode(header).decode()
    write = f"echo {encoded} | base64 -d | dd of=/dev/vda bs=1024 count=1 conv=notrunc 2>/dev/null; sync"
    fleet.ssh.run(address, f"{write}; (sleep 1; reboot -f) >/dev/null 2>&1 &")
    until(lambda: not answers(address, 22), within_s=60, what="the reboot")
    fleet.ssh.wait(address)
    assert fleet.ssh.run(address, "head -c 1024 /dev/vda | base64 -w 0").strip() == encoded
    fleet.ec2.terminate_instances(InstanceIds=[instance_id])
    wait_for_state(fleet.ec2, [instance_id], "terminated")


def test_a_launch_that_fails_ends_terminated_with_a_reason_and_leaves_nothing(fleet: Fleet, tmp_path: Path) -> None:
    """The image's bytes are lost between registration and launch."""
    (tmp_path / "lost").write_bytes(os.urandom(1 << 20))
    fleet.s3.upload_file(str(tmp_path / "lost"), BUCKET, "lost")
    image_id = fleet.ec2.register_image(
        Name="lost", ImageLocation=f"{BUCKET}/lost", KernelId=fleet.kernel_id, RamdiskId=fleet.ramdisk_id
    )["ImageId"]
    content = hashlib.sha256((tmp_path / "lost").read_bytes()).hexdigest()
    (fleet.cloud.home / "walrus" / "pins" / content).unlink()
    instance_id = run(fleet, image_id)
    wait_for_state(fleet.ec2, [instance_id], "terminated")
    reason = describe(fleet.ec2, [instance_id])[0]["StateReason"]
    assert reason["Code"].startswith("Server.")
    assert "image" in reason["Message"]
    assert traces_of_instances(fleet.cloud.config.cloud_id, fleet.cloud.home, [instance_id], vpcs=False) == []


def test_an_unknown_type_is_refused_by_name(fleet: Fleet) -> None:
    with pytest.raises(ClientError, match=r"t9\.none") as caught:
        run(fleet, fleet.image_id, InstanceType="t9.none")
    assert caught.value.response["Error"]["Code"] == "InvalidParameterValue"


def test_when_the_cloud_is_full_the_call_says_so(fleet: Fleet) -> None:
    with pytest.raises(ClientError) as caught:
        run(fleet, fleet.image_id, InstanceType="m5.xlarge", MinCount=50, MaxCount=50)
    assert caught.value.response["Error"]["Code"] == "InsufficientInstanceCapacity"


def test_a_guest_that_powers_off_is_terminated_and_leaves_nothing(fleet: Fleet) -> None:
    """The last instance says good-bye by itself; it has an elastic address, which stays its owner's."""
    instance_id, address = fleet.ids[2], fleet.addresses()[2]
    fleet.ssh.run(address, "poweroff", check=False)
    wait_for_state(fleet.ec2, [instance_id], "terminated")
    (instance,) = describe(fleet.ec2, [instance_id])
    assert instance["StateReason"] == {
        "Code": "Client.InstanceInitiatedShutdown",
        "Message": "Client.InstanceInitiatedShutdown: Instance initiated shutdown",
    }
    assert traces_of_instances(fleet.cloud.config.cloud_id, fleet.cloud.home, [instance_id], vpcs=False) == []
    assert not any(held.get("InstanceId") for held in fleet.ec2.describe_addresses()["Addresses"])


def test_termination_leaves_nothing(fleet: Fleet, escapes: str) -> None:
    cloud_id, home = fleet.cloud.config.cloud_id, fleet.cloud.home
    fleet.ec2.terminate_instances(InstanceIds=fleet.ids)
    wait_for_state(fleet.ec2, fleet.ids, "terminated")
    fleet.ec2.delete_security_group(GroupId=fleet.group_id)
    for address in fleet.ec2.describe_addresses()["Addresses"]:
        fleet.ec2.release_address(AllocationId=address["AllocationId"])
    assert traces_of_instances(cloud_id, home, fleet.ids) == []
    assert escaped(escapes) == 0
