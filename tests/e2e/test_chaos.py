"""What was promised holds, whatever happens to a cloud with real machines, seen by virsh, ip, nft and etcd3.

MALLEE_SEED and MALLEE_CHAOS_MINUTES make it another or a longer one (`make chaos`).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.real_engines import RealEngines
from tests.chaos.run import TIMEOUT_S, chaos, cloud_on_small_disk
from tests.cloud_fixture import free_ranges
from tests.ports import free_port_base

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(TIMEOUT_S)]

HOMES = Path("/var/lib/mallee-test-chaos")


def test_nothing_is_lost_on_real_machines() -> None:
    options = ["--nodes", "2", "--no-image", "--port-base", str(free_port_base()), *free_ranges()]
    with cloud_on_small_disk(HOMES, options) as (cloud, disk):
        chaos(cloud, disk, RealEngines, faults=4, clients=2, most_instances=2)
