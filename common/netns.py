"""Network namespaces, and the host's network tools (`ip`, `bridge`, `nft`, `conntrack`) run in one of choice.

Everything here blocks for a few milliseconds; callers run it in a bounded thread pool. Tools run in batches (one
process for many changes) and are told the namespace; the calling thread never changes its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from common.errors import Unavailable

# A node's leg on the bridge that joins the nodes: deploy/fabric.py makes it, the node controller builds upon it.
UNDERLAY: Final = "underlay0"
# What VXLAN adds to a packet: Ethernet, IPv4, UDP and its own header (RFC 7348).
VXLAN_OVERHEAD_BYTES: Final = 50

NETNS: Final = Path("/run/netns")
_CLONE_NEWNET: Final = 0x40000000
_TOOL_TIMEOUT_S: Final = 20
_ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}

# linux/netlink.h and linux/netfilter/nfnetlink.h: a message's header, a dump of the tables of all families.
_HEADER: Final = struct.Struct("=IHHII")
_NETLINK_NETFILTER: Final = 12
_NFT_GETTABLE: Final = 10 << 8 | 1
_REQUEST_ALL: Final = 0x301
_ERROR, _DONE = 2, 3
_FAMILIES: Final = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}

T = TypeVar("T")


class ToolFailed(Unavailable):
    """A network tool refused. The message carries what it said."""


def run(command: Sequence[str], text: str = "", *, namespace: str = "") -> str:
    """Runs `command` with `text` on its standard input. Raises ToolFailed with what it wrote to standard error."""
    line = [f"--net={NETNS / namespace}", "--", *command] if namespace else list(command)
    try:
        done = subprocess.run(
            ["nsenter", *line] if namespace else line,
            input=text,
            capture_output=True,
            text=True,
            env=_ENVIRONMENT,
            timeout=_TOOL_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolFailed(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise ToolFailed(f"{' '.join(command[:3])} in namespace {namespace or '(own)'}: {said[:2000]}")
    return done.stdout


def quietly(command: Sequence[str]) -> None:
    """For taking away what may already have gone."""
    with contextlib.suppress(ToolFailed):
        run(command)


def links(lines: Iterable[str], *, namespace: str = "") -> None:
    """Applies `ip` commands in order, in one process."""
    if script := "\n".join(lines):
        run(["ip", *(["-n", namespace] if namespace else []), "-batch", "-"], script + "\n")


def forwarding(lines: Iterable[str], *, namespace: str = "") -> None:
    """Applies `bridge` commands in order, in one process."""
    if script := "\n".join(lines):
        run(["bridge", *(["-n", namespace] if namespace else []), "-batch", "-"], script + "\n")


def show(*questions: str, namespace: str = "") -> list[list[dict[str, Any]]]:
    """One list of objects for each `ip` question (`link show`, `route show` …), asked in one process."""
    command = ["ip", *(["-n", namespace] if namespace else []), "-j", "-d", "-batch", "-"]
    rest = run(command, "\n".join(questions) + "\n").strip()
    answers: list[list[dict[str, Any]]] = []
    decoder = json.JSONDecoder()
    while rest:
        answer, end = decoder.raw_decode(rest)
        # Some questions answer an empty object for every entry that a filter left out.
        answers.append([entry for entry in answer if entry])
        rest = rest[end:].lstrip()
    return answers


def link_kinds(namespace: str = "") -> dict[str, dict[str, Any]]:
    """Every link of the namespace by name, as `ip -j -d link` tells it."""
    return {link["ifname"]: link for link in show("link show", namespace=namespace)[0]}


def rules(ruleset: str, *, namespace: str = "") -> None:
    """Applies an nftables script as one transaction: all of it is in force on return, or none."""
    run(["nft", "-f", "-"], ruleset, namespace=namespace)


def tables(namespace: str) -> set[str]:
    """The nftables tables that stand there (`inet guard` …). Asked of the kernel itself: no tool is cheap enough for
    what is looked at all the time. (linux/netfilter/nf_tables.h: NFT_MSG_GETTABLE)"""
    return inside(namespace, _tables)


def _tables() -> set[str]:
    found: set[str] = set()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as kernel:
        kernel.settimeout(_TOOL_TIMEOUT_S)
        kernel.send(_HEADER.pack(_HEADER.size + 4, _NFT_GETTABLE, _REQUEST_ALL, 0, 0) + bytes(4))
        while True:
            answer = kernel.recv(1 << 16)
            while answer:
                length, kind, *_ = _HEADER.unpack_from(answer)
                message, answer = answer[_HEADER.size : length], answer[-(-length // 4) * 4 :]
                if kind == _DONE:
                    return found
                if kind == _ERROR:
                    raise ToolFailed(f"the kernel does not tell its nftables tables: {message[:4].hex()}")
                # The family and three bytes more, then attributes: the name comes first.
                size, _ = struct.unpack_from("=HH", message, 4)
                found.add(f"{_FAMILIES.get(message[0], message[0])} {message[8 : 4 + size - 1].decode()}")


def namespaces() -> list[str]:
    try:
        return sorted(os.listdir(NETNS))
    except FileNotFoundError:
        return []


def namespace_stands(name: str) -> bool:
    return (NETNS / name).exists()


def ensure_namespace(name: str) -> bool:
    """The namespace stands on return; whether it was made now."""
    if _is_mounted(name):
        return False
    # What a crash between making the name and mounting the namespace leaves.
    (NETNS / name).unlink(missing_ok=True)
    with contextlib.suppress(ToolFailed):  # somebody else was faster
        run(["ip", "netns", "add", name])
    if not _is_mounted(name):
        raise ToolFailed(f"network namespace {name} cannot be made")
    return True


def delete_namespace(name: str) -> None:
    if namespace_stands(name):
        run(["ip", "netns", "del", name])


def end_processes(name: str) -> None:
    """Ends every process that lives in the namespace; they have gone on return."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        pids = [int(pid) for pid in run(["ip", "netns", "pids", name]).split()]
        for pid in pids:
            end_process(pid, kind)


def end_process(pid: int, kind: signal.Signals) -> bool:
    """Whether the process has gone, two seconds after the signal at the latest."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, kind)
    return wait_until(lambda: not _lives(pid), within_s=2)


def _lives(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def _is_mounted(name: str) -> bool:
    """A namespace's file lies on nsfs, not on the file system of the folder."""
    try:
        return (NETNS / name).stat().st_dev != NETNS.stat().st_dev
    except FileNotFoundError:
        return False


def inside(name: str, do: Callable[[], T]) -> T:
    """What `do` returns, run in namespace `name` on a thread that ends with it."""

    def body() -> T:
        enter(name)
        return do()

    with ThreadPoolExecutor(1, thread_name_prefix=f"netns-{name}") as thread:
        return thread.submit(body).result()


def enter(name: str) -> None:
    """Moves the calling thread for good. Raises FileNotFoundError if there is no such namespace."""
    fd = os.open(NETNS / name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(fd, _CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"setns to {name}: {errno.errorcode.get(code, code)}")
    finally:
        os.close(fd)


def settings(values: Mapping[str, str], *, namespace: str = "") -> None:
    """Writes kernel settings below /proc/sys/net (ipv4/conf/all/forwarding …) in order, where they differ."""

    def write() -> None:
        for key, value in values.items():
            path = Path("/proc/sys/net", key)
            if path.read_text().strip() != value:
                path.write_text(value)

    if namespace:
        inside(namespace, write)
    else:
        write()


def wait_until(claim: Callable[[], bool], *, within_s: float) -> bool:
    """Whether `claim` became true in time; for the few things the kernel or a daemon finishes a moment later."""
    deadline = time.monotonic() + within_s
    while not claim():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
