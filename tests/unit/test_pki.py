"""Certificates: who they name, who may read the keys, and what repeating changes."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from common.pki import (
    DOCUMENT_SIGNER,
    Identity,
    PkiError,
    create_authority,
    create_self_signed,
    issue,
    issue_engine,
    load_self_signed,
)


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    create_authority(tmp_path)
    return tmp_path


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_certificate_names_member_role_and_addresses(pki: Path) -> None:
    issue(pki, "nc-us-east-1a-1", "nc", ips=["127.0.0.1", "100.64.77.11"])
    certificate = x509.load_pem_x509_certificate((pki / "nc-us-east-1a-1.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["nc-us-east-1a-1", "nc.role.mallee", "localhost"]
    assert {str(ip) for ip in names.get_values_for_type(x509.IPAddress)} == {"127.0.0.1", "100.64.77.11"}
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert Identity.load(pki, "nc-us-east-1a-1").role == "nc"


def test_openssl_accepts_the_chain_both_ways(pki: Path) -> None:
    issue(pki, "etcd-1", "etcd", ips=["127.0.0.1"])
    client = ssl.create_default_context(cafile=str(pki / "ca.pem"))
    client.load_cert_chain(pki / "etcd-1.pem", pki / "etcd-1-key.pem")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pki / "ca.pem"))
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_cert_chain(pki / "etcd-1.pem", pki / "etcd-1-key.pem")
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1"),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(3):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert all(end.version() == "TLSv1.3" for end in ends)


def test_keys_are_for_their_owner_only(pki: Path) -> None:
    issue(pki, "clc-1", "clc")
    keys = list(pki.glob("*-key.pem"))
    assert len(keys) == 2
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}


def test_repeating_changes_nothing_and_leaves_no_other_file(pki: Path) -> None:
    issue(pki, "clc-1", "clc", ips=["127.0.0.1"])
    before = content(pki)
    create_authority(pki)
    issue(pki, "clc-1", "clc", ips=["127.0.0.1", "127.0.0.1"])
    assert content(pki) == before
    assert set(before) == {"ca.pem", "ca-key.pem", "clc-1.pem", "clc-1-key.pem"}


def test_another_address_or_a_torn_pair_is_issued_afresh(pki: Path) -> None:
    issue(pki, "clc-1", "clc")
    first = content(pki)
    issue(pki, "clc-1", "clc", ips=["127.0.0.1"])
    second = content(pki)
    assert second["clc-1.pem"] != first["clc-1.pem"]
    (pki / "clc-1-key.pem").write_bytes(first["clc-1-key.pem"])
    issue(pki, "clc-1", "clc", ips=["127.0.0.1"])
    assert content(pki)["clc-1.pem"] != second["clc-1.pem"]


def test_what_is_missing_is_named(pki: Path) -> None:
    with pytest.raises(PkiError, match=r"walrus-1\.pem: No such file"):
        Identity.load(pki, "walrus-1")


def test_the_signer_of_documents_is_made_once_and_vouches_for_itself_alone(pki: Path) -> None:
    create_self_signed(pki, DOCUMENT_SIGNER)
    certificate, key = load_self_signed(pki, DOCUMENT_SIGNER)
    assert certificate.public_key() == key.public_key()
    certificate.verify_directly_issued_by(certificate)
    authority = x509.load_pem_x509_certificate((pki / "ca.pem").read_bytes())
    assert certificate.issuer != authority.subject
    assert stat.S_IMODE((pki / "instance-identity-key.pem").stat().st_mode) == 0o600
    before = content(pki)
    create_self_signed(pki, DOCUMENT_SIGNER)
    assert content(pki) == before


def test_an_engine_has_its_nodes_name_and_is_no_member(pki: Path) -> None:
    path, key = issue_engine(pki, "nc-1")
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    assert certificate.subject.rfc4514_string() == "CN=nc-1"
    uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(uses) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    with pytest.raises(PkiError, match="names no role"):
        Identity.load(pki, "nc-1-engine")
    before = content(pki)
    assert issue_engine(pki, "nc-1") == (path, key)
    assert content(pki) == before
