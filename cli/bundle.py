"""`mallee images bundle`: an image as ec2-bundle-image and euca-bundle-image make it, sealed for this cloud."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Annotated, Final

import typer
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from cli.client import Client
from cli.options import Home, site
from cli.output import Json, out, plain_errors, print_json
from common.bundle import manifest as manifests
from common.bundle.manifest import Described
from common.bundle.pack import pack
from common.config import CloudConfig
from common.errors import InvalidArgument
from common.pki import BUNDLE_OPENER, self_signed
from mallee.clc.v1 import service_pb2 as clc

_AES_BYTES: Final = 16


def bundle(
    image: Annotated[
        Path, typer.Argument(metavar="FILE", help="A disk, a kernel or a ramdisk.", exists=True, dir_okay=False)
    ],
    home: Home,
    destination: Annotated[Path, typer.Option(help="Folder for manifest and parts; made if it is not there.")] = Path(),
    account: Annotated[str, typer.Option(help="Whose it is to be: name or id. The first account's by default.")] = "",
    prefix: Annotated[str, typer.Option(help="Name of the bundle; that of the image by default.")] = "",
    kind: Annotated[str, typer.Option(help="machine, kernel or ramdisk.")] = "machine",
    kernel: Annotated[str, typer.Option(help="aki-… that a machine image boots by.")] = "",
    ramdisk: Annotated[str, typer.Option(help="ari-… that a machine image boots by.")] = "",
    certificate: Annotated[Path | None, typer.Option(help="The account's, PEM; made if left out.")] = None,
    private_key: Annotated[Path | None, typer.Option(help="Of the certificate, PEM.")] = None,
    as_json: Json = False,
) -> None:
    """Packs, encrypts and signs an image: upload the folder, then register BUCKET/NAME.manifest.xml."""
    with plain_errors():
        if (certificate is None) != (private_key is None):
            raise InvalidArgument("--certificate and --private-key belong together: give both or none")
        if kind not in ("machine", "kernel", "ramdisk"):
            raise InvalidArgument(f"--kind {kind}: machine, kernel or ramdisk")
        client = Client.of(site(home))
        credentials = client.ask(lambda cloud: cloud.GetCredentials(clc.GetCredentialsRequest(account=account)))
        account_id = credentials.account.account_id
        if certificate is not None and private_key is not None:
            user, signer = _load(certificate, private_key)
        else:
            user, signer = _own(client.config, account_id)
        request = clc.AddSigningCertificateRequest(account=account_id, certificate_pem=_pem(user).decode())
        client.ask(lambda cloud: cloud.AddSigningCertificate(request))
        name = prefix or image.name
        destination.mkdir(parents=True, exist_ok=True)
        key, iv = secrets.token_bytes(_AES_BYTES), secrets.token_bytes(_AES_BYTES)
        packed = pack(image, destination, name, key=key, iv=iv)
        described = Described(
            name=name,
            account_id=account_id,
            kind=kind,
            kernel_id=kernel,
            ramdisk_id=ramdisk,
            devices={"ami": "sda1", "root": "/dev/sda1"} if kind == "machine" else {},
        )
        cloud_certificate = x509.load_pem_x509_certificate(
            (client.config.pki_path / f"{BUNDLE_OPENER}.pem").read_bytes()
        )
        text = manifests.render(described, packed, key=key, iv=iv, cloud=cloud_certificate, user=user, signer=signer)
        path = destination / f"{name}.manifest.xml"
        path.write_bytes(text)
    if as_json:
        print_json({"Manifest": str(path), "Parts": [str(destination / part.filename) for part in packed.parts]})
        return
    out.print(f"{path} and {len(packed.parts)} parts are made. Register it with:", markup=False)
    out.print(f"  aws s3 cp --recursive --exclude '*' --include '{name}.*' {destination} s3://BUCKET/", markup=False)
    out.print(f"  aws ec2 register-image --name NAME --image-location BUCKET/{path.name}", markup=False)


def _own(config: CloudConfig, account_id: str) -> tuple[x509.Certificate, rsa.RSAPrivateKey]:
    """Kept in the cloud's home, so that an account's bundles are signed by one certificate."""
    folder = config.home_path / "bundles" / account_id
    certificate, key = folder / "certificate.pem", folder / "private-key.pem"
    if not certificate.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        made, made_key = self_signed(f"bundles of {account_id}")
        with os.fdopen(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(
                made_key.private_bytes(
                    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                )
            )
        certificate.write_bytes(_pem(made))
    return _load(certificate, key)


def _load(certificate: Path, private_key: Path) -> tuple[x509.Certificate, rsa.RSAPrivateKey]:
    try:
        user = x509.load_pem_x509_certificate(certificate.read_bytes())
        key = serialization.load_pem_private_key(private_key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise InvalidArgument(f"certificate or key cannot be read: {error}") from error
    if not isinstance(key, rsa.RSAPrivateKey) or key.public_key() != user.public_key():
        raise InvalidArgument(f"{private_key} is not the RSA key of {certificate}")
    return user, key


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
