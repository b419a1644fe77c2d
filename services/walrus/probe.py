"""qemu-img's second opinion on a qcow2, asked once, in a process that can do next to nothing.

Unprivileged user, no new privileges, no network where the kernel allows that, bounded time, memory and descriptors; it
gets the image as an open descriptor and is told the format. What would make QEMU open another file was refused before
(image.py), so it is never asked about such an image.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any, Final

from common.errors import CloudError, InvalidArgument
from common.log import get_logger

_LIMIT_S: Final = 20.0
_ANSWER_BYTES: Final = 1 << 20
_LIMITS: Final = (
    "prlimit", "--cpu=10", "--as=1073741824", "--nofile=64", "--fsize=65536", "--core=0",
)  # fmt: skip
# nobody and nogroup.
_USER: Final = "65534"

_log = get_logger(__name__)


async def confirm_qcow2(path: Path, virtual_size: int) -> None:
    """Raises InvalidArgument if qemu-img sees anything but a self-contained, sound qcow2 of that size."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        said = await _ask(descriptor)
    finally:
        os.close(descriptor)
    inner = said.get("format-specific", {}).get("data", {})
    suspicious = [key for key in ("backing-filename", "full-backing-filename", "snapshots") if said.get(key)]
    suspicious += [key for key in ("data-file", "encrypt", "corrupt") if inner.get(key)]
    if said.get("encrypted") or said.get("dirty-flag"):
        suspicious.append("encrypted or dirty")
    if said.get("format") != "qcow2" or said.get("virtual-size") != virtual_size or suspicious:
        raise _refused(f"qemu-img describes it otherwise than its header ({', '.join(suspicious) or 'format, size'})")


async def _ask(descriptor: int) -> dict[str, Any]:
    command = [*await _confinement(), "qemu-img", "info", "-U", "--output=json", "-f", "qcow2", f"/dev/fd/{descriptor}"]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        pass_fds=(descriptor,),
        limit=_ANSWER_BYTES,
        env={"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "LC_ALL": "C"},
        cwd="/",
    )
    try:
        async with asyncio.timeout(_LIMIT_S):
            out, error = await process.communicate()
    except TimeoutError:
        raise _refused("qemu-img did not come to an end with it") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        reason = error.decode("utf-8", "replace").strip().splitlines()[-1:] or ["qemu-img ended without a word"]
        if process.returncode in (126, 127):
            raise CloudError(f"The image prober does not run: {reason[0]}")
        raise _refused(reason[0].replace(f"/dev/fd/{descriptor}", "the image"))
    try:
        said: dict[str, Any] = json.loads(out)
    except ValueError:
        raise _refused("qemu-img's answer is no JSON") from None
    return said


async def _confinement() -> list[str]:
    user = (
        [f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
        if os.geteuid() == 0
        else []
    )
    confined = ["setpriv", *user, "--no-new-privs"]
    apart = ["unshare", "--user", "--net"]
    trial = await asyncio.create_subprocess_exec(
        *confined, *apart, "true", stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, cwd="/"
    )
    if await trial.wait() != 0:
        _log.warning("this kernel gives no namespaces to ordinary users: images are probed without one")
        apart = []
    return [*confined, *apart, *_LIMITS]


def _refused(what: str) -> InvalidArgument:
    return InvalidArgument(
        f"The image is refused: {what}. What to do: make it anew with qemu-img convert -O qcow2 IMAGE NEW.qcow2."
    )
