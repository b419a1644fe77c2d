"""Key pairs against OpenSSH, which computes the same fingerprints."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from pathlib import Path

import pytest

from common.errors import InvalidArgument
from services.clc.key_pair import material


@pytest.mark.parametrize("key_type", ["rsa", "ed25519"])
def test_the_private_half_belongs_to_the_public_one(tmp_path: Path, key_type: str) -> None:
    key = material.create(key_type)
    path = tmp_path / "key"
    path.write_text(key.private_pem)
    path.chmod(0o600)
    shown = subprocess.run(["ssh-keygen", "-y", "-f", path], capture_output=True, text=True, check=True).stdout
    assert shown.split()[:2] == key.public.openssh.split()


def test_imported_rsa_has_the_md5_of_its_der(tmp_path: Path) -> None:
    key = material.create("rsa")
    again = material.read_public(key.public.openssh.encode())
    path = tmp_path / "public"
    path.write_text(key.public.openssh + "\n")
    der = base64.b64decode(
        "".join(
            subprocess.run(
                ["ssh-keygen", "-e", "-m", "PKCS8", "-f", path], capture_output=True, text=True, check=True
            ).stdout.splitlines()[1:-1]
        )
    )
    assert again.fingerprint.replace(":", "") == hashlib.md5(der).hexdigest()
    assert again.openssh == key.public.openssh


def test_ed25519_has_openssh_s_own_fingerprint(tmp_path: Path) -> None:
    key = material.create("ed25519")
    path = tmp_path / "public"
    path.write_text(key.public.openssh + "\n")
    shown = subprocess.run(["ssh-keygen", "-l", "-f", path], capture_output=True, text=True, check=True).stdout
    assert shown.split()[1].removeprefix("SHA256:") == key.public.fingerprint.rstrip("=")


@pytest.mark.parametrize("form", ["RFC4716", "PKCS8", "PEM"])
def test_other_spellings_of_a_public_key_are_read(tmp_path: Path, form: str) -> None:
    key = material.create("rsa")
    path = tmp_path / "public"
    path.write_text(key.public.openssh + "\n")
    other = subprocess.run(["ssh-keygen", "-e", "-m", form, "-f", path], capture_output=True, check=True).stdout
    assert material.read_public(other).openssh == key.public.openssh


@pytest.mark.parametrize("junk", [b"", b"hello", b"ssh-rsa AAAA", b"ssh-dss AAAAB3NzaC1kc3MAAACBAP1", b"\xff\x00"])
def test_junk_is_refused(junk: bytes) -> None:
    with pytest.raises(InvalidArgument) as caught:
        material.read_public(junk)
    assert caught.value.code == "InvalidKey.Format"
