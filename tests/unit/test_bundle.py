"""Bundles: what is packed comes back, what was touched does not, and no manifest makes anything else happen."""

from __future__ import annotations

import datetime
import gzip
import hashlib
import os
import re
import subprocess
import tarfile
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.bundle import manifest as manifests
from common.bundle.manifest import Described, Packed, Part
from common.bundle.pack import pack, unpack
from common.errors import InvalidArgument

KEY, IV = bytes(range(16)), bytes(range(16, 32))
ACCOUNT = "123456789012"


def self_signed(name: str) -> tuple[x509.Certificate, rsa.RSAPrivateKey]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 1, now, now + datetime.timedelta(days=1))
    return builder.sign(key, hashes.SHA256()), key


CLOUD, CLOUD_KEY = self_signed("cloud")
USER, USER_KEY = self_signed("user")


def bundled(folder: Path, content: bytes, *, part_bytes: int = 1000) -> bytes:
    image = folder / "image"
    image.write_bytes(content)
    packed = pack(image, folder, "image", key=KEY, iv=IV, part_bytes=part_bytes)
    described = Described(name="image", account_id=ACCOUNT, kernel_id="aki-1", devices={"ami": "sda1"})
    return manifests.render(described, packed, key=KEY, iv=IV, cloud=CLOUD, user=USER, signer=USER_KEY)


def unbundled(folder: Path, text: bytes) -> bytes:
    manifest = manifests.parse(text)
    manifests.check_signature(manifest, [CLOUD_KEY.public_key(), USER_KEY.public_key()])
    key, iv = manifests.opened_key(manifest, CLOUD_KEY)
    out = folder / "out"
    out.unlink(missing_ok=True)
    unpack([folder / part.filename for part in manifest.packed.parts], manifest.packed, out, key=key, iv=iv)
    return out.read_bytes()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=5000), zeros=st.integers(0, 3 << 20))
def test_what_is_packed_comes_back(tmp_path: Path, content: bytes, zeros: int) -> None:
    for old in tmp_path.iterdir():
        old.unlink()
    content = content + bytes(zeros) + content
    assert unbundled(tmp_path, bundled(tmp_path, content)) == content


def test_zeros_are_holes(tmp_path: Path) -> None:
    text = bundled(tmp_path, bytes(64 << 20), part_bytes=manifests.PART_BYTES)
    unbundled(tmp_path, text)
    assert (tmp_path / "out").stat().st_blocks * 512 < 1 << 20


def test_the_description_comes_back(tmp_path: Path) -> None:
    described = manifests.parse(bundled(tmp_path, b"x" * 5000)).described
    assert described == Described(name="image", account_id=ACCOUNT, kernel_id="aki-1", devices={"ami": "sda1"})


def test_a_bundle_of_the_old_tools_is_understood(tmp_path: Path) -> None:
    """By their own way: tar --sparse, gzip, openssl enc, openssl rsautl's padding, and a manifest that is indented."""
    content = os.urandom(3000) + bytes(1 << 20) + os.urandom(3000)
    (tmp_path / "disk").write_bytes(content)
    with subprocess.Popen(["tar", "-C", str(tmp_path), "-c", "-S", "disk"], stdout=subprocess.PIPE) as tar:
        assert tar.stdout is not None
        plain = tar.stdout.read()
    command = ["openssl", "enc", "-e", "-aes-128-cbc", "-K", KEY.hex(), "-iv", IV.hex()]
    sealed = subprocess.run(command, input=gzip.compress(plain), capture_output=True, check=True).stdout
    parts = [sealed[:2000], sealed[2000:]]
    for index, part in enumerate(parts):
        (tmp_path / f"disk.part.{index}").write_bytes(part)
    packed = Packed(
        sha1=hashlib.sha1(plain, usedforsecurity=False).hexdigest(),
        size=len(content),
        bundled_size=len(sealed),
        parts=[
            Part(filename=f"disk.part.{i}", sha1=hashlib.sha1(p, usedforsecurity=False).hexdigest())
            for i, p in enumerate(parts)
        ],
    )
    text = manifests.render(
        Described(name="disk", account_id=ACCOUNT), packed, key=KEY, iv=IV, cloud=CLOUD, user=USER, signer=USER_KEY
    )
    indented = b'<?xml version="1.0"?>\n' + text.replace(b"><", b">\n  <")
    assert unbundled(tmp_path, indented) == content


def test_a_changed_part_is_refused(tmp_path: Path) -> None:
    text = bundled(tmp_path, os.urandom(5000))
    part = tmp_path / "image.part.01"
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    with pytest.raises(InvalidArgument, match=r"image\.part\.01"):
        unbundled(tmp_path, text)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (rb"<size>\d+<", b"<size>77<", "signature"),
        (rb"<version>2007", b"<version>2006", "version"),
        (rb'count="\d+"', b'count="1"', "parts"),
        (rb"<manifest>", b'<!DOCTYPE x [<!ENTITY a "b">]><manifest>', "entities"),
        (rb"<filename>image", b"<filename>../image", "file name"),
        (rb"<signature>..", b"<signature>00", "signature"),
        (rb"<image>.*</image>", b"", "parts"),
        (rb"<ec2_encrypted_key[^>]*>....", b"<ec2_encrypted_key>zzzz", "hex"),
    ],
)
def test_a_changed_manifest_is_refused(tmp_path: Path, old: bytes, new: bytes, words: str) -> None:
    text = bundled(tmp_path, os.urandom(5000))
    changed = re.sub(old, new, text, count=1)
    assert changed != text
    with pytest.raises(InvalidArgument, match=words) as caught:
        unbundled(tmp_path, changed)
    assert caught.value.code == "InvalidManifest"


def test_a_bundle_for_another_cloud_is_refused(tmp_path: Path) -> None:
    manifest = manifests.parse(bundled(tmp_path, b"x"))
    with pytest.raises(InvalidArgument, match="sealed"):
        manifests.opened_key(manifest, self_signed("other")[1])


@pytest.mark.parametrize("content", ["nothing", "two files", "a folder", "a bomb", "no tar"])
def test_what_is_not_one_image_is_refused(tmp_path: Path, content: str) -> None:
    inner = tmp_path / "inner.tar"
    (tmp_path / "a").write_bytes(b"a" * 100)
    with tarfile.open(inner, "w") as tar:
        if content == "two files":
            tar.add(tmp_path / "a", arcname="a")
            tar.add(tmp_path / "a", arcname="b")
        elif content == "a folder":
            tar.add(tmp_path, arcname="a", recursive=False)
        elif content == "a bomb":
            big = tmp_path / "big"
            with big.open("wb") as file:
                file.truncate(64 << 20)
            tar.add(big, arcname="a")
    plain = b"x" * 10240 if content == "no tar" else inner.read_bytes()
    command = ["openssl", "enc", "-e", "-aes-128-cbc", "-K", KEY.hex(), "-iv", IV.hex()]
    sealed = subprocess.run(command, input=gzip.compress(plain), capture_output=True, check=True).stdout
    (tmp_path / "p").write_bytes(sealed)
    sha1 = hashlib.sha1(sealed, usedforsecurity=False).hexdigest()
    packed = Packed(sha1="0" * 40, size=100, bundled_size=len(sealed), parts=[Part(filename="p", sha1=sha1)])
    with pytest.raises(InvalidArgument):
        unpack([tmp_path / "p"], packed, tmp_path / "out", key=KEY, iv=IV)


def test_openssl_agrees_on_the_signature(tmp_path: Path) -> None:
    text = bundled(tmp_path, b"x" * 100)
    manifest = manifests.parse(text)
    (tmp_path / "signed").write_bytes(manifest.signed[0])
    (tmp_path / "signature").write_bytes(manifest.signature)
    public = USER.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(public)
    command = ["openssl", "dgst", "-sha1", "-verify", "key.pem", "-signature", "signature", "signed"]
    assert b"Verified OK" in subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout
