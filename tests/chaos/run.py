"""A chaos test from end to end: a cloud on a disk of its own, a storm over it for as long as was asked, the figures.

MALLEE_SEED sets the seed, MALLEE_CHAOS_MINUTES how long; without it, it is as short as `make test` wants it.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from common.config import CloudConfig
from tests.chaos.small_disk import SmallDisk, small_disk
from tests.chaos.storm import Engines, Storm, storm_over
from tests.cloud_fixture import RunningCloud, new_home, running

MINUTES = float(os.environ.get("MALLEE_CHAOS_MINUTES") or 0)
TIMEOUT_S = 600 + 120 * MINUTES
# Between two audits.
_EPOCH_S = 90.0


@contextlib.contextmanager
def cloud_on_small_disk(homes: Path, options: Sequence[str]) -> Iterator[tuple[RunningCloud, SmallDisk | None]]:
    """Without root it has no disk of its own."""
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(small_disk(homes)) if os.geteuid() == 0 else None
        cloud = RunningCloud(home=disk.home if disk else new_home(homes), options=list(options))
        stack.enter_context(contextlib.contextmanager(running)(cloud))
        yield cloud, disk


def chaos(
    cloud: RunningCloud,
    disk: SmallDisk | None,
    engines: Callable[[CloudConfig], Engines],
    *,
    faults: int,
    clients: int,
    most_instances: int,
) -> Storm:
    """`faults` of them, or as many as come in the minutes that were asked for."""
    seed = int(os.environ.get("MALLEE_SEED") or random.randrange(1 << 32))
    print(f"MALLEE_SEED={seed}", flush=True)
    storm = storm_over(
        cloud, engines(cloud.config), seed=seed, disk=disk, clients=clients, most_instances=most_instances
    )
    end = time.monotonic() + 60 * MINUTES
    try:
        storm.blow(count=faults)
        while time.monotonic() < end:
            storm.blow(seconds=min(_EPOCH_S, end - time.monotonic()))
            storm.calm()
        storm.calm()
    finally:
        print(f"seed {seed}: {storm}", flush=True)
    return storm
