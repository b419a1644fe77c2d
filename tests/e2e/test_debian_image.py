"""The image debian-12, really booted: cloud-init takes the cloud for AWS, warns of nothing, and finds all it was given.

One boot for all tests: under emulation it takes longer than all the rest.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from pathlib import Path
from typing import Any

import pytest

from images.debian import build
from tests.cloud_fixture import RunningCloud
from tests.e2e.fleet import decoded_console, describe, wait_for_state
from tests.e2e.guest_ssh import Ssh
from tests.eventually import until

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(900)]

NAME, DATASOURCE = "debian-12", "DataSourceEc2Local"
IMAGES = Path("/var/cache/mallee/images")
# Python start by start, under emulation and beside other tests.
BOOT_S = 420.0
SCRIPT = "#!/bin/sh\nid -un > /var/lib/told-by-script\n"
CLOUD_CONFIG = """\
#cloud-config
write_files:
  - path: /etc/told-by-cloud-config
    content: written
runcmd:
  - "echo ran >> /etc/told-by-cloud-config"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    ssh: Ssh
    instance: Any

    def run(self, command: str) -> str:
        return self.ssh.run(self.instance["PublicIpAddress"], command)

    def metadata(self, path: str) -> str:
        """By IMDSv2, from inside."""
        service = "http://169.254.169.254/latest"
        token = f"$(curl -sf -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' {service}/api/token)"
        return self.run(f'curl -sf -H "X-aws-ec2-metadata-token: {token}" {service}/meta-data/{path}')


@pytest.fixture(scope="module")
def image_id(real_cloud: RunningCloud) -> str:
    # What the command would build itself, in the time that the command is given here.
    build(IMAGES / NAME)
    installed: str = real_cloud.json("images", "install", NAME)["ImageId"]
    return installed


@pytest.fixture(scope="module")
def guest(real_cloud: RunningCloud, image_id: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    ec2 = real_cloud.client("ec2")
    ssh = Ssh(key=tmp_path_factory.mktemp("debian") / "key.pem", user="admin")
    ssh.key.touch(mode=0o600)
    ssh.key.write_text(ec2.create_key_pair(KeyName=NAME, KeyType="ed25519")["KeyMaterial"])
    group_id = ec2.create_security_group(GroupName=NAME, Description="ssh alone")["GroupId"]
    ec2.authorize_security_group_ingress(GroupId=group_id, IpProtocol="tcp", FromPort=22, ToPort=22, CidrIp="0.0.0.0/0")
    instance_id = ec2.run_instances(
        ImageId=image_id,
        InstanceType="t3.micro",
        MinCount=1,
        MaxCount=1,
        KeyName=NAME,
        SecurityGroupIds=[group_id],
        UserData=user_data(),
        MetadataOptions={"HttpTokens": "required", "InstanceMetadataTags": "enabled"},
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "a Debian"}]}],
    )["Instances"][0]["InstanceId"]
    wait_for_state(ec2, [instance_id], "running")
    # Asked from outside: whoever asks inside slows down what he waits for.
    finished = f"Datasource {DATASOURCE}.  Up "
    until(lambda: finished in decoded_console(ec2, instance_id), within_s=BOOT_S, every_s=1, what="cloud-init's end")
    guest = Guest(ssh=ssh, instance=describe(ec2, [instance_id])[0])
    ssh.wait(guest.instance["PublicIpAddress"])
    guest.run("until [ -e /run/cloud-init/result.json ]; do sleep 1; done")
    yield guest
    ec2.terminate_instances(InstanceIds=[instance_id])
    wait_for_state(ec2, [instance_id], "terminated")
    ec2.delete_security_group(GroupId=group_id)
    ec2.delete_key_pair(KeyName=NAME)


@pytest.fixture(scope="module")
def instance_data(guest: Guest) -> Any:
    """What cloud-init found, as it shows it to every user of the guest."""
    return json.loads(guest.run("cat /run/cloud-init/instance-data.json"))


def user_data() -> str:
    parts = MIMEMultipart()
    parts.attach(MIMEText(SCRIPT, "x-shellscript"))
    parts.attach(MIMEText(CLOUD_CONFIG, "cloud-config"))
    return parts.as_string()


def test_cloud_init_takes_the_cloud_for_aws_and_warns_of_nothing(guest: Guest, instance_data: Any) -> None:
    assert json.loads(guest.run("cat /run/cloud-init/result.json"))["v1"] == {"datasource": DATASOURCE, "errors": []}
    assert instance_data["v1"]["cloud_name"] == "aws"
    logs = "/var/log/cloud-init.log /var/log/cloud-init-output.log"
    assert guest.run(f"sudo grep -hE 'WARN|ERROR|CRITICAL|Traceback' {logs} || true") == ""


def test_everything_that_debian_starts_runs(guest: Guest) -> None:
    assert guest.run("systemctl is-system-running --wait; systemctl --failed --plain --no-legend") == "running\n"


def test_user_data_is_a_script_and_cloud_config_at_once(guest: Guest) -> None:
    assert guest.run("cat /var/lib/told-by-script /etc/told-by-cloud-config") == "root\nwrittenran\n"


def test_it_has_its_name_and_asks_the_vpcs_resolver(guest: Guest) -> None:
    name = guest.instance["PrivateDnsName"]
    short, full, *resolved = guest.run(f"hostname; hostname --fqdn; resolvectl query --synthesize=no {name}").split()
    assert (short, full) == (name.split(".")[0], name)
    assert guest.instance["PrivateIpAddress"] in resolved


def test_the_user_is_admin_by_the_key_alone_and_may_become_root(guest: Guest) -> None:
    user, root, _, password, *_ = guest.run("id -un; sudo id -un; sudo passwd --status admin").split()
    assert (user, root, password) == ("admin", "root", "L")
    # Read and not tried: that answer takes ssh ten seconds.
    assert 'login as the user \\"admin\\"' in guest.run("sudo cat /root/.ssh/authorized_keys")


def test_the_console_shows_the_host_key(real_cloud: RunningCloud, guest: Guest) -> None:
    _, key, *_ = guest.run("cat /etc/ssh/ssh_host_ed25519_key.pub").split()
    assert key in decoded_console(real_cloud.client("ec2"), guest.instance["InstanceId"])


def test_tags_are_read_by_imdsv2_inside_and_found_by_cloud_init(guest: Guest, instance_data: Any) -> None:
    assert guest.metadata("tags/instance/Name") == "a Debian"
    assert instance_data["ds"]["meta-data"]["tags"] == {"instance": {"Name": "a Debian"}}


def test_the_root_is_as_large_as_the_types_disk(real_cloud: RunningCloud, guest: Guest) -> None:
    kind = next(kind for kind in real_cloud.config.instance_types if kind.name == guest.instance["InstanceType"])
    root_bytes = int(guest.run("lsblk --bytes --noheadings --output FSSIZE /dev/vda"))
    assert root_bytes > 0.9 * (kind.disk_gib << 30)


def test_disks_have_the_names_that_they_were_given(real_cloud: RunningCloud, guest: Guest) -> None:
    ec2, instance_id = real_cloud.client("ec2"), guest.instance["InstanceId"]
    zone = guest.instance["Placement"]["AvailabilityZone"]
    volume_id = ec2.create_volume(AvailabilityZone=zone, Size=1)["VolumeId"]
    ec2.get_waiter("volume_available").wait(VolumeIds=[volume_id], WaiterConfig={"Delay": 1})
    ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device="/dev/sdf")
    guest.run("until [ -b /dev/sdf ] && [ -b /dev/xvdf ]; do sleep 1; done")
    # So does the link that udev makes of the serial.
    by_id = f"/dev/disk/by-id/virtio-{volume_id.replace('-', '')}"
    assert guest.run(f"readlink -f {by_id} /dev/sdf /dev/xvdf").split() == ["/dev/vdb"] * 3
    ec2.detach_volume(VolumeId=volume_id)
    ec2.get_waiter("volume_available").wait(VolumeIds=[volume_id], WaiterConfig={"Delay": 1})
    assert guest.run("ls /dev/sdf /dev/xvdf 2>/dev/null | wc -l").strip() == "0"
    ec2.delete_volume(VolumeId=volume_id)


def test_a_module_of_the_kernel_loads(guest: Guest) -> None:
    assert "wireguard" in guest.run("sudo modprobe wireguard && lsmod")


def test_installing_again_finds_what_is_there(real_cloud: RunningCloud, image_id: str) -> None:
    assert real_cloud.json("images", "install", NAME)["ImageId"] == image_id


def test_it_shuts_down_at_the_power_button(real_cloud: RunningCloud, guest: Guest) -> None:
    """Pressed from outside, as a stop does; to the cloud that is a guest that shut itself down."""
    ec2, instance_id = real_cloud.client("ec2"), guest.instance["InstanceId"]
    (node,) = (path.parents[1] for path in (real_cloud.home / "nodes").glob(f"*/instances/{instance_id}"))
    virsh = ["virsh", "-c", f"qemu+unix:///system?socket={node}/run/libvirt/libvirt-sock", "shutdown", "--mode", "acpi"]
    subprocess.run([*virsh, f"m{real_cloud.config.cloud_id}-{instance_id}"], check=True, capture_output=True)
    ec2.get_waiter("instance_terminated").wait(InstanceIds=[instance_id], WaiterConfig={"Delay": 1, "MaxAttempts": 240})
    (shown,) = describe(ec2, [instance_id])
    assert shown["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
