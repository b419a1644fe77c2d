"""A guest image on a bare QEMU in a network of its own, as a node would give it: /32 routes and option 121."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.e2e.guest_host import FACADE, METADATA

ROOT = Path(__file__).parents[2]
ADDRESS, GATEWAY, MAC = "10.77.0.10", "10.77.0.1", "d0:0d:00:00:77:10"


class Surroundings:
    """The guest's network: a namespace with a tap, dnsmasq, metadata and a bucket. `folder` as in guest_host."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder

    def run(self, *command: str, check: bool = True, **kwargs: object) -> subprocess.CompletedProcess[str]:
        line = ["ip", "netns", "exec", self.name, *command]
        return subprocess.run(line, check=check, capture_output=True, text=True, timeout=60, **kwargs)  # type: ignore[call-overload, no-any-return]

    def metadata(self, **answers: str) -> None:
        """Keys are paths: `instance_id` is meta-data/instance-id, `user_data` is user-data."""
        for key, value in answers.items():
            name = key.replace("_", "-")
            path = self.folder / "metadata" / (name if name == "user-data" else f"meta-data/{name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(value)

    def ssh(self, key: Path, command: str, *, known_hosts: Path) -> str:
        done = self.run("ssh", *_ssh_options(key, known_hosts), f"root@{ADDRESS}", command, check=False)
        assert done.returncode in (0, 255), f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def copy_in(self, key: Path, file: Path, path: str, *, known_hosts: Path) -> None:
        self.run("scp", *_ssh_options(key, known_hosts), str(file), f"root@{ADDRESS}:{path}")


def _ssh_options(key: Path, known_hosts: Path) -> list[str]:
    options = ["BatchMode=yes", "StrictHostKeyChecking=yes", f"UserKnownHostsFile={known_hosts}", "LogLevel=ERROR"]
    return ["-i", str(key), *(word for option in options for word in ("-o", option))]


@contextmanager
def surroundings(name: str, folder: Path, *, with_metadata: bool = True) -> Iterator[Surroundings]:
    """What an earlier run that was killed has left of it is removed first."""
    for sub in ("metadata/meta-data", "bucket"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    made = Surroundings(name, folder)
    _remove_namespace(name)
    subprocess.run(["ip", "netns", "add", name], check=True)
    with ExitStack() as stack:
        stack.callback(_remove_namespace, name)
        for command in (
            "ip link set lo up",
            f"ip address add {METADATA}/32 dev lo",
            f"ip address add {FACADE}/32 dev lo",
            "ip tuntap add dev tap0 mode tap",
            "ip link set tap0 up",
            f"ip address add {GATEWAY}/32 dev tap0",
            f"ip route add {ADDRESS}/32 dev tap0",
        ):
            made.run(*command.split())
        stack.enter_context(_running(made, _dnsmasq(folder)))
        if with_metadata:
            stack.enter_context(_running(made, [sys.executable, "-m", "tests.e2e.guest_host", str(folder)]))
        yield made


def _dnsmasq(folder: Path) -> list[str]:
    return [
        *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=tap0", "--bind-dynamic"),
        # The subnet is the guest alone: its gateway is outside.
        *(
            "--dhcp-range=10.77.0.0,static,255.255.255.0",
            f"--dhcp-host={MAC},{ADDRESS}",
            "--dhcp-option=1,255.255.255.255",
        ),
        f"--dhcp-option=121,0.0.0.0/0,{GATEWAY},{METADATA}/32,{GATEWAY},{FACADE}/32,{GATEWAY}",
        *("--dhcp-option=26,1400", "--dhcp-option=6,10.77.0.2", "--dhcp-option=15,ec2.internal"),
        f"--dhcp-leasefile={folder}/leases",
    ]


def _remove_namespace(name: str) -> None:
    if not Path("/run/netns", name).exists():
        return
    pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False).stdout.split()
    for pid in pids:
        subprocess.run(["kill", "-9", pid], check=False, capture_output=True)
    subprocess.run(["ip", "netns", "delete", name], check=True)


class Machine:
    """A running QEMU. `console` is all that it has printed."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self._process = process
        self._folder = folder

    @property
    def console(self) -> str:
        return (self._folder / "console").read_text(errors="replace").replace("\r", "")

    def wait_for(self, line: str, *, times: int = 1, within_s: float = 90) -> None:
        _wait(
            lambda: self.console.count(line) >= times, f"{line!r} on the console", within_s, tell=lambda: self.console
        )

    def press_power_button(self) -> None:
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(str(self._folder / "monitor"))
            monitor.settimeout(30)
            monitor.sendall(b"system_powerdown\n")
            # QEMU drops what it has not yet read when the connection ends: wait for the prompt after the command.
            said = b""
            while said.count(b"(qemu)") < 2:
                said += monitor.recv(4096)

    def wait_until_off(self, within_s: float = 60) -> None:
        assert self._process.wait(within_s) == 0

    def known_hosts(self) -> Path:
        """The host key as the console shows it: whoever reads the console need not trust the first answer."""
        shown = self.console.rpartition("-----BEGIN SSH HOST KEY KEYS-----\n")[2].partition("-----END")[0]
        path = self._folder / "known_hosts"
        path.write_text("".join(f"{ADDRESS} {line}\n" for line in shown.splitlines()))
        return path


@contextmanager
def machine(around: Surroundings, *arguments: str) -> Iterator[Machine]:
    """Under TCG, as `arguments` say what to boot."""
    for name in ("console", "monitor"):
        (around.folder / name).unlink(missing_ok=True)
    (around.folder / "console").touch()
    line = [
        *("qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "192", "-nodefaults", "-display", "none"),
        *("-serial", f"file:{around.folder}/console", "-monitor", f"unix:{around.folder}/monitor,server,nowait"),
        *("-netdev", "tap,id=net,ifname=tap0,script=no,downscript=no", "-device", "virtio-rng-pci"),
        *("-device", f"virtio-net-pci,netdev=net,mac={MAC},romfile=", *arguments),
    ]
    with _running(around, line) as process:
        yield Machine(process, around.folder)


@contextmanager
def _running(around: Surroundings, line: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/gen"}
    with (around.folder / f"{Path(line[0]).name}.log").open("wb") as log:
        process = subprocess.Popen(
            ["ip", "netns", "exec", around.name, *line], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _wait(condition: Callable[[], bool], what: str, within_s: float, *, tell: Callable[[], str]) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {within_s} s:\n{tell()}"
        time.sleep(0.05)


def copy_of(image: Path, folder: Path) -> Path:
    return Path(shutil.copy(image, folder))
