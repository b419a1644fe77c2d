"""One laboratory for a whole module of tests, cleared of guests after each."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from common.ids import VpcId
from tests.contract import netlab
from tests.contract.netlab import Guest, Lab, group, rule

OPEN = "sg-0000000000000000a"
ALL = {OPEN: group(OPEN, rule("-1"))}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole_lab() -> AsyncIterator[Lab]:
    async with netlab.laboratory() as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def lab(whole_lab: Lab) -> AsyncIterator[Lab]:
    yield whole_lab
    await whole_lab.clear()


async def opened(lab: Lab, vpc: VpcId, *nodes: int) -> list[Guest]:
    """Guests on these nodes with private and public addresses that let everything in."""
    guests = [
        await lab.guest(vpc, f"172.31.0.{10 + n}", node=node, public="new", groups=(OPEN,))
        for n, node in enumerate(nodes)
    ]
    await lab.apply(lab.plan(vpc, 1, ALL))
    return guests
