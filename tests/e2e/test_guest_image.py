"""The small guest image, really booted: on the metadata service's word it becomes an instance, and only once."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from images.build import GuestImage, build
from services.clc.instance.request import kernel_arguments
from tests.e2e.guest_host import FACADE
from tests.e2e.guest_machine import ADDRESS, Surroundings, copy_of, machine, surroundings

pytestmark = [pytest.mark.root, pytest.mark.e2e]

ROOT = Path(__file__).parents[2]
FIRST, SECOND = "i-00000000000000001", "i-00000000000000002"
USER_DATA = "#!/bin/sh\necho ran-as-$(id -u)-in-$(pwd)\necho x >> /root/runs\nexit 3\n"


@pytest.fixture(scope="module")
def image() -> GuestImage:
    return build(ROOT / "build" / "guest-image")


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", str(path)], check=True)
    return path


@pytest.fixture
def around(tmp_path: Path, key: Path) -> Iterator[Surroundings]:
    # Per process of a parallel run, so that two never share one.
    with surroundings(f"mtest-{os.environ.get('PYTEST_XDIST_WORKER', 'gw')}", tmp_path) as made:
        made.metadata(
            instance_id=FIRST,
            local_hostname="ip-10-77-0-10.ec2.internal",
            **{"public_keys/0/openssh_key": Path(f"{key}.pub").read_text()},
        )
        yield made


def root_disk(image: GuestImage, folder: Path) -> list[str]:
    disk = copy_of(image.machine, folder)
    return [*kernel(image), "-drive", f"if=virtio,format=raw,file={disk}"]


def kernel(image: GuestImage) -> list[str]:
    return ["-kernel", str(image.kernel), "-initrd", str(image.ramdisk), "-append", kernel_arguments(True)]


def test_kernel_ramdisk_and_root_become_an_instance_once(
    image: GuestImage, around: Surroundings, key: Path, tmp_path: Path
) -> None:
    around.metadata(user_data=USER_DATA)
    boot = root_disk(image, tmp_path)
    with machine(around, *boot) as guest:
        guest.wait_for(f"mallee-guest: ready {FIRST}")
        guest.wait_for("mallee-guest: user data exit 3")
        assert "ran-as-0-in-/\n" in guest.console
        assert "mallee-guest: ssh host key SHA256:" in guest.console
        trusted = guest.known_hosts()

        def ssh(command: str) -> str:
            return around.ssh(key, command, known_hosts=trusted)

        assert ssh("hostname; cat /etc/hostname") == "ip-10-77-0-10\n" * 2
        assert f"inet {ADDRESS}/32 " in ssh("ip address show eth0")
        assert "mtu 1400" in ssh("ip link show eth0")
        assert "default via 10.77.0.1 dev eth0" in ssh("ip route")
        assert ssh("cat /etc/resolv.conf") == "search ec2.internal\nnameserver 10.77.0.2\n"

        ssh("reboot")
        guest.wait_for(f"mallee-guest: ready {FIRST}", times=2)
        assert guest.known_hosts().read_text() == trusted.read_text()
        assert ssh("cat /root/runs") == "x\n"
        guest.press_power_button()
        guest.wait_until_off()
        assert "mallee-guest: power button" in guest.console

    # The same disk under another id is another machine: its own host key, its own user data.
    around.metadata(instance_id=SECOND)
    before = trusted.read_text()
    with machine(around, *boot) as guest:
        guest.wait_for(f"mallee-guest: ready {SECOND}")
        guest.wait_for("mallee-guest: user data exit 3")
        assert guest.known_hosts().read_text() != before
        assert around.ssh(key, "cat /root/runs", known_hosts=guest.known_hosts()) == "x\nx\n"


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_the_disk_boots_by_itself(
    image: GuestImage, around: Surroundings, key: Path, tmp_path: Path, kind: str
) -> None:
    disk = copy_of(image.disk_raw if kind == "raw" else image.disk_qcow2, tmp_path)
    with machine(around, "-drive", f"if=virtio,format={kind},file={disk}") as guest:
        guest.wait_for(f"mallee-guest: ready {FIRST}")
        mounts = around.ssh(key, "mount", known_hosts=guest.known_hosts())
        assert "/dev/vda2 on / type ext4 (rw,noatime)" in mounts


def test_a_presigned_url_is_put_and_got_from_inside(
    image: GuestImage, around: Surroundings, key: Path, tmp_path: Path
) -> None:
    with machine(around, *root_disk(image, tmp_path)) as guest:
        guest.wait_for(f"mallee-guest: ready {FIRST}")
        trusted = guest.known_hosts()
        url = f"http://{FACADE}:8773/object?X-Amz-Expires=60&X-Amz-Signature=a%2Bb%2Fc%3D"
        script = f"""
            http PUT '{url}' /tmp/sent; echo put $?
            http GET '{url}' > /tmp/got; echo got $?
            cmp /tmp/sent /tmp/got && echo same
            echo word | http PUT '{url}' - && http GET '{url}'
            http GET '{url.replace("object", "missing")}' 2> /tmp/error; echo " $?"; cat /tmp/error
            http -t 5 GET http://{FACADE}:1/ 2> /tmp/error; echo "$?"
            wget -q -O - '{url}'
        """
        (tmp_path / "sent").write_bytes(random.Random(7).randbytes(300_000))
        around.copy_in(key, tmp_path / "sent", "/tmp/sent", known_hosts=trusted)
        said = around.ssh(key, script, known_hosts=trusted).splitlines()
    assert (tmp_path / "bucket/object").read_text() == "word\n"
    assert said == ["put 0", "got 0", "same", "word", "NoSuchKey 1", "http: HTTP/1.0 404 Not Found", "2", "word"]


def test_user_data_that_is_no_script_is_not_run(image: GuestImage, around: Surroundings, tmp_path: Path) -> None:
    around.metadata(user_data="\0\1binary")
    with machine(around, *root_disk(image, tmp_path)) as guest:
        guest.wait_for("mallee-guest: user data is not a script")


def test_without_metadata_ssh_starts_all_the_same(image: GuestImage, tmp_path: Path) -> None:
    with (
        surroundings("mtest-alone", tmp_path, with_metadata=False) as alone,
        machine(alone, *root_disk(image, tmp_path)) as guest,
    ):
        guest.wait_for("mallee-guest: no metadata so far")
        scanned = alone.run("ssh-keyscan", "-t", "ed25519", "-T", "30", ADDRESS)
    assert f"{ADDRESS} ssh-ed25519 " in scanned.stdout


def test_a_root_that_is_not_there_is_said_and_ends_the_machine(
    image: GuestImage, around: Surroundings, tmp_path: Path
) -> None:
    with machine(around, *kernel(image)) as guest:
        guest.wait_until_off()
        assert "mallee-guest: cannot mount /dev/vda" in guest.console


def test_building_again_finds_the_result_without_asking_anyone(image: GuestImage) -> None:
    reported: list[str] = []
    began = time.monotonic()
    assert build(image.kernel.parent, lambda step, share: reported.append(step)) == image
    assert time.monotonic() - began < 1
    assert reported == ["the guest image is there"]


def test_packages_that_were_fetched_are_enough_to_build_it_anew(image: GuestImage, tmp_path: Path) -> None:
    shutil.copytree(image.kernel.parent / "packages", tmp_path / "packages")
    again = build(tmp_path)
    assert again.ramdisk.read_bytes() == image.ramdisk.read_bytes()
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")} == {
        *(file.name for file in again.files()),
        "build.json",
        "packages",
    }
