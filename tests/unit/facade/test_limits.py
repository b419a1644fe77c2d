"""What a process may cost that is one of several."""

from __future__ import annotations

import dataclasses

import pytest

from common.config_values import MOST_PROCESSES
from ec2_facade.errors import Refused
from ec2_facade.limits import Limits, Transfers


@pytest.mark.parametrize("processes", range(1, MOST_PROCESSES + 1))
def test_processes_share_a_hosts_memory_and_each_has_room_for_any_body(processes: int) -> None:
    whole = Limits()
    part = whole.of_one_among(processes)
    assert part.held_bytes * processes <= whole.held_bytes
    assert part.transfers * processes <= whole.transfers
    assert min(part.held_bytes, part.strangers_held_bytes) >= max(whole.xml_bytes, whole.form_bytes)
    shared = {"held_bytes", "strangers_held_bytes", "transfers"}
    kept = {name: value for name, value in dataclasses.asdict(part).items() if name not in shared}
    assert kept.items() <= dataclasses.asdict(whole).items()


def test_transfers_are_so_many_at_a_time() -> None:
    transfers = Transfers(2)
    with transfers:
        with transfers, pytest.raises(Refused) as caught, transfers:
            pass
        assert caught.value.code == "SlowDown"
        with transfers:
            pass
