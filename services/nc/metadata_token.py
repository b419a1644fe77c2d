"""IMDSv2's session tokens: bound to one instance and a time, and nothing to remember. Pure.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-metadata-v2-how-it-works.html
"""

from __future__ import annotations

import base64
import binascii
import hmac
import struct
from typing import Final

LONGEST_TTL_S: Final = 21600
_EXPIRY: Final = struct.Struct(">d")
_MAC_BYTES: Final = 32


def ttl_of(header: str | None) -> int | None:
    """Seconds, None for what AWS answers 400 to."""
    if header is None or not header.isascii() or not header.isdigit() or len(header) > 5:
        return None
    ttl_s = int(header)
    return ttl_s if 1 <= ttl_s <= LONGEST_TTL_S else None


def mint(key: bytes, *, instance_id: str, expires_s: float) -> str:
    """56 characters, as AWS's own."""
    expiry = _EXPIRY.pack(expires_s)
    return base64.urlsafe_b64encode(expiry + _mac(key, instance_id, expiry)).decode()


def is_valid(token: str, key: bytes, *, instance_id: str, now_s: float) -> bool:
    try:
        raw = base64.urlsafe_b64decode(token.encode("ascii"))
    except (ValueError, binascii.Error):
        return False
    if len(raw) != _EXPIRY.size + _MAC_BYTES:
        return False
    expiry, mac = raw[: _EXPIRY.size], raw[_EXPIRY.size :]
    (expires_s,) = _EXPIRY.unpack(expiry)
    return hmac.compare_digest(mac, _mac(key, instance_id, expiry)) and bool(now_s < expires_s)


def _mac(key: bytes, instance_id: str, expiry: bytes) -> bytes:
    return hmac.digest(key, b"imds\0" + instance_id.encode() + b"\0" + expiry, "sha256")
