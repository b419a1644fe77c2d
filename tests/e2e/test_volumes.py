"""Volumes with real machines, by boto3: what is written outlives machine, node and volume.

The tests stand in the order in which a user would live through them, on a cloud of their own.
"""

from __future__ import annotations

import re
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.e2e.fleet import describe, wait_for_state
from tests.e2e.volume_lab import BUCKET, HERE, THERE, Lab
from tests.eventually import until

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(900)]

GIB = 1 << 30


def test_a_volume_outlives_the_machine_it_was_plugged_into(lab: Lab) -> None:
    first, second = lab.launch(lab.image_id, HERE, count=2)
    lab.volume_id = lab.create(HERE, Size=1)
    lab.attach(lab.volume_id, first)
    serial = lab.volume_id.replace("-", "")
    lab.run(first, f"cat /sys/block/$(basename $(readlink -f /dev/sdf))/serial | grep {serial}")
    lab.sums["kept"] = lab.run(
        first,
        "mke2fs -q /dev/sdf > /dev/null && mount /dev/sdf /mnt"
        " && dd if=/dev/urandom of=/mnt/kept bs=1M count=24 conv=fsync 2>/dev/null && sync && sha256sum < /mnt/kept",
    )
    # Pulled out of a machine that is simply no more.
    lab.end(first)
    lab.until_volume(lab.volume_id, "available")
    lab.attach(lab.volume_id, second, "/dev/sdg")
    assert lab.run(second, "mount /dev/sdg /mnt && sha256sum < /mnt/kept") == lab.sums["kept"]
    lab.booted_id = second


def test_a_snapshot_is_taken_while_the_guest_writes_and_used_in_the_other_zone(lab: Lab) -> None:
    writer = lab.booted_id
    lab.run(
        writer,
        "(while dd if=/dev/urandom of=/mnt/busy bs=64k count=64 conv=fsync 2>/dev/null; do :; done) </dev/null"
        " >/dev/null 2>&1 & echo $! > /tmp/writer",
    )
    lab.snapshot_id = lab.snapshot(lab.volume_id)
    lab.run(writer, "kill $(cat /tmp/writer); sync")
    (reader,) = lab.launch(lab.image_id, THERE)
    copy_id = lab.create(THERE, SnapshotId=lab.snapshot_id)
    lab.attach(copy_id, reader, "/dev/xvdba")
    assert lab.run(reader, "mount /dev/xvdba /mnt && sha256sum < /mnt/kept") == lab.sums["kept"]
    # Incremental: next to nothing has changed since.
    lab.run(writer, "dd if=/dev/urandom of=/mnt/more bs=1k count=100 conv=fsync 2>/dev/null; sync")
    second_id = lab.snapshot(lab.volume_id)
    lab.ec2.delete_snapshot(SnapshotId=lab.snapshot_id)
    other_id = lab.create(THERE, SnapshotId=second_id)
    lab.attach(other_id, reader, "/dev/sdh")
    said = lab.run(reader, "mkdir -p /mnt2 && mount /dev/sdh /mnt2 && sha256sum < /mnt2/kept && ls /mnt2/more")
    assert said.split("\n") == [lab.sums["kept"], "/mnt2/more"]
    lab.end(reader)
    lab.snapshot_id = second_id
    for volume_id in (copy_id, other_id):
        lab.until_volume(volume_id, "available")
        lab.ec2.delete_volume(VolumeId=volume_id)


def test_a_volume_grows_under_the_guest(lab: Lab) -> None:
    lab.ec2.modify_volume(VolumeId=lab.volume_id, Size=2)

    def seen() -> int:
        return int(lab.run(lab.booted_id, "cat /sys/block/$(basename $(readlink -f /dev/sdg))/size")) * 512

    until(lambda: seen() == 2 * GIB, what="the guest sees the new size")
    assert lab.run(lab.booted_id, "sha256sum < /mnt/kept") == lab.sums["kept"]
    lab.run(lab.booted_id, "dd if=/dev/urandom of=/dev/sdg bs=1M seek=2047 count=1 conv=fsync 2>/dev/null")


def test_what_a_guest_does_with_a_volume_is_told_as_libvirt_counts_it(lab: Lab) -> None:
    instance_id = lab.booted_id
    lab.run(instance_id, "dd if=/dev/zero of=/dev/sdg bs=64k count=48 seek=8000 conv=fsync 2>/dev/null")
    member = next(m for m in lab.cloud.json("status")["Members"] if m["Id"] == lab.node_of(instance_id))
    names = {"reqs": "operations", "bytes": "bytes", "times": "seconds"}

    def shown() -> dict[str, float]:
        page = urllib.request.urlopen(f"http://{member['Metrics']}/metrics").read().decode()
        told = {}
        for kind in ("read", "write"):
            for name in names.values():
                series = rf'^mallee_nc_volume_{name}_total{{kind="{kind}",volume="{lab.volume_id}"}} (\S+)$'
                found = re.search(series, page, re.MULTILINE)
                told[f"{kind} {name}"] = float(found[1]) if found else -1.0
        return told

    def counted() -> dict[str, float]:
        socket = lab.cloud.home / "nodes" / member["Id"] / "run" / "libvirt" / "libvirt-sock"
        virsh = ["virsh", "-c", f"qemu+unix:///system?socket={socket}", "domstats", "--block", "--raw"]
        domain = f"m{lab.cloud.config.cloud_id}-{instance_id}"
        said = subprocess.run([*virsh, domain], capture_output=True, text=True, check=True).stdout
        stats = dict(line.strip().split("=", 1) for line in said.splitlines() if "=" in line)
        (disk,) = (key.removesuffix(".name") for key, value in stats.items() if value == "vdg")
        return {
            f"{kind} {names[what]}": float(stats[f"{disk}.{short}.{what}"]) / (1e9 if what == "times" else 1)
            for kind, short in (("read", "rd"), ("write", "wr"))
            for what in names
        }

    assert counted()["write bytes"] >= 48 << 16
    until(lambda: shown() == pytest.approx(counted()), what=f"{shown()} is {counted()}")


def test_what_makes_no_sense_is_said_as_aws_says_it(lab: Lab) -> None:
    def refused(code: str, action: str, **more: Any) -> None:
        with pytest.raises(ClientError) as caught:
            getattr(lab.ec2, action)(**more)
        assert caught.value.response["Error"]["Code"] == code

    lab_id, volume_id = lab.booted_id, lab.volume_id
    spare, elsewhere = lab.create(HERE, Size=1), lab.create(THERE, Size=1)
    refused("VolumeInUse", "delete_volume", VolumeId=volume_id)
    refused("VolumeInUse", "attach_volume", VolumeId=volume_id, InstanceId=lab_id, Device="/dev/sdk")
    refused("InvalidParameterValue", "attach_volume", VolumeId=spare, InstanceId=lab_id, Device="/dev/sdg")
    refused("InvalidVolume.ZoneMismatch", "attach_volume", VolumeId=elsewhere, InstanceId=lab_id, Device="/dev/sdk")
    refused("IncorrectState", "detach_volume", VolumeId=spare)
    refused("InvalidVolume.NotFound", "delete_volume", VolumeId="vol-00000000000000000")
    refused("InvalidParameterValue", "modify_volume", VolumeId=volume_id, Size=1)
    for unused in (spare, elsewhere):
        lab.ec2.delete_volume(VolumeId=unused)


def test_a_deleted_volumes_blocks_are_zeros_to_the_next(lab: Lab) -> None:
    machine = lab.booted_id
    lab.run(machine, "umount /mnt")
    lab.detach(lab.volume_id)
    lab.ec2.delete_volume(VolumeId=lab.volume_id)
    fresh = lab.create(HERE, Size=1)
    lab.attach(fresh, machine)
    assert lab.run(machine, "dd if=/dev/sdf bs=1M count=64 2>/dev/null | tr -d '\\0' | wc -c") == "0"
    lab.detach(fresh)
    lab.ec2.delete_volume(VolumeId=fresh)
    lab.end(machine)


def test_a_disk_image_becomes_a_snapshot_and_boots(lab: Lab) -> None:
    task = lab.ec2.import_snapshot(DiskContainer={"Format": "RAW", "UserBucket": {"S3Bucket": BUCKET, "S3Key": "root"}})

    def imported() -> str:
        (shown,) = lab.ec2.describe_import_snapshot_tasks(ImportTaskIds=[task["ImportTaskId"]])["ImportSnapshotTasks"]
        detail = shown["SnapshotTaskDetail"]
        assert detail["Status"] in ("active", "completed"), detail
        return str(detail["SnapshotId"]) if detail["Status"] == "completed" else ""

    snapshot_id = until(imported, within_s=120, what="the import")
    lab.ebs_image_id = lab.ec2.register_image(
        Name="on a volume",
        KernelId=lab.kernel_id,
        RamdiskId=lab.ramdisk_id,
        RootDeviceName="/dev/sda1",
        BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": snapshot_id, "VolumeSize": 1}}],
    )["ImageId"]
    extra = {"DeviceName": "/dev/sdf", "Ebs": {"SnapshotId": lab.snapshot_id, "DeleteOnTermination": False}}
    space = {"DeviceName": "/dev/sdb", "VirtualName": "ephemeral0"}
    (lab.booted_id,) = lab.launch(lab.ebs_image_id, HERE, BlockDeviceMappings=[extra, space])
    said = lab.run(
        lab.booted_id,
        "mount /dev/sdf /mnt && sha256sum < /mnt/kept; echo on the root > /root/mine; sync",
    )
    assert said == lab.sums["kept"]
    # Space of the node, of its type's size.
    kind = next(kind for kind in lab.cloud.config.instance_types if kind.name == "t2.nano")
    said = lab.run(
        lab.booted_id, "mke2fs -q /dev/sdb >/dev/null && cat /sys/block/$(basename $(readlink /dev/sdb))/size"
    )
    assert int(said) * 512 == kind.disk_gib << 30


def test_a_stopped_machine_starts_on_another_node_with_its_address_and_all_it_has(lab: Lab) -> None:
    instance_id = lab.booted_id
    before = describe(lab.ec2, [instance_id])[0]
    first = lab.node_of(instance_id)
    for _ in range(4):
        lab.ec2.stop_instances(InstanceIds=[instance_id])
        wait_for_state(lab.ec2, [instance_id], "stopped")
        stopped = describe(lab.ec2, [instance_id])[0]
        assert "PublicIpAddress" not in stopped
        assert {d["Ebs"]["Status"] for d in stopped["BlockDeviceMappings"]} == {"attached"}
        lab.ec2.start_instances(InstanceIds=[instance_id])
        wait_for_state(lab.ec2, [instance_id], "running")
        lab.ssh.wait(lab.address(instance_id))
        if lab.node_of(instance_id) != first:
            break
    else:
        pytest.fail("it never came to another node")
    after = describe(lab.ec2, [instance_id])[0]
    assert after["PrivateIpAddress"] == before["PrivateIpAddress"]
    assert after["BlockDeviceMappings"] == before["BlockDeviceMappings"]
    said = lab.run(instance_id, "cat /root/mine; mkdir -p /mnt; mount /dev/sdf /mnt; sha256sum < /mnt/kept")
    assert said.split("\n") == ["on the root", lab.sums["kept"]]


def test_a_root_is_replaced(lab: Lab) -> None:
    instance_id = lab.booted_id
    root_id = lab.root_of(instance_id)
    snapshot_id = lab.snapshot(root_id)
    lab.ec2.stop_instances(InstanceIds=[instance_id])
    wait_for_state(lab.ec2, [instance_id], "stopped")
    lab.detach(root_id)
    lab.ec2.delete_volume(VolumeId=root_id)
    other_id = lab.create(HERE, SnapshotId=snapshot_id)
    lab.ec2.attach_volume(VolumeId=other_id, InstanceId=instance_id, Device="/dev/sda1")
    lab.ec2.start_instances(InstanceIds=[instance_id])
    wait_for_state(lab.ec2, [instance_id], "running")
    lab.ssh.wait(lab.address(instance_id))
    assert lab.run(instance_id, "cat /root/mine") == "on the root"
    assert lab.root_of(instance_id) == other_id
    # One that was attached by hand is kept, unless its owner says otherwise; so are those of images made of it.
    goes_with_it = {"DeviceName": "/dev/sda1", "Ebs": {"DeleteOnTermination": True}}
    lab.ec2.modify_instance_attribute(InstanceId=instance_id, BlockDeviceMappings=[goes_with_it])


def test_an_image_of_a_running_machine_has_what_the_guest_had_yet_to_write(lab: Lab) -> None:
    instance_id = lab.booted_id
    boot = "cat /proc/sys/kernel/random/boot_id"
    before = lab.run(instance_id, f"echo in memory > /root/unsynced; {boot}")
    image_id = lab.ec2.create_image(InstanceId=instance_id, Name="at rest")["ImageId"]

    def made() -> bool:
        (shown,) = lab.ec2.describe_images(ImageIds=[image_id])["Images"]
        assert shown["State"] in ("pending", "available"), shown
        assert describe(lab.ec2, [instance_id])[0]["State"]["Name"] == "running"
        return bool(shown["State"] == "available")

    until(made, within_s=180, what="the image")
    lab.ssh.wait(lab.address(instance_id))
    assert lab.run(instance_id, boot) != before
    (shown,) = lab.ec2.describe_images(ImageIds=[image_id])["Images"]
    (root,) = (d["Ebs"]["SnapshotId"] for d in shown["BlockDeviceMappings"] if d["DeviceName"] == "/dev/sda1")
    copy_id = lab.create(HERE, SnapshotId=root)
    lab.attach(copy_id, instance_id, "/dev/sdh")
    assert lab.run(instance_id, "mkdir -p /mnt2; mount -o ro /dev/sdh /mnt2; cat /mnt2/root/unsynced") == "in memory"
    lab.run(instance_id, "umount /mnt2")
    lab.detach(copy_id)
    lab.ec2.delete_volume(VolumeId=copy_id)
    lab.ec2.deregister_image(ImageId=image_id, DeleteAssociatedSnapshots=True)


def test_a_guest_that_shuts_itself_down_is_stopped(lab: Lab) -> None:
    lab.ssh.run(lab.address(lab.booted_id), "poweroff", check=False)
    wait_for_state(lab.ec2, [lab.booted_id], "stopped")
    shown = describe(lab.ec2, [lab.booted_id])[0]
    assert shown["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"


def test_ten_machines_come_of_an_image_of_one(lab: Lab) -> None:
    spaceless = [{"DeviceName": "/dev/sdb", "NoDevice": ""}]
    image_id = lab.ec2.create_image(InstanceId=lab.booted_id, Name="ten of it", BlockDeviceMappings=spaceless)[
        "ImageId"
    ]

    def made() -> bool:
        (shown,) = lab.ec2.describe_images(ImageIds=[image_id])["Images"]
        assert shown["State"] in ("pending", "available"), shown
        return bool(shown["State"] == "available")

    until(made, within_s=120, what="the image")
    ids = lab.launch(image_id, HERE, count=10)
    for instance_id in ids:
        said = lab.run(instance_id, "cat /root/mine; mkdir -p /mnt; mount /dev/sdf /mnt; sha256sum < /mnt/kept")
        assert said.split("\n") == ["on the root", lab.sums["kept"]]
    roots = {lab.root_of(instance_id) for instance_id in ids}
    assert len(roots) == 10
    lab.end(*ids, lab.booted_id)
    until(
        lambda: not roots & {volume["VolumeId"] for volume in lab.ec2.describe_volumes()["Volumes"]},
        what="their roots went with them",
    )
    for volume in lab.ec2.describe_volumes()["Volumes"]:
        lab.ec2.delete_volume(VolumeId=volume["VolumeId"])


def test_a_bundle_is_made_and_run(lab: Lab, tmp_path: Path) -> None:
    made = lab.cloud.json(
        "images", "bundle", str(lab.files.machine), "--destination", str(tmp_path), "--prefix", "root"
    )
    for file in (made["Manifest"], *made["Parts"]):
        lab.s3.upload_file(file, BUCKET, f"bundle/{Path(file).name}")
    image_id = lab.ec2.register_image(
        Name="bundled", ImageLocation=f"{BUCKET}/bundle/root.manifest.xml",
        KernelId=lab.kernel_id, RamdiskId=lab.ramdisk_id,
    )["ImageId"]  # fmt: skip
    lab.end(*lab.launch(image_id, HERE))


def test_nothing_is_left_of_what_was_deleted(lab: Lab) -> None:
    for snapshot in lab.ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]:
        for image in lab.ec2.describe_images(Owners=["self"])["Images"]:
            used = {d["Ebs"]["SnapshotId"] for d in image["BlockDeviceMappings"] if "Ebs" in d}
            if snapshot["SnapshotId"] in used:
                lab.ec2.deregister_image(ImageId=image["ImageId"])
        lab.ec2.delete_snapshot(SnapshotId=snapshot["SnapshotId"])
    until(lambda: not lab.ec2.describe_volumes()["Volumes"], what="every volume is gone")
    folders = [folder for folder in (lab.cloud.home / "volumes").iterdir() if folder.is_dir()]

    def traces() -> list[str]:
        return [path.name for folder in folders for path in folder.rglob("*vol-*")]

    until(lambda: not traces(), what=f"no file is left: {traces()}")
