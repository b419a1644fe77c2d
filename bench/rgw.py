"""A Ceph of a benchmark's own, to measure beside: one monitor, one OSD (bluestore), one RGW, from Debian's packages.

It runs on 127.0.0.1 in a folder that goes with it; its processes follow this one into death, and a killed run's folder
goes with the next run. It is as durable as Ceph is by default, one copy of everything, and gets what an operator who
wants it fast would give it: see `_TUNED`, and `_Ceph.osd` on what lies below its store; or only what it needs to run.

Ceph is set up by hand as in https://docs.ceph.com/en/pacific/install/manual-deployment/. A manager (statistics,
balancing) is left out: RGW needs none, and it would only take time from the others.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.ports import free_port

PROGRAMS: Final = ("ceph", "ceph-authtool", "monmaptool", "ceph-mon", "ceph-osd", "radosgw", "radosgw-admin")
HOW_TO_INSTALL: Final = "apt-get install --no-install-recommends ceph-mon ceph-osd radosgw ceph-common"
_STORE_MIB: Final = 12 << 10
_FOLDERS: Final = Path(tempfile.gettempdir()) / "mallee-bench-rgw"
_PATIENCE_S: Final = 60.0
_CAPABILITIES: Final = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "osd": "allow *"},
    "osd.0": {"mon": "allow profile osd", "osd": "allow *"},
    "client.rgw": {"mon": "allow rw", "osd": "allow rwx"},
}


_Section = dict[str, Any]
# What an operator gives a Ceph that is to be fast on few cores.
_TUNED: Final[dict[str, _Section]] = {
    "global": {
        # Nothing is gathered for a log that nobody reads.
        f"debug {part}": "0/0"
        for part in ("ms", "osd", "bluestore", "bluefs", "bdev", "rocksdb", "objecter")
    },
    "client.rgw": {
        # A line per request, as Mallee has it, but no more gathered in memory.
        "debug rgw": "1/1",
        # As many threads as clients: 512 take a third more CPU on few cores.
        "rgw thread pool size": 64,
        "objecter inflight ops": 24576,
        "rgw get obj window size": 64 << 20,
        "rgw put obj min window size": 64 << 20,
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rgw:
    endpoint_url: str
    access_key: str
    secret_key: str
    pids: Mapping[str, int]


def is_installed() -> bool:
    return all(shutil.which(program) for program in PROGRAMS)


@contextmanager
def rgw(*, tuned: bool = True) -> Iterator[Rgw]:
    """Raises RuntimeError with what Ceph said when it does not come up."""
    with ExitStack() as stack:
        folder = _new_folder()
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        ceph = _Ceph(folder, tuned, mon_port=free_port(), rgw_port=free_port())
        stack.callback(ceph.stop)
        ceph.monitor()
        ceph.osd()
        yield ceph.gateway()


def configuration(folder: Path, fsid: str, mon_port: int, rgw_port: int, *, tuned: bool) -> str:
    sections: dict[str, _Section] = {
        "global": {
            "fsid": fsid,
            "mon host": f"[v2:127.0.0.1:{mon_port}]",
            "public addr": "127.0.0.1",
            "cluster addr": "127.0.0.1",
            "ms bind msgr1": "false",
            "run dir": folder,
            "crash dir": folder,
            "admin socket": "",
            "keyring": folder / "keyring",
            "log file": folder / "$name.log",
            # One copy, on the one OSD there is.
            "osd pool default size": 1,
            "osd pool default min size": 1,
            "osd crush chooseleaf type": 0,
            # The pools are made sooner.
            "paxos propose interval": 0.1,
            "osd pool default pg num": 32,
            "mon max pg per osd": 1000,
        },
        "mon.a": {"mon data": folder / "mon"},
        "osd.0": {"osd data": folder / "osd", "bluestore block size": _STORE_MIB << 20},
        "client.rgw": {
            "rgw data": folder,
            "rgw frontends": f"beast endpoint=127.0.0.1:{rgw_port} tcp_nodelay=1",
        },
    }
    for name, keys in _TUNED.items() if tuned else ():
        sections[name] |= keys
    lines = ((f"[{name}]", *(f"{key} = {value}" for key, value in keys.items())) for name, keys in sections.items())
    return "\n".join(line for section in lines for line in section) + "\n"


@dataclass
class _Ceph:
    folder: Path
    tuned: bool
    mon_port: int
    rgw_port: int
    _fsid: str = field(default_factory=lambda: str(uuid.uuid4()))
    _daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def monitor(self) -> None:
        (self.folder / "mon").mkdir(parents=True)
        (self.folder / "osd").mkdir()
        text = configuration(self.folder, self._fsid, self.mon_port, self.rgw_port, tuned=self.tuned)
        self._configuration.write_text(text)
        keyring, monmap = str(self.folder / "keyring"), str(self.folder / "monmap")
        _run("ceph-authtool", "--create-keyring", keyring)
        for name, may in _CAPABILITIES.items():
            caps = [word for service, what in may.items() for word in ("--cap", service, what)]
            _run("ceph-authtool", keyring, "--gen-key", "--name", name, *caps)
        _run(
            *("monmaptool", "--create", "--fsid", self._fsid),
            *("--addv", "a", f"[v2:127.0.0.1:{self.mon_port}]", monmap),
        )
        self._ceph("ceph-mon", "--id", "a", "--mkfs", "--monmap", monmap, "--keyring", keyring)
        self._start("mon", "ceph-mon", "--id", "a", "-f")

    def osd(self) -> None:
        # Written from end to end: as on a disk of its own, no write has to wait for a file system that finds it room.
        # Whether the disk turns is left to what bluestore finds: told to take it for the other kind, it was slower.
        block = self.folder / "osd" / "block"
        _run("dd", "if=/dev/zero", f"of={block}", "bs=4M", f"count={_STORE_MIB // 4}", "oflag=direct", "status=none")
        osd_uuid = str(uuid.uuid4())
        self._admin("osd", "new", osd_uuid)
        self._ceph("ceph-osd", "--id", "0", "--mkfs", "--osd-uuid", osd_uuid)
        self._start("osd", "ceph-osd", "--id", "0", "-f")
        self._wait("osd", lambda: bool(json.loads(self._admin("osd", "stat", "--format", "json"))["num_up_osds"]))

    def gateway(self) -> Rgw:
        access_key, secret_key = secrets.token_hex(10).upper(), secrets.token_hex(20)
        keys = ("--access-key", access_key, "--secret-key", secret_key)
        user = ("user", "create", "--uid", "bench", "--display-name", "bench")
        self._ceph("radosgw-admin", "--name", "client.rgw", *user, *keys)
        self._start("rgw", "radosgw", "--name", "client.rgw", "-f")
        url = f"http://127.0.0.1:{self.rgw_port}"
        self._wait("rgw", lambda: _answers(url))
        pids = {name: daemon.pid for name, daemon in self._daemons.items()}
        return Rgw(endpoint_url=url, access_key=access_key, secret_key=secret_key, pids=pids)

    def stop(self) -> None:
        """At once: nobody will read what it has."""
        for daemon in reversed(self._daemons.values()):
            daemon.kill()
            daemon.wait()

    @property
    def _configuration(self) -> Path:
        return self.folder / "ceph.conf"

    def _ceph(self, program: str, *arguments: str) -> str:
        return _run(program, "--conf", str(self._configuration), *arguments)

    def _admin(self, *arguments: str) -> str:
        return self._ceph("ceph", "--connect-timeout", "20", *arguments)

    def _start(self, name: str, program: str, *arguments: str) -> None:
        command = ["setpriv", "--pdeathsig", "KILL", program, "--conf", str(self._configuration), *arguments]
        with self._said(name).open("wb") as said:
            self._daemons[name] = subprocess.Popen(command, stdout=said, stderr=said)

    def _wait(self, name: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not condition():
            if self._daemons[name].poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Ceph's {name} did not come up: {self._said(name).read_text()}")
            time.sleep(0.1)

    def _said(self, name: str) -> Path:
        return self.folder / f"{name}.out"


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=_PATIENCE_S):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


def _new_folder() -> Path:
    """Named after this process; those of processes that are gone are removed."""
    for left in _FOLDERS.parent.glob(f"{_FOLDERS.name}-*"):
        pid = left.name.removeprefix(f"{_FOLDERS.name}-")
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(f"{_FOLDERS}-{os.getpid()}")
    folder.mkdir(mode=0o700)
    return folder
