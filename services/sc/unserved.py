"""What stands in for imports where they are not served: they wait."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from common.errors import Unavailable
from mallee.sc.v1.snapshot_pb2 import ImportSpec
from services.sc.clients import Progress, Uploaded


async def no_import(spec: ImportSpec, folder: Path, tell: Callable[[Progress], None]) -> tuple[Uploaded, int]:
    raise _NOWHERE


_NOWHERE = Unavailable("this storage controller was given no way to Walrus")
