"""A process that uploads one snapshot and says how far it is, until it is killed.

python -m tests.service.snapshot_writer PORT CERTIFICATES FOLDER SNAPSHOT SEED BLOCKS
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from common.blocks import BLOCK_BYTES
from common.ids import AccountId, SnapshotId
from common.pki import Identity
from common.rpc.channel import connect
from mallee.walrus.v1.service_pb2_grpc import WalrusServiceStub
from services.sc.clients import Progress, Upload
from services.sc.drivers.base import Extent
from services.sc.upload import WalrusUploader


class Body:
    """drivers/base.py Frozen of random bytes."""

    def __init__(self, seed: int, blocks: int) -> None:
        self.size_bytes = blocks * BLOCK_BYTES
        self._seed = seed

    async def changed(self) -> Sequence[Extent]:
        return [Extent(start=0, length=self.size_bytes)]

    async def read(self, extent: Extent) -> bytes:
        first = extent.start // BLOCK_BYTES
        return b"".join(self.block(first + n) for n in range(extent.length // BLOCK_BYTES))

    def block(self, index: int) -> bytes:
        return random.Random(self._seed * 1_000_000 + index).randbytes(BLOCK_BYTES)


async def main() -> None:
    port, certificates, folder, snapshot_id, seed, blocks = sys.argv[1:]
    async with connect(f"127.0.0.1:{port}", Identity.load(Path(certificates), "sc-a"), "walrus-1") as channel:
        walrus = WalrusServiceStub(channel)
        upload = Upload(
            snapshot_id=SnapshotId(snapshot_id),
            account_id=AccountId("1" * 12),
            base=None,
            content=Body(int(seed), int(blocks)),
            notes=Path(folder),
        )
        done = await WalrusUploader(lambda: walrus).upload(upload, say)
        print(f"sealed {done.progress.sent_bytes}", flush=True)


def say(progress: Progress) -> None:
    print(f"looked {progress.looked_at_bytes}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
