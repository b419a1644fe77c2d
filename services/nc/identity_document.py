"""Signs instance identity documents, with the one key that the cloud has for them.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/verify-iid.html
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import textwrap
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import pkcs7

from common.pki import Identity

_KEPT: Final = 1024


class DocumentSigner:
    """Both answers are base64 in lines of 64, without the PEM frame, as AWS gives them."""

    def __init__(self, certificate: x509.Certificate, key: rsa.RSAPrivateKey) -> None:
        self._certificate = certificate
        self._key = key
        self.signature = lru_cache(maxsize=_KEPT)(self._signature)
        self.pkcs7 = lru_cache(maxsize=_KEPT)(self._pkcs7)

    def _signature(self, document: str) -> str:
        return _lines(self._key.sign(document.encode(), padding.PKCS1v15(), hashes.SHA256()))

    def _pkcs7(self, document: str) -> str:
        """The document is inside. The certificate is not: who verifies has it already, and from elsewhere."""
        builder = pkcs7.PKCS7SignatureBuilder().set_data(document.encode())
        builder = builder.add_signer(self._certificate, self._key, hashes.SHA256())
        options = [pkcs7.PKCS7Options.Binary, pkcs7.PKCS7Options.NoCerts, pkcs7.PKCS7Options.NoCapabilities]
        return _lines(builder.sign(serialization.Encoding.DER, options))


def token_key(identity: Identity) -> bytes:
    """For IMDSv2 tokens: the same after a restart, known to this node alone."""
    return hmac.digest(hashlib.sha256(identity.key_pem).digest(), b"metadata tokens", "sha256")


def _lines(raw: bytes) -> str:
    return "\n".join(textwrap.wrap(base64.b64encode(raw).decode(), 64))
