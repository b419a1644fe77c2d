"""A user's ssh into instances of a cloud under test, and waiting for what they do."""

from __future__ import annotations

import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.eventually import until

# A guest under TCG beside others, on two cores.
BOOT_S = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ssh:
    """By one private key, as one user."""

    key: Path
    user: str = "root"

    def run(self, address: str, command: str, *, timeout_s: float = 60.0, check: bool = True) -> str:
        done = subprocess.run(
            [*self._command(), f"{self.user}@{address}", command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def send(self, address: str, file: Path, path: str) -> None:
        """The guest may run it."""
        with file.open("rb") as content:
            line = [*self._command(), f"{self.user}@{address}", f"cat > {path}; chmod 755 {path}"]
            subprocess.run(line, stdin=content, check=True, timeout=60)

    def wait(self, address: str, *, within_s: float = BOOT_S) -> None:
        """Until it lets us in."""

        def in_there() -> bool:
            return answers(address, 22) and "in" in self.run(address, "echo in", check=False)

        until(in_there, within_s=within_s, every_s=0.3, what=f"ssh to {address}")

    def _command(self) -> list[str]:
        options = {
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
            "ConnectTimeout": "10",
            "BatchMode": "yes",
        }
        return ["ssh", "-i", str(self.key), *(f"-o{name}={value}" for name, value in options.items())]


def answers(address: str, port: int, *, timeout_s: float = 1.0) -> bool:
    """Does a TCP connection come about, and say something?"""
    try:
        with socket.create_connection((address, port), timeout=timeout_s) as connection:
            connection.settimeout(5.0)
            return bool(connection.recv(1))
    except OSError:
        return False
