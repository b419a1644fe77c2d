"""Signs instance identity documents with the node's own certificate, which the cloud's authority vouches for."""

from __future__ import annotations

import base64
import hashlib
import hmac
import textwrap
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import pkcs7

from common.pki import Identity


class DocumentSigner:
    """Both answers are base64 in lines of 64, without the PEM frame, as AWS gives them."""

    def __init__(self, identity: Identity) -> None:
        self._certificate = x509.load_pem_x509_certificate(identity.certificate_pem)
        key = serialization.load_pem_private_key(identity.key_pem, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            raise ValueError(f"the key of {identity.member_id} cannot sign")
        self._key = key
        self.signature = lru_cache(maxsize=1024)(self._signature)
        self.pkcs7 = lru_cache(maxsize=1024)(self._pkcs7)

    def _signature(self, document: str) -> str:
        if isinstance(self._key, rsa.RSAPrivateKey):
            raw = self._key.sign(document.encode(), padding.PKCS1v15(), hashes.SHA256())
        else:
            raw = self._key.sign(document.encode(), ec.ECDSA(hashes.SHA256()))
        return _lines(raw)

    def _pkcs7(self, document: str) -> str:
        builder = pkcs7.PKCS7SignatureBuilder().set_data(document.encode())
        builder = builder.add_signer(self._certificate, self._key, hashes.SHA256())
        return _lines(builder.sign(serialization.Encoding.DER, [pkcs7.PKCS7Options.Binary]))


def token_key(identity: Identity) -> bytes:
    """For IMDSv2 tokens: the same after a restart, known to this node alone."""
    return hmac.digest(hashlib.sha256(identity.key_pem).digest(), b"metadata tokens", "sha256")


def _lines(raw: bytes) -> str:
    return "\n".join(textwrap.wrap(base64.b64encode(raw).decode(), 64))
