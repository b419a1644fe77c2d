"""Access keys: made, sealed for etcd, and turned into SigV4's signing keys.

Sealed with AES-256-GCM under the cloud's master key, the access key id as associated data, so that a record copied to
another key does not open. (NIST SP 800-38D; AWS, "Create a signed request", step 4.)
"""

from __future__ import annotations

import base64
import hmac
import secrets
import string

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE_BYTES = 12
_ID_ALPHABET = string.ascii_uppercase + "234567"


def new_access_key_id() -> str:
    return "AKIA" + "".join(secrets.choice(_ID_ALPHABET) for _ in range(16))


def new_secret() -> str:
    """40 characters, as AWS's are."""
    return base64.b64encode(secrets.token_bytes(30)).decode()


def seal(master_key: bytes, access_key_id: str, secret: str) -> bytes:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(master_key).encrypt(nonce, secret.encode(), access_key_id.encode())


def unseal(master_key: bytes, access_key_id: str, sealed: bytes) -> str:
    """Raises cryptography.exceptions.InvalidTag if it was not sealed with this key for this id."""
    return AESGCM(master_key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], access_key_id.encode()).decode()


def signing_key(secret: str, *, date: str, region: str, service: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
