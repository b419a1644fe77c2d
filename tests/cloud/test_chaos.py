"""What was promised holds, whatever happens to a cloud: many clients and faults in little time, on fake engines.

MALLEE_SEED and MALLEE_CHAOS_MINUTES make it another or a longer one (`make chaos`).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.chaos.fake_engines import FakeEngines
from tests.chaos.run import TIMEOUT_S, chaos, cloud_on_small_disk
from tests.ports import free_port_base

pytestmark = pytest.mark.timeout(TIMEOUT_S)

HOMES = Path(tempfile.gettempdir()) / "mallee-test-chaos-fake"


def test_nothing_is_lost_on_many_pretended_machines() -> None:
    options = ["--hypervisor", "fake", "--nodes", "2", "--no-image", "--port-base", str(free_port_base())]
    with cloud_on_small_disk(HOMES, options) as (cloud, disk):
        chaos(cloud, disk, FakeEngines, faults=4, clients=3, most_instances=2)
