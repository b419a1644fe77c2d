"""Volumes of a cloud with real machines: I/O inside a guest, attaching, creating, snapshots.

Goals: random and sequential I/O past the guest's cache on an attached volume at least 80 % of a disk of the same guest
that QEMU opens directly from a file (medians of alternating rounds), 99th percentile of writes under twice; attach and
detach 0.5 s, CreateVolume to available 0.3 s, of a snapshot of 10 GiB 2 s (medians); a snapshot of 1 GiB of changes at
half the rate of PutObject, and the next one after 1 MiB of changes sends under 2 MiB.

python -m bench.volumes     (as root; needs gcc)
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

from bench.figures import report
from tests.cloud_fixture import RunningCloud, free_ranges, new_home
from tests.e2e.guest_ssh import Ssh
from tests.eventually import until
from tests.ports import free_port_base

MIB: Final = 1 << 20
GIB: Final = 1 << 30
RATIO_GOAL: Final = 80.0
P99_GOAL: Final = 2.0
ATTACH_GOAL_S: Final = 0.5
CREATE_GOAL_S: Final = 0.3
RESTORE_GOAL_S: Final = 2.0
SENT_GOAL_MIB: Final = 2.0
ROUNDS: Final = 5
IO_ROUNDS: Final = 3
IO_S: Final = 1
SPAN_MIB: Final = 1024
DEVICE: Final = "/dev/sdf"
# Pattern, kind, requests at a time, bytes of each.
LOADS: Final = [
    (pattern, what, depth, block)
    for pattern, depth, block in (("random", 1, 4096), ("random", 32, 4096), ("sequential", 4, 512 << 10))
    for what in ("read", "write")
]
GIVEN_UP_S: Final = 120.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("io", "times", "snapshots"), help="one part alone")
    only = parser.parse_args().only
    if os.geteuid() != 0:
        print("needs root", file=sys.stderr)
        return 2
    print(f"load of this machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    options = ["--zones", "1", "--nodes", "1", "--no-image", "--port-base", str(free_port_base()), *free_ranges()]
    cloud = RunningCloud(home=new_home(Path("/var/lib/mallee-bench-volumes")), options=options)
    met = True
    try:
        cloud.up()
        user = User(cloud)
        for name, part in (("times", times), ("io", io), ("snapshots", snapshots)):
            if only in (None, name):
                met = part(user) and met
    finally:
        cloud.destroy()
    print(f"load of this machine after: {os.getloadavg()[0]:.1f}")
    return 0 if met else 1


class User:
    """Who has one instance, and volumes in its zone."""

    def __init__(self, cloud: RunningCloud) -> None:
        self.cloud = cloud
        self.ec2: Any = cloud.client("ec2")
        key = cloud.home / "bench-key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        self.ssh = Ssh(key=key)
        self.ec2.import_key_pair(KeyName="bench", PublicKeyMaterial=key.with_suffix(".pub").read_bytes())
        self.ec2.authorize_security_group_ingress(
            GroupName="default", IpProtocol="tcp", FromPort=22, ToPort=22, CidrIp="0.0.0.0/0"
        )
        made = self.ec2.run_instances(
            ImageId=cloud.image_id, InstanceType="t2.micro", MinCount=1, MaxCount=1, KeyName="bench"
        )
        self.instance_id: str = made["Instances"][0]["InstanceId"]
        wait(lambda: self.instance()["State"]["Name"] == "running")
        self.address: str = self.instance()["PublicIpAddress"]
        self.zone: str = self.instance()["Placement"]["AvailabilityZone"]
        self.ssh.wait(self.address)

    def instance(self) -> Any:
        return self.ec2.describe_instances(InstanceIds=[self.instance_id])["Reservations"][0]["Instances"][0]

    def run(self, command: str) -> str:
        return self.ssh.run(self.address, command, timeout_s=GIVEN_UP_S)

    def volume(self, **arguments: Any) -> str:
        """Available when it returns."""
        made: str = self.ec2.create_volume(AvailabilityZone=self.zone, **arguments)["VolumeId"]
        wait(lambda: self.shown(made)["State"] == "available")
        return made

    def shown(self, volume_id: str) -> Any:
        return self.ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"][0]

    def attach(self, volume_id: str) -> None:
        self.ec2.attach_volume(VolumeId=volume_id, InstanceId=self.instance_id, Device=DEVICE)
        wait(lambda: [a["State"] for a in self.shown(volume_id)["Attachments"]] == ["attached"])

    def detach(self, volume_id: str) -> None:
        self.ec2.detach_volume(VolumeId=volume_id)
        wait(lambda: self.shown(volume_id)["State"] == "available")

    def device(self, volume_id: str) -> str:
        """By its serial, in the guest."""
        look = f"grep -l {volume_id.replace('-', '')} /sys/block/*/serial"
        found = until(lambda: self.ssh.run(self.address, look, check=False), what="the device in the guest")
        return f"/dev/{found.split('/')[3]}"

    def snapshot(self, volume_id: str) -> str:
        """Completed when it returns."""
        made: str = self.ec2.create_snapshot(VolumeId=volume_id)["SnapshotId"]
        wait(lambda: self.ec2.describe_snapshots(SnapshotIds=[made])["Snapshots"][0]["State"] == "completed")
        return made


# How long it takes.


def times(user: User) -> bool:
    created, attached, detached = [], [], []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        volume_id = user.volume(Size=1)
        created.append(time.perf_counter() - begun)
        attached.append(took_s(partial(user.attach, volume_id)))
        # A guest that is still taking a disk in lets go of it only then.
        user.device(volume_id)
        detached.append(took_s(partial(user.detach, volume_id)))
        user.ec2.delete_volume(VolumeId=volume_id)
    big = user.volume(Size=10)
    user.attach(big)
    user.run(f"dd if=/dev/urandom of={user.device(big)} bs=1M count=64 oflag=direct 2>/dev/null")
    snapshot_id = user.snapshot(big)
    user.detach(big)
    restored = [took_s(lambda: user.volume(SnapshotId=snapshot_id)) for _ in range(3)]
    met = [
        report("CreateVolume to available, median", statistics.median(created), "s", most=CREATE_GOAL_S),
        report("attach, median", statistics.median(attached), "s", most=ATTACH_GOAL_S),
        report("detach, median", statistics.median(detached), "s", most=ATTACH_GOAL_S),
        report("a volume of a 10 GiB snapshot, median", statistics.median(restored), "s", most=RESTORE_GOAL_S),
    ]
    return all(met)


# I/O in the guest.


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    per_s: float
    bytes_per_s: float
    p50_us: float
    p99_us: float


def io(user: User) -> bool:
    tool = user.cloud.home / "guest_io"
    source = Path(__file__).with_name("guest_io.c")
    subprocess.run(["gcc", "-O2", "-static", "-o", str(tool), str(source)], check=True)
    user.ssh.send(user.address, tool, "/tmp/guest_io")
    volume_id = user.volume(Size=40, VolumeType="io2", Iops=40000)
    user.attach(volume_id)
    ours, direct = user.device(volume_id), direct_disk(user)
    for device in (ours, direct):
        user.run(f"dd if=/dev/zero of={device} bs=1M count={SPAN_MIB} oflag=direct 2>/dev/null")
    met = True
    for pattern, what, depth, block in LOADS:
        found: dict[str, list[Rate]] = {ours: [], direct: []}
        for _ in range(IO_ROUNDS):
            for device, rates in found.items():
                told = user.run(f"/tmp/guest_io {device} {pattern} {what} {depth} {block} {SPAN_MIB} {IO_S}")
                rates.append(Rate(**dict(zip(Rate.__slots__, map(float, told.split()), strict=True))))
        met = (
            compare(f"{pattern} {what}s of {block >> 10} KiB, depth {depth}", found[ours], found[direct], what) and met
        )
    return met


def compare(name: str, ours: list[Rate], direct: list[Rate], what: str) -> bool:
    mine, theirs = (statistics.median(rate.per_s for rate in rates) for rates in (ours, direct))
    print(f"{name}: {mine:.0f}/s on a volume, {theirs:.0f}/s on a file")
    met = report(f"{name}, of the file's", 100 * mine / theirs, "%", least=RATIO_GOAL)
    if what == "write":
        late, their_late = (statistics.median(rate.p99_us for rate in rates) for rates in (ours, direct))
        met = report(f"{name}, p99 over the file's", late / their_late, "x", most=P99_GOAL) and met
    return met


def direct_disk(user: User) -> str:
    """A disk that QEMU opens from a file of its host, in the user's guest; its device there."""
    before = set(user.run("ls /sys/block").split())
    node = user.cloud.config.zones[0].nodes[0]
    folder = user.cloud.home / "nodes" / node.name
    file = folder / "direct.img"
    with file.open("wb") as made:
        made.truncate(SPAN_MIB * MIB)
    owner = next(path.stat() for path in folder.rglob("*.qcow2") if user.instance_id in str(path))
    os.chown(file, owner.st_uid, owner.st_gid)
    xml = user.cloud.home / "direct.xml"
    xml.write_text(
        "<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none' io='native'/>"
        f"<source file='{file}'/><target dev='vdz' bus='virtio'/></disk>"
    )
    uri = f"qemu+unix:///system?socket={folder}/run/libvirt/libvirt-sock"
    domain = f"m{user.cloud.config.cloud_id}-{user.instance_id}"
    subprocess.run(["virsh", "-q", "-c", uri, "attach-device", domain, str(xml)], check=True, stdout=subprocess.DEVNULL)
    found = until(lambda: set(user.run("ls /sys/block").split()) - before, what="the direct disk")
    return f"/dev/{found.pop()}"


# Snapshots.


def snapshots(user: User) -> bool:
    volume_id = user.volume(Size=2)
    user.attach(volume_id)
    device = user.device(volume_id)
    user.run(f"dd if=/dev/urandom of={device} bs=1M count=1024 oflag=direct 2>/dev/null; sync")
    rate = GIB / took_s(lambda: user.snapshot(volume_id))
    put = put_rate(user)
    print(f"a snapshot travels at {rate / MIB:.0f} MiB/s, PutObject takes {put / MIB:.0f} MiB/s")
    met = report("a snapshot of 1 GiB, of PutObject's rate", 100 * rate / put, "%", least=50)
    user.run(f"dd if=/dev/urandom of={device} bs=1M count=1 seek=700 oflag=direct 2>/dev/null; sync")
    before = sent_bytes(user)
    user.snapshot(volume_id)
    sent = (sent_bytes(user) - before) / MIB
    return report("the next one after 1 MiB sends", sent, "MiB", most=SENT_GOAL_MIB) and met


def put_rate(user: User) -> float:
    s3: Any = user.cloud.client("s3")
    s3.create_bucket(Bucket="bench")
    body = os.urandom(64 * MIB)
    took = [took_s(partial(s3.put_object, Bucket="bench", Key=f"{n}", Body=body)) for n in range(4)]
    return len(body) / statistics.median(took)


def sent_bytes(user: User) -> float:
    """Of all snapshots so far, by the storage controller's own count."""
    config = user.cloud.config
    with urlopen(f"http://{config.management_address}:{config.zones[0].sc_metrics_port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("mallee_sc_snapshot_sent_bytes_total"))


def took_s(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def wait(condition: Callable[[], bool]) -> None:
    until(condition, within_s=GIVEN_UP_S, every_s=0.01)


if __name__ == "__main__":
    sys.exit(main())
