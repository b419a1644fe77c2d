"""The cloud's own certificates: one authority, and one certificate per member that names it and its role.

    ca.pem, ca-key.pem                   the authority; its key is needed only to issue
    <member id>.pem, <member id>-key.pem CN = member id; SAN = member id, <role>.role.mallee, addresses
    <node>-engine.pem, …-key.pem         CN = the node; its QEMU's, which is no member
    instance-identity.pem, …-key.pem     what nodes sign instance identity documents with
    bundle.pem, …-key.pem                what users seal bundles of images for

Keys are ECDSA P-256, but RSA for documents and bundles, as AWS's; files of keys 0600. Repeating create or issue keeps
what is there and still right.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.config import ConfigError

_VALID: Final = datetime.timedelta(days=3650)
# A certificate that ends sooner is issued afresh.
_RENEW_BEFORE: Final = datetime.timedelta(days=90)
# Clocks of two hosts differ.
_BACKDATED: Final = datetime.timedelta(hours=1)
_ROLE_SUFFIX: Final = ".role.mallee"
# Certificates that sign themselves: whoever trusts one trusts no member of the cloud by it.
DOCUMENT_SIGNER: Final = "instance-identity"
BUNDLE_OPENER: Final = "bundle"


class PkiError(ConfigError):
    """A certificate or key is missing, unreadable or wrong; the message names the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a process is: its certificate and key, and the authority that vouches for the others."""

    member_id: str
    role: str
    ca_pem: bytes
    certificate_pem: bytes
    key_pem: bytes

    @staticmethod
    def load(pki_dir: Path, member_id: str) -> Identity:
        """Raises PkiError."""
        certificate_pem = _read(pki_dir / f"{member_id}.pem")
        role = _role(x509.load_pem_x509_certificate(certificate_pem))
        if not role:
            raise PkiError(f"{pki_dir / member_id}.pem names no role")
        return Identity(
            member_id=member_id,
            role=role,
            ca_pem=_read(pki_dir / "ca.pem"),
            certificate_pem=certificate_pem,
            key_pem=_read(pki_dir / f"{member_id}-key.pem"),
        )

    def server_credentials(self) -> grpc.ServerCredentials:
        """Clients must show a certificate of the same authority."""
        return grpc.ssl_server_credentials(
            [(self.key_pem, self.certificate_pem)], root_certificates=self.ca_pem, require_client_auth=True
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self.ca_pem, self.key_pem, self.certificate_pem)


def create_authority(pki_dir: Path) -> None:
    """Makes ca.pem and ca-key.pem (10 years) unless they are there."""
    pki_dir.mkdir(parents=True, exist_ok=True)
    if (pki_dir / "ca.pem").exists():
        return
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mallee authority")])
    certificate = (
        _builder(subject=name, issuer=name, key=key.public_key(), end=_now() + _VALID)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    # The certificate last: it says that the authority is whole.
    _write(pki_dir / "ca-key.pem", _key_pem(key), mode=0o600)
    _write(pki_dir / "ca.pem", certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)


def issue(
    pki_dir: Path, member_id: str, role: str, *, ips: Sequence[str] = (), owner: tuple[int, int] | None = None
) -> None:
    """Makes the member's certificate and key unless one with the same role and addresses is there and lasts.

    `owner` (uid, gid) is who may read the key; None leaves it to whoever runs this. Raises PkiError.
    """
    path = pki_dir / f"{member_id}.pem"
    wanted = x509.SubjectAlternativeName(
        [
            *(x509.DNSName(name) for name in (member_id, f"{role}{_ROLE_SUFFIX}", "localhost")),
            *(x509.IPAddress(ipaddress.ip_address(ip)) for ip in sorted(set(ips))),
        ]
    )
    ca = x509.load_pem_x509_certificate(_read(pki_dir / "ca.pem"))
    if not _still_right(path, wanted, ca):
        _issue(path, member_id, wanted, ca)
    if owner is not None:
        os.chown(path, *owner)
        os.chown(pki_dir / f"{member_id}-key.pem", *owner)


def issue_engine(pki_dir: Path, member_id: str) -> tuple[Path, Path]:
    """Makes, or finds, a certificate in the member's name and its key, without a role, and good for clients alone.

    A node's QEMU shows it where its volumes are; whoever has it can neither call nor be called. Raises PkiError.
    """
    path = pki_dir / f"{member_id}-engine.pem"
    wanted = x509.SubjectAlternativeName([x509.DNSName(f"{member_id}.engine.mallee")])
    ca = x509.load_pem_x509_certificate(_read(pki_dir / "ca.pem"))
    if not _still_right(path, wanted, ca):
        _issue(path, member_id, wanted, ca, uses=[ExtendedKeyUsageOID.CLIENT_AUTH])
    return path, _key_path(path)


def create_self_signed(pki_dir: Path, name: str, *, owner: tuple[int, int] | None = None) -> None:
    """Makes <name>.pem and its RSA key unless they are there. `owner` as in `issue`."""
    path, key_path = _self_signed_paths(pki_dir, name)
    if not path.exists():
        certificate, key = self_signed(f"mallee {name}")
        _write(key_path, _key_pem(key), mode=0o600)
        _write(path, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)
    if owner is not None:
        os.chown(key_path, *owner)


def self_signed(common_name: str) -> tuple[x509.Certificate, rsa.RSAPrivateKey]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = _builder(subject=name, issuer=name, key=key.public_key(), end=_now() + _VALID).add_extension(
        x509.BasicConstraints(ca=False, path_length=None), critical=True
    )
    return builder.sign(key, hashes.SHA256()), key


def load_self_signed(pki_dir: Path, name: str) -> tuple[x509.Certificate, rsa.RSAPrivateKey]:
    """Raises PkiError."""
    path, key_path = _self_signed_paths(pki_dir, name)
    key = serialization.load_pem_private_key(_read(key_path), password=None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise PkiError(f"{key_path} is not an RSA key")
    return x509.load_pem_x509_certificate(_read(path)), key


def _self_signed_paths(pki_dir: Path, name: str) -> tuple[Path, Path]:
    return pki_dir / f"{name}.pem", pki_dir / f"{name}-key.pem"


def _issue(
    path: Path,
    member_id: str,
    names: x509.SubjectAlternativeName,
    ca: x509.Certificate,
    *,
    uses: Sequence[x509.ObjectIdentifier] = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
) -> None:
    ca_key = serialization.load_pem_private_key(_read(path.with_name("ca-key.pem")), password=None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise PkiError(f"{path.parent}/ca-key.pem is not an elliptic curve key")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, member_id)])
    certificate = (
        _builder(subject=subject, issuer=ca.subject, key=key.public_key(), end=ca.not_valid_after_utc)
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    # Key first: a crash in between leaves a pair that does not match, which _still_right sees.
    _write(_key_path(path), _key_pem(key), mode=0o600)
    _write(path, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)


def _still_right(path: Path, wanted: x509.SubjectAlternativeName, ca: x509.Certificate) -> bool:
    key_path = _key_path(path)
    if not (path.exists() and key_path.exists()):
        return False
    there = x509.load_pem_x509_certificate(_read(path))
    key = serialization.load_pem_private_key(_read(key_path), password=None)
    names = there.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return (
        there.issuer == ca.subject
        and set(names) == set(wanted)
        and there.public_key() == key.public_key()
        and there.not_valid_after_utc - _now() > min(_RENEW_BEFORE, ca.not_valid_after_utc - _now())
    )


def _key_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}-key.pem")


def _builder(
    *, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey, end: datetime.datetime
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=_now() - _BACKDATED,
        not_valid_after=end,
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _role(certificate: x509.Certificate) -> str:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    roles = [name for name in names.get_values_for_type(x509.DNSName) if name.endswith(_ROLE_SUFFIX)]
    return roles[0].removesuffix(_ROLE_SUFFIX) if len(roles) == 1 else ""


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _key_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PkiError(f"{path}: {error.strerror}") from error


def _write(path: Path, content: bytes, *, mode: int) -> None:
    """Whole or not at all, with its mode from the first byte on."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    os.replace(name, path)
