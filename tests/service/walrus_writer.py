"""A process that writes to a store as fast as it can and says what it does, until it is killed.

python -m tests.service.walrus_writer ROOT SEED

It prints JSON lines: {"event": "begun" or "done", "key":, "md5": of the body, null for a deletion}.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import sys
from pathlib import Path

from mallee.s3.v1 import object_pb2
from services.walrus import delete
from services.walrus.reclaim import Reclaimer
from services.walrus.store import Store
from tests.walrus_store import ALICE, begin_upload, complete, make_bucket, opened_store, put_bytes, upload_part

_WRITERS = 8
_KEYS = 5


def _say(event: str, key: str, body: bytes | None) -> None:
    md5 = hashlib.md5(body).hexdigest() if body is not None else None
    sys.stdout.write(json.dumps({"event": event, "key": key, "md5": md5}) + "\n")
    sys.stdout.flush()


async def _write(store: Store, writer: int, chance: random.Random) -> None:
    """Each writer has its own keys, so that its last word on a key is what must be there."""
    while True:
        key = f"{writer}/{chance.randrange(_KEYS)}"
        body = chance.randbytes(chance.choice((10, 60, 500, 70_000)))
        match chance.randrange(6):
            case 0:
                _say("begun", key, None)
                await delete.delete_object(store, object_pb2.DeleteObjectRequest(bucket="bucket", key=key), ALICE)
                _say("done", key, None)
            case 1:
                pieces = (body + bytes(100), b"end")
                _say("begun", key, b"".join(pieces))
                upload_id = await begin_upload(store, key)
                etags = {n: await upload_part(store, key, upload_id, n, piece) for n, piece in enumerate(pieces, 1)}
                await complete(store, key, upload_id, etags)
                _say("done", key, b"".join(pieces))
            case _:
                _say("begun", key, body)
                await put_bytes(store, key, body)
                _say("done", key, body)


async def main() -> None:
    chance = random.Random(int(sys.argv[2]))
    async with opened_store(Path(sys.argv[1])) as store, asyncio.TaskGroup() as tasks:
        reclaimer = Reclaimer(store, pause_s=0)
        store.reclaim = reclaimer.nudge
        await make_bucket(store)
        tasks.create_task(reclaimer.run())
        for writer in range(_WRITERS):
            tasks.create_task(_write(store, writer, random.Random(chance.random())))


if __name__ == "__main__":
    asyncio.run(main())
