"""Objects of users' buckets as files here, and back: what imports read and exports write."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from common.errors import Unavailable
from common.ids import AccountId
from common.rpc.errors import cloud_errors
from mallee.walrus.v1 import service_pb2

if TYPE_CHECKING:
    from mallee.walrus.v1.service_pb2_grpc import WalrusServiceAsyncStub

_CHUNK_BYTES: Final = 1 << 20

Tell = Callable[[int, int], None]


class WalrusObjects:
    """clients.py Objects. `walrus` gives the stub to use now for a bucket, or raises Unavailable."""

    def __init__(self, walrus: Callable[[str], WalrusServiceAsyncStub]) -> None:
        self._walrus = walrus

    async def fetch(self, account_id: AccountId, bucket: str, key: bytes, into: Path, tell: Tell) -> None:
        """Beside it, `<into>.etag` says of which object the bytes are."""
        here, known = await asyncio.to_thread(_begun, into)
        request = service_pb2.FetchObjectRequest(account_id=account_id, bucket=bucket, key=key, offset=here)
        answers = self._walrus(bucket).FetchObject(request)
        try:
            with cloud_errors():
                first = await anext(aiter(answers))
                if known != first.etag:
                    await asyncio.to_thread(_begin, into, first.etag)
                    if here:
                        raise Unavailable(f"{bucket}/{key.decode(errors='replace')} was replaced while it was read")
                with into.open("ab") as file:
                    async for answer in answers:
                        await asyncio.to_thread(file.write, answer.chunk)
                        here += len(answer.chunk)
                        tell(here, first.size_bytes)
        finally:
            answers.cancel()
        if here != first.size_bytes:
            raise Unavailable(f"{bucket}/{key.decode(errors='replace')} ended at byte {here} of {first.size_bytes}")

    async def store(self, account_id: AccountId, bucket: str, key: bytes, source: Path, tell: Tell) -> None:
        with source.open("rb") as file:
            header = service_pb2.StoreObjectRequest(
                account_id=account_id, bucket=bucket, key=key, size_bytes=os.fstat(file.fileno()).st_size
            )
            with cloud_errors():
                await self._walrus(bucket).StoreObject(_messages(header, file, tell))


def _etag_path(into: Path) -> Path:
    return into.with_name(f"{into.name}.etag")


def _begun(into: Path) -> tuple[int, str]:
    """How much is here, and of which object; 0 and nothing where that is not known."""
    try:
        return into.stat().st_size, _etag_path(into).read_text()
    except FileNotFoundError:
        return 0, ""


def _begin(into: Path, etag: str) -> None:
    # What is here is emptied before it is said to be of the other object.
    into.write_bytes(b"")
    _etag_path(into).write_text(etag)


async def _messages(
    header: service_pb2.StoreObjectRequest, file: BinaryIO, tell: Tell
) -> AsyncIterator[service_pb2.StoreObjectRequest]:
    yield header
    sent = 0
    while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
        yield service_pb2.StoreObjectRequest(chunk=chunk)
        sent += len(chunk)
        tell(sent, header.size_bytes)
    yield service_pb2.StoreObjectRequest(complete=True)
