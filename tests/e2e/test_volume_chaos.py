"""A guest writes a checked pattern to its volume, with fsync, while whatever serves it is killed.

Nothing acknowledged is lost, nothing else is read, and who was fenced writes no more.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.netns import UNDERLAY
from tests import processes
from tests.e2e.volume_lab import HERE, Lab
from tests.eventually import until

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(900)]

# What may not write has so long to do it all the same: that nothing comes is no condition to wait for.
HARM_S = 3.0
# Records of 16 bytes: a mark of six, a number, the line's end. How many were acknowledged stands in the guest's memory.
WRITER = r"""
cat > /tmp/write <<'END'
i=0
while [ ! -e /tmp/stop ]; do
    printf '%s-%08d\n' $1 $i | dd of=$2 bs=16 seek=$i conv=notrunc,fsync 2>/dev/null || break
    i=$((i + 1))
    echo $i > /tmp/acked.new && mv /tmp/acked.new /tmp/acked
done
touch /tmp/stopped
END
rm -f /tmp/stop /tmp/stopped /tmp/acked
sh /tmp/write MARK DEVICE </dev/null >/dev/null 2>&1 &
"""


@dataclass(kw_only=True)
class Writing:
    lab: Lab
    address: str

    def acked(self) -> int:
        return int(self.lab.ssh.run(self.address, "cat /tmp/acked 2>/dev/null || echo 0"))

    def goes_on(self) -> None:
        """From now on something more is acknowledged."""
        before = self.acked()
        until(lambda: self.acked() > before, within_s=90, every_s=0.5, what="the guest writes on")


@contextmanager
def writing(lab: Lab, instance_id: str, *, device: str = "/dev/sdf", mark: str = "mark00") -> Iterator[Writing]:
    """At the end all that was acknowledged stands on the device."""
    lab.run(instance_id, WRITER.replace("MARK", mark).replace("DEVICE", device))
    it = Writing(lab=lab, address=lab.address(instance_id))
    it.goes_on()
    yield it
    lab.run(instance_id, "touch /tmp/stop; until [ -e /tmp/stopped ]; do sleep 0.1; done; sync")
    assert wrong_records(lab, instance_id, device, mark, it.acked()) == ""


def wrong_records(lab: Lab, instance_id: str, device: str, mark: str, count: int) -> str:
    """The first of the records that is not what was written there, by its number."""
    wanted = f'sprintf("{mark}-%08d", NR - 1)'
    check = f"awk '$0 != {wanted} {{ print NR - 1, $0; exit }} END {{ if (NR < {count}) print NR, \"missing\" }}'"
    read = f"dd if={device} bs=16 count={count} 2>/dev/null"
    return lab.run(instance_id, f"echo 3 > /proc/sys/vm/drop_caches; {read} | {check}")


@pytest.fixture(scope="module")
def machine(lab: Lab) -> Iterator[str]:
    (made,) = lab.launch(lab.image_id, HERE)
    yield made
    lab.end(made)


@pytest.fixture(scope="module")
def volume_id(lab: Lab, machine: str) -> Iterator[str]:
    made = lab.create(HERE, Size=1)
    lab.attach(made, machine)
    yield made
    lab.detach(made)
    lab.ec2.delete_volume(VolumeId=made)


def daemons_of(lab: Lab, volume_id: str) -> list[int]:
    """Storage daemons that serve it."""
    sockets, digits = f"/run/mallee-{lab.cloud.config.cloud_id}/", volume_id.removeprefix("vol-")
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if command.startswith("qemu-storage-daemon") and digits in command and sockets in command:
                found.append(int(folder.name))
    return found


def test_whatever_is_killed_a_guest_loses_no_acknowledged_write(lab: Lab, machine: str, volume_id: str) -> None:
    node = lab.node_of(machine)
    with writing(lab, machine) as it:
        for victim in (f"sc-{HERE}", node, f"libvirtd-{node}", "walrus-1", f"cc-{HERE}", "clc-1"):
            before = lab.cloud.pid(victim)
            processes.kill(before)
            it.goes_on()
            until(lambda: lab.cloud.pid(victim) not in (0, before), what=f"another {victim}")  # noqa: B023
        for _ in range(3):
            (daemon,) = daemons_of(lab, volume_id)
            processes.kill(daemon)
            it.goes_on()
            until(lambda: daemons_of(lab, volume_id) not in ([], [daemon]), what="another storage daemon")  # noqa: B023
    assert len(daemons_of(lab, volume_id)) == 1


def test_snapshots_are_whole_or_end_in_error_whatever_is_killed(lab: Lab, machine: str, volume_id: str) -> None:
    zone_sc = f"sc-{HERE}"
    with writing(lab, machine, mark="mark01") as it:
        for victim in (zone_sc, "walrus-1", "clc-1"):
            lab.run(machine, "dd if=/dev/urandom of=/dev/sdf bs=1M seek=100 count=64 conv=fsync,notrunc 2>/dev/null")
            least = it.acked()
            snapshot_id = lab.ec2.create_snapshot(VolumeId=volume_id)["SnapshotId"]
            before = lab.cloud.pid(victim)
            processes.kill(before)
            until(lambda: lab.cloud.pid(victim) not in (0, before), what=f"another {victim}")  # noqa: B023
            state = until(lambda: ended(lab, snapshot_id), within_s=180, what="the snapshot's end")  # noqa: B023
            assert state == "completed"
            copy_id = lab.create(HERE, SnapshotId=snapshot_id)
            lab.attach(copy_id, machine, "/dev/sdg")
            assert wrong_records(lab, machine, "/dev/sdg", "mark01", least) == ""
            lab.detach(copy_id)
            lab.ec2.delete_volume(VolumeId=copy_id)
            lab.ec2.delete_snapshot(SnapshotId=snapshot_id)
            it.goes_on()


def ended(lab: Lab, snapshot_id: str) -> str:
    (shown,) = lab.ec2.describe_snapshots(SnapshotIds=[snapshot_id])["Snapshots"]
    return shown["State"] if shown["State"] != "pending" else ""


@pytest.fixture
def over_tls(lab: Lab) -> Iterator[None]:
    """From now on volumes are reached as between hosts."""
    path = lab.cloud.home / "mallee.toml"
    before = path.read_text()
    assert 'transport = "auto"' in before
    path.write_text(before.replace('transport = "auto"', 'transport = "tls"'))
    lab.cloud.mallee("down")
    lab.cloud.up()
    yield
    path.write_text(before)
    lab.cloud.mallee("down")
    lab.cloud.up()


@pytest.mark.usefixtures("over_tls")
def test_a_partitioned_node_cannot_write_to_what_another_was_given(lab: Lab) -> None:
    """Its veth is cut; the volume is taken away from it by force and goes to a machine of another node."""
    first, second = lab.launch(lab.image_id, HERE, count=2)
    node = lab.node_of(first)
    assert node != lab.node_of(second)
    volume_id = lab.create(HERE, Size=1)
    lab.attach(volume_id, first)
    lab.run(first, WRITER.replace("MARK", "before").replace("DEVICE", "/dev/sdf"))
    until(lambda: int(lab.run(first, "cat /tmp/acked 2>/dev/null || echo 0")) > 5, what="the first writes")
    with cut_off(lab, node):
        lab.detach(volume_id, Force=True)
        lab.attach(volume_id, second)
        count = 40
        lab.run(
            second,
            f"i=0; while [ $i -lt {count} ]; do printf 'after0-%08d\\n' $i |"
            " dd of=/dev/sdf bs=16 seek=$i conv=notrunc,fsync 2>/dev/null; i=$((i+1)); done",
        )
        time.sleep(HARM_S)
        assert wrong_records(lab, second, "/dev/sdf", "after0", count) == ""
    until(lambda: lab.run(second, "echo here") == "here", what="the cloud is whole again")
    time.sleep(HARM_S)
    assert wrong_records(lab, second, "/dev/sdf", "after0", count) == ""
    lab.end(first, second)
    lab.until_volume(volume_id, "available")
    lab.ec2.delete_volume(VolumeId=volume_id)


@contextmanager
def cut_off(lab: Lab, node: str) -> Iterator[None]:
    _, found = lab.cloud.config.node(node)
    ip = ["ip", "-n", found.namespace, "link", "set", UNDERLAY]
    subprocess.run([*ip, "down"], check=True)
    try:
        yield
    finally:
        subprocess.run([*ip, "up"], check=True)
