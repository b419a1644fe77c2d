"""A program that reads hostile bytes may be made to say anything, and as much of it as it likes."""

from __future__ import annotations

import resource

import pytest

from common.confined import Limits, Refused, run_confined

_LIMITS = Limits(cpu_s=10, wall_s=30.0)
_MOST_KIB = 64 << 10


async def test_what_it_says_is_told() -> None:
    assert await run_confined(["sh", "-c", "echo yes; echo no >&2"], _LIMITS, pass_fds=()) == b"yes\n"
    with pytest.raises(Refused, match=r"^the last word$"):
        await run_confined(["sh", "-c", "echo first >&2; echo the last word >&2; exit 1"], _LIMITS, pass_fds=())


@pytest.mark.parametrize("stream", [1, 2])
async def test_however_much_it_says_takes_no_memory(stream: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Refused):
        await run_confined(["sh", "-c", f"yes | head -c 500000000 >&{stream}; exit 1"], _LIMITS, pass_fds=())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + _MOST_KIB


async def test_an_answer_that_is_too_long_is_none() -> None:
    with pytest.raises(Refused, match="more to say"):
        await run_confined(["sh", "-c", "yes | head -c 2000000"], _LIMITS, pass_fds=())
