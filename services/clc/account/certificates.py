"""Signing certificates of an account: who has one's key may sign bundles of images for it."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from common.errors import InvalidArgument, NotFound
from mallee.clc.v1 import record_pb2
from services.clc.store import Changes, until_committed
from services.clc.use_case import Cloud

# Two, so that one can replace the other; with a third the oldest goes.
_MOST = 2


async def add_certificate(cloud: Cloud, account_id: str, pem: str) -> None:
    """Raises InvalidArgument, NotFound."""
    certificate = _normal(pem)

    async def attempt() -> None:
        account = cloud.store.get(record_pb2.AccountRecord, account_id)
        if account is None:
            raise NotFound(f"there is no account {account_id!r}", code="NoSuchEntity")
        draft = account.draft()
        if certificate in draft.signing_certificates:
            return
        if len(draft.signing_certificates) >= _MOST:
            del draft.signing_certificates[0]
        draft.signing_certificates.append(certificate)
        changes = Changes()
        changes.update(account, draft)
        await cloud.store.commit(changes)

    await until_committed(attempt)


def _normal(pem: str) -> str:
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
    except ValueError as error:
        raise InvalidArgument("that is no X.509 certificate in PEM", code="MalformedCertificate") from error
    if not isinstance(certificate.public_key(), rsa.RSAPublicKey):
        raise InvalidArgument("a signing certificate has an RSA key", code="InvalidCertificate")
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
