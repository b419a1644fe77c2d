"""A disk image that a node sends, made a bundle in the bucket that its ticket names. The cloud itself signs it."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from common import ticket
from common.bundle import manifest as manifests
from common.bundle.manifest import Described
from common.bundle.pack import pack
from common.errors import Denied, InvalidArgument, NotFound
from common.threads import to_the_end
from mallee.common.v1.caller_pb2 import Caller
from mallee.nc.v1 import instance_pb2 as nc
from mallee.s3.v1 import body_pb2, object_pb2
from mallee.walrus.v1 import service_pb2
from services.walrus import delete, put
from services.walrus import object as object_rules
from services.walrus.bundle import SUFFIX
from services.walrus.store import Store

_CHUNK_BYTES: Final = 1 << 20
_AES_BYTES: Final = 16
_MAX_CHUNK_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundles:
    store: Store
    # For images on their way: on the same file system as the store.
    folder: Path
    ticket_key: bytes
    certificate: x509.Certificate
    key: rsa.RSAPrivateKey

    async def make(self, messages: AsyncIterator[service_pb2.BundleImageRequest], *, node: str, now_s: float) -> str:
        """The manifest's key. Raises Denied, InvalidArgument, NotFound, NoCapacity."""
        first = await anext(messages, None)
        if first is None or not first.order.bucket:
            raise InvalidArgument("The stream does not begin with its order.")
        order = first.order
        self._check_ticket(order, node=node, now_s=now_s)
        await self.store.own_bucket(order.bucket, Caller(account_id=order.account_id))
        name = f"bundling-{secrets.token_hex(8)}"
        image = self.folder / name
        parts = self.folder / f"{name}-parts"
        try:
            # The image and its parts at the same time, at most.
            with self.store.space(2 * first.size_bytes, await self.store.blobs.free_bytes()):
                await self._receive(first, messages, image)
                return await self._store(order, image, parts)
        finally:
            image.unlink(missing_ok=True)
            if parts.exists():
                await self.store.in_thread(shutil.rmtree, parts)

    def _check_ticket(self, order: nc.BundleOrder, *, node: str, now_s: float) -> None:
        wide = ticket.mint_bundle(
            self.ticket_key,
            account_id=order.account_id,
            bucket=order.bucket,
            prefix=order.prefix,
            expires_unix_s=order.ticket_expires.seconds,
        )
        good = ticket.same(order.ticket, ticket.narrow(wide, node=node))
        if not good or order.ticket_expires.seconds <= now_s:
            raise Denied(f"The ticket for {order.bundle_id} is not for {node}, or has expired.", code="AccessDenied")

    async def _receive(
        self, first: service_pb2.BundleImageRequest, messages: AsyncIterator[service_pb2.BundleImageRequest], path: Path
    ) -> None:
        written, message = 0, first
        with path.open("xb") as file:
            while True:
                if len(message.chunk) > _MAX_CHUNK_BYTES:
                    raise InvalidArgument("The image's chunk is too large.")
                if message.chunk:
                    await self.store.in_thread(file.write, message.chunk)
                if message.hole_bytes:
                    file.seek(message.hole_bytes, os.SEEK_CUR)
                written += len(message.chunk) + message.hole_bytes
                if written > first.size_bytes or (message.complete and written != first.size_bytes):
                    raise InvalidArgument("The image is not as large as it was said to be.")
                if message.complete:
                    file.truncate(written)
                    return
                following = await anext(messages, None)
                if following is None:
                    raise InvalidArgument("The image's stream ends early.")
                message = following

    async def _store(self, order: nc.BundleOrder, image: Path, folder: Path) -> str:
        caller = Caller(account_id=order.account_id)
        key, iv = secrets.token_bytes(_AES_BYTES), secrets.token_bytes(_AES_BYTES)
        name = order.prefix.rpartition("/")[2] or order.bundle_id
        above = order.prefix.removesuffix(order.prefix.rpartition("/")[2])

        def work() -> tuple[bytes, list[Path]]:
            folder.mkdir(mode=0o700)
            packed = pack(image, folder, name, key=key, iv=iv)
            described = Described(
                name=name,
                account_id=order.account_id,
                architecture=order.architecture or "x86_64",
                kernel_id=order.kernel_id,
                ramdisk_id=order.ramdisk_id,
                devices={"ami": "sda1", "root": "/dev/sda1"},
            )
            text = manifests.render(
                described, packed, key=key, iv=iv, cloud=self.certificate, user=self.certificate, signer=self.key
            )
            return text, [folder / part.filename for part in packed.parts]

        # Minutes: a thread of the digests is none to take.
        text, parts = await to_the_end(work)
        manifest = folder / f"{name}{SUFFIX.decode()}"
        manifest.write_bytes(text)
        stored: list[str] = []
        async with AsyncExitStack() as unless_all:
            unless_all.push_async_callback(lambda: asyncio.shield(self._take_back(caller, order.bucket, stored)))
            # The manifest last: it says that all is there.
            for path in (*parts, manifest):
                await self._put(caller, order.bucket, f"{above}{path.name}", path)
                stored.append(f"{above}{path.name}")
            unless_all.pop_all()
        return stored[-1]

    async def _put(self, caller: Caller, bucket: str, key: str, path: Path) -> None:
        async def stream() -> AsyncIterator[object_pb2.PutObjectStream]:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                header = object_pb2.PutObjectRequest(bucket=bucket, key=key, content_length=size)
                yield object_pb2.PutObjectStream(header=header)
                while chunk := await self.store.in_thread(file.read, _CHUNK_BYTES):
                    yield object_pb2.PutObjectStream(chunk=chunk)
            yield object_pb2.PutObjectStream(end=body_pb2.BodyEnd())

        await put.put_object(self.store, stream(), caller, most_bytes=object_rules.OBJECT_BYTES)

    async def _take_back(self, caller: Caller, bucket: str, keys: list[str]) -> None:
        for key in keys:
            with suppress(NotFound, Denied):
                await delete.delete_object(self.store, object_pb2.DeleteObjectRequest(bucket=bucket, key=key), caller)
