"""The supervisor: s6 from Debian, one folder per service, one log per service under <home>/log.

The folders lie in memory, for s6 writes down in them what it sees: on a full disk it would not, and would go on telling
of processes long dead. Who may not write to /run has them under <home>/run/s6.

It starts what dies again and says when a service is ready (s6's notification protocol). It runs detached from the
terminal that started it. A service follows its s6-supervise into death (PR_SET_PDEATHSIG), so nothing ever runs twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_LOG_FILES, _LOG_BYTES = 5, 4_000_000
_NOTIFY_FD: Final = 3
_IN_MEMORY: Final = Path("/run/mallee-s6")
# While it gets ready: one that dies that often will not.
_GIVEN_UP_AFTER: Final = 6
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class SupervisorError(RuntimeError):
    """A service did not come up, or the supervisor did not; the message says which and where its log is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    name: str
    command: Sequence[str]
    # Empty: whoever started the supervisor.
    user: str = ""
    # Network namespace to run in. Empty: the machine's own.
    namespace: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    # It says by itself when it is ready: MALLEE_NOTIFY_FD.
    notifies: bool = True
    # How long it has to end by itself.
    stop_s: int = 15
    # A change of what it read at its start restarts it.
    reads: Sequence[Path] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceState:
    name: str
    up: bool
    ready: bool
    pid: int


class Supervisor:
    def __init__(self, home: Path) -> None:
        self.folder = home / "run" / "s6"
        if os.geteuid() == 0 and not self.folder.is_dir():
            self.folder = _IN_MEMORY / hashlib.sha256(str(home.absolute()).encode()).hexdigest()[:16]
        self._logs = home / "log"
        self._pid_file = home / "run" / "s6.pid"

    def pid(self) -> int:
        """Of the running supervisor; 0 if there is none."""
        try:
            pid = int(self._pid_file.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return 0
        return pid if str(self.folder).encode() in command and b"s6-svscan" in command[0] else 0

    def ensure(self, services: Iterable[Service]) -> None:
        """Makes these services run, and restarts those whose command or files changed. Others are left alone."""
        running = self.pid()
        if not running:
            self._clear_remains()
        there = set(self.names())
        changed = [service for service in services if self._write(service)]
        if not running:
            self._start()
            return
        _run("s6-svscanctl", "-a", str(self.folder))
        self._restart([service for service in changed if service.name in there])

    def stop_one(self, name: str) -> None:
        """Ends one service; it stays down until the supervisor starts afresh or `ensure` restarts it."""
        if self.pid() and (self.folder / name).exists():
            self._end(name)

    def drop(self, keep: Iterable[str]) -> None:
        """Ends and forgets the services that are not in `keep`."""
        for name in set(self.names()) - set(keep):
            if self.pid():
                self._end(name)
            shutil.rmtree(self.folder / name)
        if self.pid():
            _run("s6-svscanctl", "-an", str(self.folder))

    def wait_ready(self, name: str, deadline_s: float) -> None:
        """Raises SupervisorError."""
        service = self.folder / name
        self._wait_supervised(name)
        until = time.monotonic() + deadline_s
        # The tally is of the supervisor's whole life.
        given_up = self._deaths(name) + _GIVEN_UP_AFTER
        while time.monotonic() < until and self._deaths(name) < given_up:
            if not subprocess.run(["s6-svwait", "-U", "-t", "500", str(service)], capture_output=True).returncode:
                return
        log = self._logs / name / "current"
        raise SupervisorError(f"{name} does not get ready: {self.last_words(name)} (log: {log})")

    def last_words(self, name: str) -> str:
        """The last line of its log, and before it the last that tells of an error."""
        try:
            lines = (self._logs / name / "current").read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        if not lines:
            return "it logged nothing"
        errors = [line for line in lines[:-1] if '"level":"error"' in line]
        return " … ".join(line[-400:] for line in (*errors[-1:], lines[-1]))

    def states(self) -> list[ServiceState]:
        if not self.pid():
            return [ServiceState(name=name, up=False, ready=False, pid=0) for name in self.names()]
        return [self._state(name) for name in self.names()]

    def names(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        return sorted(path.name for path in self.folder.iterdir() if (path / "run").exists())

    def stop(self, *, last: str = "", deadline_s: float = 40) -> None:
        """Ends every service in good order, `last` after the others; then the supervisor. All are gone on return."""
        pid = self.pid()
        if not pid:
            self._clear_remains()
            return
        self._end(*(name for name in self.names() if name != last))
        _run("s6-svscanctl", "-t", str(self.folder))
        if not _wait_gone(pid, deadline_s):
            os.kill(pid, signal.SIGKILL)
        self._clear_remains()
        self._pid_file.unlink(missing_ok=True)

    def _deaths(self, name: str) -> int:
        """How often it died of late."""
        tally = subprocess.run(["s6-svdt", str(self.folder / name)], capture_output=True, text=True, check=False)
        return len(tally.stdout.splitlines())

    def _end(self, *names: str) -> None:
        folders = [str(self.folder / name) for name in names]
        for folder in folders:
            subprocess.run(["s6-svc", "-d", folder], check=False)
        if folders:
            subprocess.run(["s6-svwait", "-D", "-t", "30000", *folders], capture_output=True, check=False)

    def _restart(self, services: Iterable[Service]) -> None:
        """All at once; returns when each new process has started, so that nobody takes the old one's word for its."""
        waiting = [
            subprocess.Popen(
                ["s6-svc", "-wr", "-T", "30000", "-r", str(self.folder / service.name)], stderr=subprocess.DEVNULL
            )
            for service in services
        ]
        for process in waiting:
            process.wait()

    def _state(self, name: str) -> ServiceState:
        shown = subprocess.run(
            ["s6-svstat", "-o", "up,ready,pid", str(self.folder / name)], capture_output=True, text=True, check=False
        )
        up, ready, pid = shown.stdout.split() if shown.returncode == 0 else ("false", "false", "0")
        return ServiceState(name=name, up=up == "true", ready=ready == "true", pid=max(0, int(pid)))

    def _start(self) -> None:
        with (self._logs / "s6.log").open("ab") as log:
            started = subprocess.Popen(
                ["s6-svscan", "-c", "500", str(self.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env={"PATH": _PATH},
            )
        self._pid_file.parent.mkdir(parents=True, exist_ok=True)
        self._pid_file.write_text(str(started.pid))

    def _wait_supervised(self, name: str, deadline_s: float = 10) -> None:
        until = time.monotonic() + deadline_s
        status = self.folder / name / "supervise" / "status"
        while not status.exists() or subprocess.run(["s6-svok", str(status.parents[1])], check=False).returncode:
            if time.monotonic() > until:
                raise SupervisorError(f"s6 does not take up {name}: see {self._logs / 's6.log'}")
            time.sleep(0.02)

    def _clear_remains(self) -> None:
        """A supervisor that was killed leaves its s6-supervise processes: they end their services and go."""
        left = [pid for pid in _pids() if _works_under(pid, self.folder)]
        for pid in left:
            _kill(pid, signal.SIGTERM)
        for pid in left:
            if not _wait_gone(pid, 20):
                _kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, service: Service) -> bool:
        """True if it differs from what is there."""
        folder, logs = self.folder / service.name, self._logs / service.name
        self.folder.mkdir(parents=True, exist_ok=True)
        logs.mkdir(parents=True, exist_ok=True)
        if service.user:
            shutil.chown(logs, service.user, service.user)
        script = _run_script(service)
        run = folder / "run"
        if run.exists() and run.read_text() == script:
            return False
        # s6-svscan looks at any moment: the folder comes whole.
        new = self.folder / f".{service.name}.new"
        shutil.rmtree(new, ignore_errors=True)
        (new / "log").mkdir(parents=True)
        _script(new / "run", script)
        _script(new / "log" / "run", _log_script(service, logs))
        (new / "timeout-kill").write_text(str(service.stop_s * 1000))
        if service.notifies:
            (new / "notification-fd").write_text(str(_NOTIFY_FD))
        if not folder.exists():
            new.rename(folder)
            return True
        for name in ("run", "log/run", "timeout-kill"):
            os.replace(new / name, folder / name)
        shutil.rmtree(new)
        return True


def _run_script(service: Service) -> str:
    digest = hashlib.sha256()
    for path in service.reads:
        digest.update(path.read_bytes())
    environment = {"PATH": _PATH, "LANG": "C.UTF-8", **service.environment}
    if service.notifies:
        environment["MALLEE_NOTIFY_FD"] = str(_NOTIFY_FD)
    enter = ["nsenter", f"--net=/run/netns/{service.namespace}"] if service.namespace else []
    become = ["s6-setuidgid", service.user] if service.user else []
    # After the change of user, which would reset it.
    follow = ["setpriv", "--pdeathsig", "KILL"]
    command = [*enter, *become, *follow, "env", "-i", *(f"{k}={v}" for k, v in environment.items()), *service.command]
    return f"""\
#!/bin/sh
# It reads {digest.hexdigest()[:16]}.
exec </dev/null 2>&1
umask 022
ulimit -n "$(ulimit -Hn)"
cd /
exec {shlex.join(command)}
"""


def _log_script(service: Service, logs: Path) -> str:
    become = ["s6-setuidgid", service.user] if service.user else []
    command = [*become, "s6-log", "-b", f"n{_LOG_FILES}", f"s{_LOG_BYTES}", "T", str(logs)]
    return f"#!/bin/sh\nexec {shlex.join(command)}\n"


def _script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SupervisorError(f"{command[0]}: {done.stderr.strip()}")


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _works_under(pid: int, folder: Path) -> bool:
    """An s6-supervise of ours: its working folder is that of its service."""
    try:
        return Path(f"/proc/{pid}/comm").read_text() == "s6-supervise\n" and Path(
            os.readlink(f"/proc/{pid}/cwd")
        ).is_relative_to(folder)
    except OSError:
        return False


def _kill(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _wait_gone(pid: int, deadline_s: float) -> bool:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        return bool(poller.poll(deadline_s * 1000))
    finally:
        os.close(descriptor)
