"""Bundles in a bucket: a manifest and its parts beside it, put together as the image that they are."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from common.bundle import manifest as manifests
from common.bundle.manifest import Described, Manifest
from common.bundle.pack import unpack
from common.threads import to_the_end
from services.walrus.store import Store

SUFFIX: Final = b".manifest.xml"

# Makes a file of the object of this key, as the caller may read it.
Export = Callable[[bytes, Path], Awaitable[None]]


def is_manifest(key: bytes) -> bool:
    """As EC2 tells a bundle by its location."""
    return key.endswith(SUFFIX)


async def unbundle(
    store: Store,
    key: bytes,
    image: Path,
    *,
    export: Export,
    opener: rsa.RSAPrivateKey,
    account_id: str,
    certificates: Sequence[bytes],
) -> Described:
    """Verified, decrypted and put together at `image`. `certificates`: PEM, of the account, which has signed it; or the
    cloud itself has, for that account (bundle_image.py).

    Raises InvalidArgument (InvalidManifest), NoCapacity; what was written of the image is the caller's to remove.
    """
    with contextlib.ExitStack() as drafts:
        manifest = await _manifest(store, key, _draft(drafts, image, "manifest"), export)
        keys = list(_keys(certificates))
        if manifest.described.account_id == account_id:
            keys.append(opener.public_key())
        manifests.check_signature(manifest, keys)
        secret, iv = manifests.opened_key(manifest, opener)
        packed, folder = manifest.packed, key.rpartition(b"/")[0]
        paths = [_draft(drafts, image, f"part-{index}") for index in range(len(packed.parts))]
        with store.space(packed.size, await store.blobs.free_bytes()):
            for part, path in zip(packed.parts, paths, strict=True):
                await export(b"/".join(filter(None, (folder, part.filename.encode()))), path)
            # Minutes: a thread of the digests is none to take.
            await to_the_end(lambda: unpack(paths, packed, image, key=secret, iv=iv))
    return manifest.described


async def _manifest(store: Store, key: bytes, path: Path, export: Export) -> Manifest:
    await export(key, path)

    def read() -> Manifest:
        with path.open("rb") as file:
            return manifests.parse(file.read(manifests.MAX_BYTES + 1))

    return await store.in_thread(read)


def _draft(drafts: contextlib.ExitStack, image: Path, name: str) -> Path:
    path = image.with_name(f"{image.name}-{name}")
    drafts.callback(path.unlink, missing_ok=True)
    return path


def _keys(certificates: Sequence[bytes]) -> Iterator[rsa.RSAPublicKey]:
    for certificate in certificates:
        key = x509.load_pem_x509_certificate(certificate).public_key()
        if isinstance(key, rsa.RSAPublicKey):
            yield key
