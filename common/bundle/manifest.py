"""The manifest of a bundle, version 2007-10-10, as ec2-bundle-image and euca-bundle-image write it. Pure.

A bundle is an image in a tar, gzipped, encrypted by AES-128-CBC and cut into parts. Key and IV, in hex, are sealed by
RSA (PKCS #1 v1.5) for the cloud and for the user; the user signs the machine_configuration and image elements by
RSA-SHA1. What is read here is a user's: hostile.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from xml.etree import ElementTree

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from common.errors import InvalidArgument

VERSION: Final = "2007-10-10"
PART_BYTES: Final = 10 << 20
# A manifest of 10,000 parts stays below it.
MAX_BYTES: Final = 4 << 20
MAX_PARTS: Final = 100_000
_CIPHER: Final = "AES-128-CBC"
_HEX_KEY: Final = re.compile(rb"[0-9a-fA-F]{32}\Z")
_SHA1: Final = re.compile(r"[0-9a-f]{40}\Z")
_BETWEEN: Final = re.compile(rb">\s+<")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    # Beside the manifest.
    filename: str
    # Of the part as it lies there, lower-case hex.
    sha1: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """What was made of an image file."""

    # Of the tar.
    sha1: str
    # Of the image, and of all parts together.
    size: int
    bundled_size: int
    parts: Sequence[Part]


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What a bundle says of the image in it."""

    name: str
    account_id: str
    # machine, kernel or ramdisk
    kind: str = "machine"
    architecture: str = "x86_64"
    kernel_id: str = ""
    ramdisk_id: str = ""
    # virtual → device
    devices: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    described: Described
    packed: Packed
    sealed_key: bytes
    sealed_iv: bytes
    signature: bytes
    # What it may be the signature of: the elements as they stand, and without the space between their tags.
    signed: Sequence[bytes]


def parse(text: bytes) -> Manifest:
    """Raises InvalidArgument (InvalidManifest) with what is wrong."""
    if len(text) > MAX_BYTES or b"<!" in text.replace(b"<!--", b""):
        raise refused("it is too long, or declares entities")
    try:
        root = ElementTree.fromstring(text)
        if root.tag != "manifest" or _text(root, "version") != VERSION:
            raise refused(f"only version {VERSION} is known")
        parts = [
            Part(filename=_filename(_text(part, "filename")), sha1=_digest(part))
            for part in sorted(root.iterfind("image/parts/part"), key=lambda part: int(part.get("index", "")))
        ]
        if not 0 < len(parts) <= MAX_PARTS or len(parts) != int(_child(root, "image/parts").get("count", "")):
            raise refused("its parts are not as many as it says")
        return Manifest(
            described=_described(root),
            packed=Packed(
                sha1=_digest(_child(root, "image")),
                size=int(_text(root, "image/size")),
                bundled_size=int(_text(root, "image/bundled_size")),
                parts=parts,
            ),
            sealed_key=_hex(root, "image/ec2_encrypted_key"),
            sealed_iv=_hex(root, "image/ec2_encrypted_iv"),
            signature=_hex(root, "signature"),
            signed=_signed(text),
        )
    except (ElementTree.ParseError, ValueError) as error:
        raise refused(str(error)) from error


def render(
    described: Described,
    packed: Packed,
    *,
    key: bytes,
    iv: bytes,
    cloud: x509.Certificate,
    user: x509.Certificate,
    signer: rsa.RSAPrivateKey,
) -> bytes:
    root = ElementTree.Element("manifest")
    _add(root, "version", VERSION)
    bundler = _add(root, "bundler")
    for tag, said in (("name", "mallee"), ("version", "1"), ("release", "0")):
        _add(bundler, tag, said)
    machine = _add(root, "machine_configuration")
    _add(machine, "architecture", described.architecture)
    for tag, said in (("kernel_id", described.kernel_id), ("ramdisk_id", described.ramdisk_id)):
        if said:
            _add(machine, tag, said)
    if described.devices:
        mappings = _add(machine, "block_device_mapping")
        for virtual, device in sorted(described.devices.items()):
            mapping = _add(mappings, "mapping")
            _add(mapping, "virtual", virtual)
            _add(mapping, "device", device)
    image = _add(root, "image")
    _add(image, "name", described.name)
    _add(image, "user", described.account_id)
    _add(image, "type", described.kind)
    _add(image, "digest", packed.sha1).set("algorithm", "SHA1")
    _add(image, "size", str(packed.size))
    _add(image, "bundled_size", str(packed.bundled_size))
    for whose, certificate in (("ec2", cloud), ("user", user)):
        _add(image, f"{whose}_encrypted_key", _sealed(certificate, key)).set("algorithm", _CIPHER)
        _add(image, f"{whose}_encrypted_iv", _sealed(certificate, iv))
    parts = _add(image, "parts")
    parts.set("count", str(len(packed.parts)))
    for index, part in enumerate(packed.parts):
        element = _add(parts, "part")
        element.set("index", str(index))
        _add(element, "filename", part.filename)
        _add(element, "digest", part.sha1).set("algorithm", "SHA1")
    signed = _signed(ElementTree.tostring(root))[0]
    _add(root, "signature", signer.sign(signed, padding.PKCS1v15(), hashes.SHA1()).hex())
    return ElementTree.tostring(root)


def check_signature(manifest: Manifest, keys: Iterable[rsa.RSAPublicKey]) -> None:
    """Raises InvalidArgument (InvalidManifest) unless one of them vouches for it."""
    for key in keys:
        for signed in manifest.signed:
            try:
                key.verify(manifest.signature, signed, padding.PKCS1v15(), hashes.SHA1())
            except InvalidSignature:
                continue
            return
    raise refused("its signature is by no signing certificate of your account; see 'mallee accounts add-certificate'")


def opened_key(manifest: Manifest, key: rsa.RSAPrivateKey) -> tuple[bytes, bytes]:
    """AES key and IV. Raises InvalidArgument (InvalidManifest)."""
    return _opened(key, manifest.sealed_key), _opened(key, manifest.sealed_iv)


def refused(why: str) -> InvalidArgument:
    return InvalidArgument(f"The bundle's manifest is refused: {why}", code="InvalidManifest")


def _described(root: ElementTree.Element) -> Described:
    machine = _child(root, "machine_configuration")
    kernel_id, ramdisk_id = (machine.findtext(tag, "").strip() for tag in ("kernel_id", "ramdisk_id"))
    kind = root.findtext("image/type", "machine").strip()
    # What Eucalyptus's tools write for a kernel and a ramdisk themselves.
    if kernel_id == "true":
        kind, kernel_id = "kernel", ""
    if ramdisk_id == "true":
        kind, ramdisk_id = "ramdisk", ""
    return Described(
        name=_text(root, "image/name"),
        account_id=_text(root, "image/user"),
        kind=kind,
        architecture=_text(machine, "architecture"),
        kernel_id=kernel_id,
        ramdisk_id=ramdisk_id,
        devices={
            mapping.findtext("virtual", "").strip(): mapping.findtext("device", "").strip()
            for mapping in machine.iterfind("block_device_mapping/mapping")
        },
    )


def _signed(text: bytes) -> list[bytes]:
    as_it_stands = _element(text, b"machine_configuration") + _element(text, b"image")
    return [as_it_stands, _BETWEEN.sub(b"><", as_it_stands)]


def _element(text: bytes, tag: bytes) -> bytes:
    start, end = text.find(b"<" + tag + b">"), text.find(b"</" + tag + b">")
    if start < 0 or end < start:
        raise refused(f"it has no {tag.decode()}")
    return text[start : end + len(tag) + 3]


def _child(element: ElementTree.Element, path: str) -> ElementTree.Element:
    found = element.find(path)
    if found is None:
        raise refused(f"it has no {path}")
    return found


def _text(element: ElementTree.Element, path: str) -> str:
    return (_child(element, path).text or "").strip()


def _hex(element: ElementTree.Element, path: str) -> bytes:
    return bytes.fromhex(_text(element, path))


def _digest(element: ElementTree.Element) -> str:
    digest = _child(element, "digest")
    if digest.get("algorithm") != "SHA1" or not _SHA1.match((digest.text or "").strip().lower()):
        raise refused("a digest is no SHA1")
    return (digest.text or "").strip().lower()


def _filename(name: str) -> str:
    if not name or "/" in name or len(name) > 255:
        raise refused("the name of a part is no file name")
    return name


def _add(parent: ElementTree.Element, tag: str, text: str | None = None) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, tag)
    element.text = text
    return element


def _sealed(certificate: x509.Certificate, secret: bytes) -> str:
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise InvalidArgument("A bundle is sealed for RSA certificates only")
    return key.encrypt(secret.hex().encode(), padding.PKCS1v15()).hex()


def _opened(key: rsa.RSAPrivateKey, sealed: bytes) -> bytes:
    try:
        secret = key.decrypt(sealed, padding.PKCS1v15())
    except ValueError:
        secret = b""
    if not _HEX_KEY.match(secret):
        raise refused("its key is not sealed for this cloud: bundle it with this cloud's certificate")
    return bytes.fromhex(secret.decode())
