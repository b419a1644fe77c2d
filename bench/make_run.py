"""How long `make run` takes: everything installed, to ready, under 20 s; from nothing, in a fresh Debian root, under
4 minutes with the guest image built, uploaded and registered.

python -m bench.make_run     (as root)
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Final

from bench.figures import report
from tests.cloud_fixture import RunningCloud, free_ranges, new_home
from tests.e2e.fresh_debian import fresh_debian
from tests.ports import free_port_base

INSTALLED_GOAL_S: Final = 20.0
NOTHING_GOAL_S: Final = 240.0


def installed_s() -> tuple[float, float]:
    """(a cloud that is made, the same cloud started again), without and with its image there."""
    options = ["--port-base", str(free_port_base()), *free_ranges()]
    cloud = RunningCloud(home=new_home(Path("/var/lib/mallee-bench")), options=options)
    try:
        first = _timed(cloud)
        cloud.down()
        return first, _timed(cloud)
    finally:
        cloud.destroy()


def _timed(cloud: RunningCloud) -> float:
    begin = time.perf_counter()
    cloud.up()
    return time.perf_counter() - begin


def nothing_s() -> float:
    base, ranges = free_port_base(), " ".join(free_ranges())
    with fresh_debian() as debian:
        debian.run("apt-get -q update && apt-get -qy install --no-install-recommends make")
        begin = time.perf_counter()
        debian.run(f"""
trap 'mallee destroy --yes' EXIT
cd /root/mallee && make run UP="--port-base {base} {ranges}" && date +%s.%N >/ready
""")
        ready = float((debian.root / "ready").read_text())
        return ready - (time.time() - (time.perf_counter() - begin))


def main() -> int:
    if os.geteuid() != 0:
        print("needs root", file=sys.stderr)
        return 2
    first, again = installed_s()
    met = [
        report("make run, everything installed, a new cloud", first, "s", most=INSTALLED_GOAL_S),
        report("make run, everything installed, the cloud again", again, "s", most=INSTALLED_GOAL_S),
        report("make run, from nothing", nothing_s(), "s", most=NOTHING_GOAL_S),
    ]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
