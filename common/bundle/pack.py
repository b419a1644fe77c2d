"""An image file to the parts of a bundle, and back. Streams: neither the image nor its tar is ever held whole.

Blocking; for a thread or a process of its own.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final, cast

from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from common.bundle.manifest import PART_BYTES, Packed, Part, refused

_CHUNK_BYTES: Final = 1 << 20
# Of a tar beside its one file: headers, a map of holes, blocks of zeros at the end.
_TAR_EXTRA_BYTES: Final = 16 << 20
_ZEROS: Final = bytes(_CHUNK_BYTES)
_FAST: Final = 1


def pack(image: Path, folder: Path, prefix: str, *, key: bytes, iv: bytes, part_bytes: int = PART_BYTES) -> Packed:
    """Writes `<prefix>.part.00` … into the folder."""
    with _Parts(folder, prefix, part_bytes) as parts:
        cipher = _Encrypting(parts, key=key, iv=iv)
        with gzip.GzipFile(
            filename="", fileobj=cast("IO[bytes]", cipher), mode="wb", compresslevel=_FAST, mtime=0
        ) as packed:
            hashed = _Hashing(cast("IO[bytes]", packed))
            with tarfile.open(
                fileobj=cast("IO[bytes]", hashed), mode="w|", format=tarfile.GNU_FORMAT, bufsize=_CHUNK_BYTES
            ) as tar:
                # In pieces of 16 KiB, as it does it of itself, it would take three times as long.
                tar.copybufsize = _CHUNK_BYTES  # type: ignore[attr-defined]
                tar.add(image, arcname=image.name, filter=_anonymous)
        cipher.finish()
    return Packed(
        sha1=hashed.sha1.hexdigest(),
        size=image.stat().st_size,
        bundled_size=sum(size for _, size in parts.made),
        parts=[part for part, _ in parts.made],
    )


def unpack(parts: Sequence[Path], packed: Packed, image: Path, *, key: bytes, iv: bytes) -> None:
    """Writes the image, zeros as holes, and its bytes to the disk.

    Raises InvalidArgument (InvalidManifest) where anything is not as the manifest says; what was written is the
    caller's to remove.
    """
    limit = packed.size + _TAR_EXTRA_BYTES
    source = io.BufferedReader(_Decrypted(_checked(parts, packed), key=key, iv=iv), _CHUNK_BYTES)
    try:
        with gzip.GzipFile(fileobj=source, mode="rb") as plain:
            hashed = _Hashed(cast("IO[bytes]", plain), limit)
            with tarfile.open(fileobj=cast("IO[bytes]", hashed), mode="r|", bufsize=_CHUNK_BYTES) as tar:
                _extract(tar, packed.size, image)
            while hashed.read(_CHUNK_BYTES):
                pass
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise refused(f"its content is no image in a gzipped tar: {error}") from error
    if hashed.sha1.hexdigest() != packed.sha1:
        raise refused("the image's digest is another")


def _extract(tar: tarfile.TarFile, size: int, image: Path) -> None:
    member = tar.next()
    if member is None or not member.isreg() or member.size != size:
        raise refused("it is not one file of the size that it says")
    content = tar.extractfile(member)
    assert content is not None
    with image.open("xb") as file:
        left = size
        while left:
            chunk = content.read(min(left, _CHUNK_BYTES))
            if not chunk:
                raise refused("the image ends early")
            if chunk != _ZEROS[: len(chunk)]:
                file.write(chunk)
            else:
                file.seek(len(chunk), os.SEEK_CUR)
            left -= len(chunk)
        file.truncate(size)
        file.flush()
        os.fsync(file.fileno())
    if tar.next() is not None:
        raise refused("it is more than one file")


def _checked(parts: Sequence[Path], packed: Packed) -> Iterator[bytes]:
    for path, part in zip(parts, packed.parts, strict=True):
        sha1 = hashlib.sha1(usedforsecurity=False)
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                sha1.update(chunk)
                yield chunk
        if sha1.hexdigest() != part.sha1:
            raise refused(f"the digest of {part.filename} is another")


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = "root"
    member.mode = 0o644
    return member


def _aes(key: bytes, iv: bytes) -> Cipher[modes.CBC]:
    return Cipher(algorithms.AES(key), modes.CBC(iv))


class _Parts:
    """Cuts what is written to it."""

    def __init__(self, folder: Path, prefix: str, part_bytes: int) -> None:
        self._folder, self._prefix, self._part_bytes = folder, prefix, part_bytes
        self._file: IO[bytes] | None = None
        self._sha1 = hashlib.sha1(usedforsecurity=False)
        self._size = 0
        self.made: list[tuple[Part, int]] = []

    def __enter__(self) -> _Parts:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def write(self, content: bytes) -> None:
        view = memoryview(content)
        while view:
            if self._file is None:
                self._file = (self._folder / self._name()).open("wb")
            piece = view[: self._part_bytes - self._size]
            self._file.write(piece)
            self._sha1.update(piece)
            self._size += len(piece)
            view = view[len(piece) :]
            if self._size == self._part_bytes:
                self._end()

    def _name(self) -> str:
        return f"{self._prefix}.part.{len(self.made):02}"

    def _end(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            self.made.append((Part(filename=self._name(), sha1=self._sha1.hexdigest()), self._size))
            self._sha1, self._size = hashlib.sha1(usedforsecurity=False), 0


class _Encrypting:
    def __init__(self, sink: _Parts, *, key: bytes, iv: bytes) -> None:
        self._sink = sink
        self._padder = padding.PKCS7(128).padder()
        self._encryptor = _aes(key, iv).encryptor()

    def write(self, content: bytes) -> int:
        self._sink.write(self._encryptor.update(self._padder.update(bytes(content))))
        return len(content)

    def flush(self) -> None:
        """Nothing waits here but an incomplete block."""

    def finish(self) -> None:
        self._sink.write(self._encryptor.update(self._padder.finalize()) + self._encryptor.finalize())


class _Hashing:
    """On the way to `sink`."""

    def __init__(self, sink: IO[bytes]) -> None:
        self._sink = sink
        self.sha1 = hashlib.sha1(usedforsecurity=False)

    def write(self, content: bytes) -> int:
        self.sha1.update(content)
        return self._sink.write(content)


class _Hashed:
    """On the way from `source`, of which more than `limit` bytes are not what was promised."""

    def __init__(self, source: IO[bytes], limit: int) -> None:
        self._source = source
        self._left = limit
        self.sha1 = hashlib.sha1(usedforsecurity=False)

    def read(self, size: int) -> bytes:
        content = self._source.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise refused("it holds more than it says")
        self.sha1.update(content)
        return content


class _Decrypted(io.RawIOBase):
    def __init__(self, chunks: Iterator[bytes], *, key: bytes, iv: bytes) -> None:
        self._chunks = chunks
        self._decryptor = _aes(key, iv).decryptor()
        self._unpadder = padding.PKCS7(128).unpadder()
        self._ready = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        target = memoryview(buffer)  # type: ignore[arg-type]
        while not self._ready and not self._ended:
            self._ready = memoryview(self._next())
        count = min(len(target), len(self._ready))
        target[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _next(self) -> bytes:
        chunk = next(self._chunks, None)
        if chunk is not None:
            return self._unpadder.update(self._decryptor.update(chunk))
        self._ended = True
        try:
            return self._unpadder.update(self._decryptor.finalize()) + self._unpadder.finalize()
        except ValueError as error:
            raise refused("it cannot be decrypted") from error
