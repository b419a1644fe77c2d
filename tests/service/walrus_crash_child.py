"""A process that does what it is told to a store until it is ended between two system calls, again and again.

LD_PRELOAD=crash_calls.so python -m tests.service.walrus_crash_child

It reads JSON lines {"root":, "calls": before which it ends, "from": "open" or "changes", "changes": as crash_model.py
has them}, and answers each with {"done": changes that were acknowledged, "killed": bool}. Each is done by a fork of
its own, so that nothing has to be imported again.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from common.errors import NotFound
from mallee.s3.v1 import copy_pb2, multipart_pb2, object_pb2, versioning_pb2
from services.walrus import copy, delete, multipart, settings
from services.walrus.backup import Backups
from services.walrus.drivers.base import BlobId, Scan
from services.walrus.drivers.embedded.blobs import FileBlobs
from services.walrus.images import Images
from services.walrus.reclaim import Reclaimer
from services.walrus.store import Store
from services.walrus.versioning import shown
from tests.service.crash_model import Change, body_of
from tests.walrus_store import ALICE, begin_upload, complete, make_bucket, opened_store, put_bytes, upload_part

_preloaded = ctypes.CDLL(None)


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        told, says = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(told)
            # What is logged is no answer.
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
            asyncio.run(_obey(order, says))
            os._exit(0)
        os.close(says)
        with os.fdopen(told, "rb") as file:
            done = len(file.read())
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if not killed and status:
            raise SystemExit(f"{order} ended with status {status}")
        print(json.dumps({"done": done, "killed": killed}), flush=True)


async def _obey(order: dict[str, Any], says: int) -> None:
    if order["from"] == "open":
        _preloaded.crash_after(ctypes.c_long(order["calls"]))
    async with opened_store(Path(order["root"])) as store:
        await make_bucket(store)
        if order["from"] == "changes":
            _preloaded.crash_after(ctypes.c_long(order["calls"]))
        for change in order["changes"]:
            await _change(store, change)
            os.write(says, b".")


async def _change(store: Store, change: Change) -> None:
    match change:
        case ["put", key, size, fill]:
            await put_bytes(store, key, body_of(size, fill), **_encryption(fill))
        case ["upload", key, sizes, fill, end]:
            upload_id = await begin_upload(store, key, **_encryption(fill))
            await _upload(store, key, upload_id, [body_of(size, fill) for size in sizes], end)
        case ["copy", source, key]:
            await _copy(store, source, key)
        case ["delete", key]:
            await delete.delete_object(store, object_pb2.DeleteObjectRequest(bucket="bucket", key=key), ALICE)
        case ["remove", key, place]:
            await _remove(store, key, place)
        case ["versioning", status]:
            request = versioning_pb2.PutBucketVersioningRequest(bucket="bucket")
            request.versioning_configuration.status = status
            await settings.put_bucket_versioning(store, request, ALICE)
        case ["backup", folder]:
            await _backup(store, Path(folder))
        case ["reclaim"]:
            reclaimer = Reclaimer(store)
            await reclaimer.sweep_orphans()
            await reclaimer.collect()
        case _:
            raise AssertionError(change)


async def _copy(store: Store, source: str, key: str) -> None:
    if source == key:
        return
    request = copy_pb2.CopyObjectRequest(bucket="bucket", key=key, copy_source=f"bucket/{source}")
    with suppress(NotFound):
        await copy.copy_object(store, request, ALICE)


async def _backup(store: Store, folder: Path) -> None:
    assert isinstance(store.blobs, FileBlobs)
    root = store.blobs.staging_path(BlobId.new()).parents[1]
    (root / "pins").mkdir(exist_ok=True)
    opener = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    images = Images(store, root / "pins", ticket_key=b"", opener=opener, now_s=time.time)
    backups = Backups(store=store, images=images, staging=root / "staging", member="walrus-1")
    async for _ in backups.make(folder):
        pass


def _encryption(fill: int) -> dict[str, Any]:
    """Half of the objects are encrypted."""
    return {"server_side_encryption": "AES256"} if fill % 2 else {}


async def _upload(store: Store, key: str, upload_id: str, bodies: list[bytes], end: str) -> None:
    etags = {n: await upload_part(store, key, upload_id, n, body) for n, body in enumerate(bodies, 1)}
    if end == "complete":
        await complete(store, key, upload_id, etags)
    if end == "abort":
        request = multipart_pb2.AbortMultipartUploadRequest(bucket="bucket", key=key, upload_id=upload_id)
        await multipart.abort_upload(store, request, ALICE)


async def _remove(store: Store, key: str, place: int) -> None:
    """That version of the key, counted around from the newest on."""
    bucket = await store.index.find_bucket("bucket")
    assert bucket is not None
    page = await store.index.list_versions(bucket, Scan(prefix=key.encode()))
    versions = [one for one in page.entries if not isinstance(one, bytes) and one.key == key.encode()]
    if not versions:
        return
    version_id = shown(versions[place % len(versions)].version_id)
    request = object_pb2.DeleteObjectRequest(bucket="bucket", key=key, version_id=version_id)
    await delete.delete_object(store, request, ALICE)


if __name__ == "__main__":
    main()
