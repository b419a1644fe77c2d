"""Blocks of snapshots as they travel and are stored: named by their content, compressed where that saves something."""

from __future__ import annotations

import hashlib
from typing import Final

import zstandard

from common.errors import DataLoss

BLOCK_BYTES: Final = 512 << 10
DIGEST_BYTES: Final = 32

# The fastest: what does not compress passes at memory speed, text at 600 MB/s.
_LEVEL: Final = 1


def compressed(content: bytes | memoryview) -> tuple[bytes | memoryview, bool]:
    """What is to be stored, and whether that is compressed. Releases the GIL: use threads."""
    # One compressor may not be used by two threads at once; making one costs little beside a block.
    packed = zstandard.ZstdCompressor(level=_LEVEL).compress(content)
    return (packed, True) if len(packed) < len(content) else (content, False)


def decoded(digest: bytes, stored: bytes, *, compressed: bool) -> bytes:
    """The content. Raises DataLoss for anything else than what `digest` names."""
    content = stored
    if compressed:
        try:
            # Whatever the frame's header claims: nothing larger than a block is unpacked.
            if zstandard.frame_content_size(stored) > BLOCK_BYTES:
                raise _damaged(digest, "it is larger than a block")
            content = zstandard.ZstdDecompressor().decompress(stored, max_output_size=BLOCK_BYTES)
        except zstandard.ZstdError as error:
            raise _damaged(digest, str(error)) from error
    if len(content) > BLOCK_BYTES or hashlib.sha256(content).digest() != digest:
        raise _damaged(digest, "its content is not what its name says")
    return content


def _damaged(digest: bytes, why: str) -> DataLoss:
    return DataLoss(f"Block {digest.hex()} is damaged: {why}.")
