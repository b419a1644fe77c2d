"""Proof that a node may fetch an image, or store a bundle: made by the CLC, narrowed by the CC to one node, checked by
Walrus.

A chain of HMAC-SHA256 (the idea of macaroons): who holds the CLC's ticket can narrow it and never widen it, so the CC
needs no key, and a node cannot hand its ticket to another.
"""

from __future__ import annotations

import hmac


def mint(key: bytes, *, sha256: str, image_id: str, expires_unix_s: int) -> bytes:
    """For any node, from the key that the CLC and Walrus share."""
    return _mac(key, f"image\0{sha256}\0{image_id}\0{expires_unix_s}")


def mint_bundle(key: bytes, *, account_id: str, bucket: str, prefix: str, expires_unix_s: int) -> bytes:
    """To store a bundle under this prefix, as the account."""
    return _mac(key, f"bundle\0{account_id}\0{bucket}\0{prefix}\0{expires_unix_s}")


def narrow(ticket: bytes, *, node: str) -> bytes:
    """For this node's certificate name only."""
    return _mac(ticket, f"node\0{node}")


def verify(ticket: bytes, key: bytes, *, sha256: str, image_id: str, expires_unix_s: int, node: str) -> bool:
    """Of a narrowed ticket. Says nothing about its age: compare `expires_unix_s` with the clock as well."""
    wide = mint(key, sha256=sha256, image_id=image_id, expires_unix_s=expires_unix_s)
    return hmac.compare_digest(ticket, narrow(wide, node=node))


def same(one: bytes, other: bytes) -> bool:
    """Told in a time that says nothing of either."""
    return hmac.compare_digest(one, other)


def _mac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
