"""What a process may cost that is one of several."""

from __future__ import annotations

import dataclasses
import tracemalloc

import pytest

from common.config_values import MOST_PROCESSES
from common.shards import shard_of
from ec2_facade.auth.canonical import ALGORITHM
from ec2_facade.auth.claim import parse_timestamp, read_claim
from ec2_facade.errors import Refused
from ec2_facade.limits import Limits, Transfers
from ec2_facade.protocol import RestXmlProtocol
from ec2_facade.wire import WireRequest


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


def _authorization(number: int) -> WireRequest:
    names = ";".join(sorted({f"n{number}", *(f"a{one:04d}" for one in range(2000))}))
    credential = f"{'A' * 9000}{number}/20260101/us-east-1/s3/aws4_request"
    header = f"{ALGORITHM} Credential={credential}, SignedHeaders={names}, Signature={'0' * 64}"
    headers = (("authorization", header), ("x-amz-date", "20260101T000000Z"))
    return WireRequest(method="GET", raw_path="/", raw_query="", headers=headers)


def test_nothing_stays_in_memory_of_what_strangers_send() -> None:
    s3 = RestXmlProtocol("s3")

    def hear(number: int) -> None:
        long = f"{'x' * 9000}{number}"
        assert read_claim(_authorization(number), must_expire=True)
        parse_timestamp(long)
        s3.route("GET", "b", None, {"list-type": long}, {})
        shard_of(long, 4)

    hear(-1)
    tracemalloc.start()
    try:
        for number in range(20):
            hear(number)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 20 * 9000
