"""The end of a serial console's log, also where virtlogd has just begun a new file (`….0` is the one before)."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

# As much as EC2 keeps: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_GetConsoleOutput.html
TAIL_BYTES: Final = 64 << 10


def tail(log: Path) -> tuple[bytes, int]:
    """The last 64 KiB, and when the last byte was written in Unix milliseconds (0: nothing yet)."""
    output, written_at_ms = b"", 0
    for path in (log, log.with_name(log.name + ".0")):
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - (TAIL_BYTES - len(output))))
                output = file.read(TAIL_BYTES - len(output)) + output
        except FileNotFoundError:
            continue
        written_at_ms = written_at_ms or int(path.stat().st_mtime * 1000)
        if len(output) >= TAIL_BYTES:
            break
    return output, written_at_ms


def keep(log: Path, last: Path) -> None:
    """The end of a console whose guest is no more. A disk that has no room for it keeps none."""
    with contextlib.suppress(OSError):
        output, written_at_ms = tail(log)
        if output:
            last.write_bytes(output)
            os.utime(last, (written_at_ms / 1000, written_at_ms / 1000))
