"""Key pairs against OpenSSH, which computes the same fingerprints."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from common.errors import InvalidArgument
from services.clc.key_pair import material
from services.clc.key_pair.putty import ppk


@pytest.mark.parametrize("key_type", ["rsa", "ed25519"])
def test_the_private_half_belongs_to_the_public_one(tmp_path: Path, key_type: str) -> None:
    key = material.create(key_type)
    path = tmp_path / "key"
    path.write_text(key.private)
    path.chmod(0o600)
    shown = subprocess.run(["ssh-keygen", "-y", "-f", path], capture_output=True, text=True, check=True).stdout
    assert shown.split()[:2] == key.public.openssh.split()


# As puttygen 0.78 writes it (`-O private --ppk-param version=2`).
PUTTY = """\
PuTTY-User-Key-File-2: ssh-ed25519
Encryption: none
Comment: root@vm
Public-Lines: 2
AAAAC3NzaC1lZDI1NTE5AAAAIPMPMF4W6Gm6hJQcAy1TCjMettcvQQf/7kqJHlCE
sfOT
Private-Lines: 1
AAAAID63ktMjasMmiakynwYyq8FLStn7iAyk5LYnzeZxqlB5
Private-MAC: ffe1aae071f36e5b097edc44acf0ab4bc6c85858
"""


def test_a_key_for_putty_is_what_its_own_tool_would_write() -> None:
    seed = base64.b64decode(PUTTY.splitlines()[7])[4:]
    key = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    assert ppk(key, comment="root@vm").replace("\r\n", "\n") == PUTTY


def test_an_rsa_key_for_putty_holds_its_numbers() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    lines = ppk(key, comment="x").split("\r\n")
    start = next(n for n, line in enumerate(lines) if line.startswith("Private-Lines:")) + 1
    blob, numbers = base64.b64decode("".join(lines[start:-2])), []
    while blob:
        size = int.from_bytes(blob[:4], "big")
        numbers.append(int.from_bytes(blob[4 : 4 + size], "big", signed=True))
        blob = blob[4 + size :]
    private = key.private_numbers()
    assert numbers == [private.d, private.p, private.q, private.iqmp]


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
