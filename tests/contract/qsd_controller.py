"""A controller that never rests, to be killed: `python -m tests.contract.qsd_controller FOLDER SOCKETS PKI`.

Makes, exports, freezes, releases, grows, fences and removes one volume, over and over; says "on" when it has begun.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from common.blocks import BLOCK_BYTES
from common.errors import WrongState
from common.ids import SnapshotId, VolumeId
from common.pki import Identity
from services.sc.drivers.base import ExportGrant, Limits, Volume
from services.sc.drivers.qsd.driver import QsdVolumes

VOLUME = VolumeId("vol-0123456789abcdef0")
POINTS = [SnapshotId(f"snap-0123456789abcdef{n}") for n in range(2)]
NODE = "nc-us-east-1a-1"
SIZE = 4 * BLOCK_BYTES


def driver_at(folder: Path, sockets: Path, pki: Path) -> QsdVolumes:
    return QsdVolumes(
        folder=folder,
        sockets=sockets,
        address="127.0.0.1",
        identity=Identity.load(pki, "sc-us-east-1a"),
        reserve_bytes=0,
    )


async def work(driver: QsdVolumes) -> None:
    generation = 0
    while True:
        generation += 1
        grant = ExportGrant(generation=generation, node=NODE, local=bool(generation % 2))
        await driver.create(Volume(volume_id=VOLUME, size_bytes=SIZE, limits=Limits()))
        await driver.export(VOLUME, grant)
        for point in POINTS:
            await driver.freeze({point: VOLUME})
        async with driver.frozen(POINTS[1], base=POINTS[0]) as frozen:
            await frozen.changed()
        for point in POINTS:
            await driver.release(point, keep_as_base=True)
        await driver.limit(VOLUME, Limits(iops=1000))
        await driver.resize(VOLUME, 2 * SIZE)
        await driver.unexport(VOLUME)
        await driver.remove(VOLUME)


async def main() -> None:
    driver = driver_at(*map(Path, sys.argv[1:4]))
    await driver.open()
    for point in POINTS:
        await driver.release(point, keep_as_base=False)
    try:
        await driver.unexport(VOLUME)
        await driver.remove(VOLUME)
    except WrongState as error:
        raise SystemExit(f"what was killed cannot be cleared: {error}") from error
    print("on", flush=True)
    await work(driver)


if __name__ == "__main__":
    asyncio.run(main())
