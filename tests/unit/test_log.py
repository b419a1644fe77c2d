"""A process and the pipe that its log goes into."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from common import log
from tests.eventually import eventually

LINE = "x" * 9000 + "\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def drain(reader: int) -> str:
    taken = b""
    while True:
        try:
            taken += os.read(reader, 1 << 20)
        except BlockingIOError:
            return taken.decode()


@pytest.mark.timeout(20)
def test_a_log_that_nobody_takes_holds_nobody_up_and_tells_afterwards_what_is_missing(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    stream = log._Unblocked(writer)
    for _ in range(100):
        stream.write(LINE)
    whole = drain(reader).count(LINE)
    assert 0 < whole < 100
    stream.write("again\n")
    told, last = filter(None, drain(reader).splitlines())
    assert json.loads(told) == {"event": "lines were lost", "lines": 100 - whole}
    assert last == "again"


def test_lines_of_one_turn_of_the_loop_go_out_together_and_in_order(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    stream = log._Unblocked(writer)
    lines = [f"{number} {'é' * 500}\n" for number in range(20)]

    async def work() -> str:
        for line in lines:
            stream.write(line)
        meanwhile = drain(reader)
        await asyncio.sleep(0)
        return meanwhile

    assert asyncio.run(work()) == ""
    assert drain(reader) == "".join(lines)
    # Without a loop nobody would send it later; in the next one it is sent again.
    stream.write("alone\n")
    assert drain(reader) == "alone\n"
    assert asyncio.run(work()) == ""
    assert drain(reader) == "".join(lines)


def test_lines_that_gather_go_out_in_a_moment_or_before_one_that_does_not_wait(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    stream = log._Unblocked(writer)

    async def work() -> str:
        stream.gather(b"one\n")
        await asyncio.sleep(0)
        assert drain(reader) == ""
        stream.gather(b"two\n")
        stream.write("three\n")
        await asyncio.sleep(0)
        taken = drain(reader)
        stream.gather(b"four\n")
        await eventually(lambda: stream._waiting == [])
        return taken + drain(reader)

    assert asyncio.run(work()) == "one\ntwo\nthree\nfour\n"


def test_many_lines_that_gather_do_not_wait(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    stream = log._Unblocked(writer)

    async def work() -> str:
        for _ in range(200):
            stream.gather(b"x" * 99 + b"\n")
        await asyncio.sleep(0)
        return drain(reader)

    assert len(asyncio.run(work())) == 200 * 100


@pytest.mark.timeout(20)
def test_lines_that_gather_hold_nobody_up_however_full_the_pipe_is(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    stream = log._Unblocked(writer)
    # Without a loop each goes out by itself: the first into an empty pipe, at once.
    for _ in range(10):
        stream.gather(b"x" * 39_999 + b"\n")
    kept = drain(reader)
    assert kept.startswith("x" * 39_999 + "\n")
    assert len(kept) < 10 * 40_000


@dataclass
class _Secretive:
    secret: str = field(default="password", repr=False)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("é\ud800", "é\ud800"),
        (1 << 70, 1 << 70),
        ({1: "one"}, {"1": "one"}),
        (b"bytes", "b'bytes'"),
        (_Secretive(), "_Secretive()"),
    ],
)
def test_a_line_can_tell_of_anything(value: object, shown: object) -> None:
    assert json.loads(log._encode({"value": value})) == {"value": shown}
