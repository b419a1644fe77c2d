"""Pinned images: found out once, kept under their content name while any pin stands, streamed to nodes with a ticket.

`pins/<sha256>` is a hard link to the object's blob where it has one blob, else a file assembled here; of a link the
blob's footer stands behind the image. The pin's row in the index is the truth; files without one are swept at start.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final
from weakref import WeakValueDictionary

from cryptography.hazmat.primitives.asymmetric import rsa

from common import disk_image, qemu_img, ticket
from common.bundle.manifest import Described
from common.errors import Denied, InvalidArgument, NotFound, WrongState
from common.log import get_logger
from common.threads import to_the_end
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import object_pb2
from services.walrus import bucket as bucket_rules
from services.walrus import damage, encryption, errors, plaintext
from services.walrus import image as rules
from services.walrus.bundle import is_manifest, unbundle
from services.walrus.drivers.base import Bucket, Inline, Object, Pin
from services.walrus.drivers.blobs import BlobDamaged, BlobMissing
from services.walrus.drivers.embedded.blobs import fsync_folder
from services.walrus.encryption import Encryption
from services.walrus.get import pieces_of
from services.walrus.plaintext import Piece
from services.walrus.ranges import Span
from services.walrus.store import Store

_CHUNK_BYTES: Final = 1 << 20
_TRIES: Final = 5

_log = get_logger(__name__)


class Images:
    def __init__(
        self,
        store: Store,
        folder: Path,
        *,
        ticket_key: bytes,
        opener: rsa.RSAPrivateKey,
        now_s: Callable[[], float],
    ) -> None:
        self._store = store
        self._folder = folder
        self._ticket_key = ticket_key
        self._opener = opener
        self._now_s = now_s
        # Between a content's file and its rows.
        self._change = asyncio.Lock()
        # By name: who asks once more while the first one is at it gets that one's answer, not what the object is now.
        self._pinning: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def open(self) -> None:
        """Sweeps what a pin that did not come to its end has left."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        pinned = await self._store.index.pinned_contents()
        for path in self._folder.iterdir():
            if path.name not in pinned:
                _remove(path)

    async def pin(
        self,
        image_id: str,
        bucket_name: str,
        key: bytes,
        *,
        wanted: rules.Kind | None,
        certificates: Sequence[bytes],
        caller: Caller | None,
    ) -> tuple[Pin, rules.Kind, Described | None]:
        """And what a bundle says of itself; `certificates` are those that may have signed it.

        Raises NotFound or Denied (InvalidManifest, as RegisterImage says it), InvalidArgument for a bad image.
        """
        known = bucket_rules.caller_or_refuse(caller)
        async with self._alone(pin_name(image_id)):
            return await self._pin(image_id, bucket_name, key, wanted, certificates, known)

    async def _pin(
        self,
        image_id: str,
        bucket_name: str,
        key: bytes,
        wanted: rules.Kind | None,
        certificates: Sequence[bytes],
        known: Caller,
    ) -> tuple[Pin, rules.Kind, Described | None]:
        name, source = pin_name(image_id), f"{bucket_name}/{key.decode('utf-8', 'replace')}"
        if (standing := await self._store.index.find_pin(name)) is not None:
            if (standing.source.partition(" ")[2], standing.account_id) != (source, known.account_id):
                raise WrongState(f"{image_id} is pinned to another image already")
            return standing, rules.Kind(standing.source.partition(" ")[0]), None
        draft = self._folder / f"draft-{secrets.token_hex(8)}"
        try:
            size, described = await self._fetch(bucket_name, key, known, draft, certificates)
            sha256, looks = await self._examine(draft, size, wanted)
            made = Pin(
                image_id=name,
                sha256=sha256,
                size=size,
                format=looks.format,
                virtual_size=looks.virtual_size,
                account_id=known.account_id,
                source=f"{looks.kind.value} {source}",
            )
            async with self._change:
                await to_the_end(lambda: self._settle(draft, sha256))
                await self._store.index.put_pin(made)
        finally:
            draft.unlink(missing_ok=True)
        _log.info("pinned an image", image=image_id, kind=looks.kind.value, format=looks.format, bytes=made.size)
        return made, looks.kind, described

    async def copy(self, source_image_id: str, image_id: str) -> None:
        """Pins the same bytes for another image. Raises NotFound."""
        async with self._change:
            pin = await self._store.index.find_pin(pin_name(source_image_id))
            if pin is None:
                raise _no_pin(source_image_id)
            await self._store.index.put_pin(replace(pin, image_id=pin_name(image_id)))

    async def unpin(self, image_id: str) -> None:
        name = pin_name(image_id)
        async with self._alone(name), self._change:
            pin = await self._store.index.find_pin(name)
            if pin is None:
                return
            await self._store.index.delete_pin(name)
            if pin.sha256 not in await self._store.index.pinned_contents():
                (self._folder / pin.sha256).unlink(missing_ok=True)

    def _alone(self, name: str) -> asyncio.Lock:
        return self._pinning.setdefault(name, asyncio.Lock())

    @asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        """No pin is made or let go meanwhile."""
        async with self._change:
            yield

    def link_all(self, pins: Iterable[Pin], folder: Path) -> list[Pin]:
        """Links to their files in a new folder on the same file system; those that are not there. It blocks."""
        folder.mkdir(mode=0o700)
        lost = []
        for pin in {pin.sha256: pin for pin in pins}.values():
            try:
                os.link(self._folder / pin.sha256, folder / pin.sha256)
            except FileNotFoundError:
                lost.append(pin)
        return lost

    async def fetch(
        self, image_id: str, sha256: str, offset: int, *, proof: bytes, expires_unix_s: int, node: str
    ) -> AsyncGenerator[bytes, None]:
        """Raises Denied (ticket), NotFound (no such pin), InvalidArgument (offset)."""
        good = ticket.verify(
            proof, self._ticket_key, sha256=sha256, image_id=image_id, expires_unix_s=expires_unix_s, node=node
        )
        if not good or expires_unix_s <= self._now_s():
            raise Denied(f"The ticket for {image_id} is not for {node}, or has expired.", code="AccessDenied")
        pin = await self._store.index.find_pin(pin_name(image_id))
        if pin is None or pin.sha256 != sha256:
            raise _no_pin(image_id)
        if offset > pin.size:
            raise InvalidArgument(f"{image_id} has {pin.size} bytes, it cannot be read from {offset}")
        with (self._folder / sha256).open("rb") as file:
            file.seek(offset)
            for position in range(offset, pin.size, _CHUNK_BYTES):
                # Behind an image that is a link stands what the engine keeps with a blob.
                size = min(_CHUNK_BYTES, pin.size - position)
                yield await to_the_end(partial(file.read, size))

    async def _fetch(
        self, bucket_name: str, key: bytes, caller: Caller, draft: Path, certificates: Sequence[bytes]
    ) -> tuple[int, Described | None]:
        """How large the image at the beginning of the draft is, and what its bundle says of it."""
        if not is_manifest(key):
            return await self._export(bucket_name, key, caller, draft), None

        async def export(part: bytes, path: Path) -> None:
            await self._export(bucket_name, part, caller, path, exact=True)

        described = await unbundle(
            self._store,
            key,
            draft,
            export=export,
            opener=self._opener,
            account_id=caller.account_id,
            certificates=certificates,
        )
        return await to_the_end(lambda: draft.stat().st_size), described

    async def _export(self, bucket_name: str, key: bytes, caller: Caller, draft: Path, *, exact: bool = False) -> int:
        """The object's size."""
        with _as_register_image(bucket_name, key):
            # As the caller would read it.
            request = object_pb2.GetObjectRequest(bucket=bucket_name, key=errors.shown(key))
            bucket = await self._store.bucket_for(request, caller)
            for _ in range(_TRIES):
                with self._store.readers.lookup():
                    found = await self._store.index.find_object(bucket, key)
                    self._store.check_object(bucket, request, caller, found if isinstance(found, Object) else None)
                    if not isinstance(found, Object):
                        raise _not_found(bucket_name, key)
                    if await self._copied(bucket, found, draft, exact=exact):
                        return found.size
        raise WrongState(f"{bucket_name}/{key.decode('utf-8', 'replace')} is being replaced all the time")

    async def _copied(self, bucket: Bucket, found: Object, draft: Path, *, exact: bool) -> bool:
        """False: the object was replaced meanwhile."""
        encrypted = self._encryption(bucket, found)
        if isinstance(found.content, Inline):
            with _never_wrong(bucket, found):
                body = plaintext.inline(found.content, encrypted, Span(0, found.size), found.size)
            await to_the_end(lambda: _write_durably(draft, body))
            return True
        pieces = await pieces_of(self._store, found, Span(0, found.size))
        if pieces is None:
            return False
        new_bytes = found.size if exact or encrypted or len(pieces) > 1 else 0
        with (
            self._store.space(new_bytes, await self._store.blobs.free_bytes()),
            self._store.readers.hold(piece.blob for piece in pieces),
        ):
            try:
                with _never_wrong(bucket, found):
                    if encrypted is None:
                        await self._store.blobs.export([piece.blob for piece in pieces], draft, exact=exact)
                    else:
                        await self._decrypt(pieces, encrypted, draft)
            except BlobMissing:
                return False
        return True

    def _encryption(self, bucket: Bucket, found: Object) -> Encryption | None:
        """Raises InvalidArgument (InvalidManifest) if only its client can read it."""
        if encryption.is_by_client(found.encryption):
            raise InvalidArgument(
                f"{bucket.name}/{errors.shown(found.key)} is encrypted with a key that only its owner has (SSE-C): "
                "copy it to an object without one.",
                code="InvalidManifest",
            )
        return encryption.of_found(self._store, object_pb2.GetObjectRequest(), found.encryption)

    async def _decrypt(self, pieces: Sequence[Piece], encrypted: Encryption, draft: Path) -> None:
        """A file of its own, durable."""
        with draft.open("wb") as file:
            for piece in pieces:
                async with aclosing(plaintext.read(self._store, piece, encrypted)) as chunks:
                    async for chunk in chunks:
                        await to_the_end(partial(file.write, chunk))
            await to_the_end(partial(_settle_file, file))

    async def _examine(self, draft: Path, size: int, wanted: rules.Kind | None) -> tuple[str, rules.Looks]:
        """What is read here is what the pin keeps: nobody writes to the draft any more."""
        head = await to_the_end(lambda: _head(draft, size))
        looks = rules.looks(head, size, wanted)
        if looks.format == "qcow2":
            await qemu_img.confirm(draft, looks.format, looks.virtual_size)
        return await to_the_end(lambda: _sha256(draft, size)), looks

    def _settle(self, draft: Path, sha256: str) -> None:
        os.rename(draft, self._folder / sha256)
        fsync_folder(self._folder)


def pin_name(image_id: str) -> str:
    """The digits alone: an image is pinned before its content says whether it is an ami-, aki- or ari-."""
    return image_id.rpartition("-")[2]


@contextmanager
def _as_register_image(bucket: str, key: bytes) -> Iterator[None]:
    """EC2 has one code for an image location that leads nowhere."""
    try:
        yield
    except NotFound as error:
        raise _not_found(bucket, key) from error
    except Denied as error:
        raise Denied(
            f"HTTP 403 (Forbidden) response for {bucket}/{key.decode('utf-8', 'replace')}: it must be your own bucket.",
            code="InvalidManifest",
        ) from error


@contextmanager
def _never_wrong(bucket: Bucket, found: Object) -> Iterator[None]:
    try:
        yield
    except BlobDamaged as error:
        raise damage.found(bucket, found.key, found.version_id, error) from error


def _no_pin(image_id: str) -> NotFound:
    return NotFound(f"The image id '[{image_id}]' does not exist", code="InvalidAMIID.NotFound")


def _not_found(bucket: str, key: bytes) -> NotFound:
    return NotFound(
        f"HTTP 404 (Not Found) response for {bucket}/{key.decode('utf-8', 'replace')}: check that ImageLocation is "
        "BUCKET/KEY of an object that you have uploaded.",
        code="InvalidManifest",
    )


def _write_durably(path: Path, body: bytes) -> None:
    with path.open("xb") as file:
        file.write(body)
        _settle_file(file)


def _settle_file(file: BinaryIO) -> None:
    file.flush()
    os.fchmod(file.fileno(), 0o644)
    os.fsync(file.fileno())


def _head(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        return file.read(min(disk_image.HEADER_BYTES, size))


def _sha256(path: Path, size: int) -> str:
    """Of the first so many bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while size and (chunk := file.read(min(_CHUNK_BYTES, size))):
            digest.update(chunk)
            size -= len(chunk)
    return digest.hexdigest()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
