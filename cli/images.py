"""`mallee images`: builds guest images and brings them into the cloud through its public API, as any user would."""

from __future__ import annotations

import gzip
import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Protocol

import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from cli import credentials
from cli.bundle import bundle
from cli.client import Client
from cli.options import Home, site
from cli.output import Json, err, out, plain_errors, print_json
from common.errors import Unavailable, Unsupported
from deploy.cloud import is_fake
from images import build as small
from images import debian
from images.kept import Report

SMALL: Final = "small"
DEBIAN: Final = "debian-12"
BUCKET: Final = "mallee-images"
# Beside every cloud's home: one build serves them all, and outlives them.
_BUILDS: Final = Path("/var/cache/mallee/images")
_PART_BYTES: Final = 16 << 20

app = typer.Typer(help="Guest images.", no_args_is_help=True)
app.command()(bundle)


class Files(Protocol):
    """What makes a machine: the last alone is the root file system."""

    @property
    def kernel(self) -> Path: ...
    @property
    def ramdisk(self) -> Path: ...
    @property
    def machine(self) -> Path: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recipe:
    """`build` makes the files in a folder, unless they are there."""

    build: Callable[[Path, Report], Files]
    description: str


_RECIPES: Final = {
    SMALL: _Recipe(
        build=small.build, description="Small guest: busybox and an ssh server on Debian's cloud kernel; log in as root"
    ),
    DEBIAN: _Recipe(build=debian.build, description="Debian 12 with cloud-init; log in as admin"),
}


@app.command()
def install(
    home: Home,
    name: Annotated[str, typer.Argument(help=f"Which one: {', '.join(_RECIPES)}.")] = SMALL,
    as_json: Json = False,
) -> None:
    """Builds an image from Debian packages, uploads and registers it."""
    with plain_errors():
        if name not in _RECIPES:
            raise Unsupported(f"there is no image {name!r} to install: there are {', '.join(_RECIPES)}")
        client = Client.of(site(home))
        image_id = ensure(client, credentials.fetch(client, ""), name)
    if as_json:
        print_json({"ImageId": image_id, "Name": name})
    else:
        out.print(f"{image_id} is ready.", markup=False)


def ensure(client: Client, mine: credentials.Credentials, image: str = SMALL) -> str:
    """The id of the image in the account; built, uploaded and registered if it is not there."""
    recipe = _RECIPES[image]
    with _api_errors(), _progress() as bars, _files(client, image, bars) as files:
        name = f"{image}-{_digest(files)}"
        ec2 = mine.boto3_client("ec2")
        if there := _registered(ec2, name):
            return there
        _upload(mine.boto3_client("s3"), files, name, bars)
        bars.add_task("registering the guest image", total=None)
        kernel, ramdisk = (
            _registered(ec2, f"{name}-{part}")
            or ec2.register_image(Name=f"{name}-{part}", ImageLocation=f"{BUCKET}/{name}/{part}")["ImageId"]
            for part in ("kernel", "ramdisk")
        )
        image_id: str = ec2.register_image(
            Name=name,
            Description=recipe.description,
            ImageLocation=f"{BUCKET}/{name}/machine",
            KernelId=kernel,
            RamdiskId=ramdisk,
            Architecture="x86_64",
            VirtualizationType="hvm",
        )["ImageId"]
        for part_id in (kernel, ramdisk, image_id):
            _make_public(ec2, part_id)
        return image_id


@contextmanager
def _api_errors() -> Iterator[None]:
    """What the public API refuses is told in one line, as everything else that went wrong."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise Unavailable(f"the guest image could not be registered: {error}") from error


@contextmanager
def _files(client: Client, image: str, bars: Progress) -> Iterator[Files]:
    if is_fake(client.config):
        # The fake hypervisor boots nothing: stand-ins of each kind will do, and need neither root nor Debian.
        with tempfile.TemporaryDirectory(prefix="mallee-image-") as folder:
            yield _stand_ins(Path(folder))
        return
    task = bars.add_task("the guest image", total=1.0)
    yield _RECIPES[image].build(
        _BUILDS / image, lambda step, share: bars.update(task, description=step, completed=share)
    )


def _digest(files: Files) -> str:
    whole = hashlib.sha256()
    for path in (files.kernel, files.ramdisk, files.machine):
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:12]


@dataclass(frozen=True, slots=True, kw_only=True)
class _StandIns:
    kernel: Path
    ramdisk: Path
    machine: Path


def _stand_ins(folder: Path) -> Files:
    """Files that are told apart by their content as the real ones are.

    The boot sector's mark and "HdrS": https://www.kernel.org/doc/html/latest/arch/x86/boot.html
    """
    kernel = bytearray(4096)
    kernel[0x1FE:0x200] = b"\x55\xaa"
    kernel[0x202:0x206] = b"HdrS"
    files = _StandIns(kernel=folder / "kernel", ramdisk=folder / "ramdisk", machine=folder / "machine")
    files.kernel.write_bytes(kernel)
    files.ramdisk.write_bytes(gzip.compress(b"070701" + bytes(104) + b"TRAILER!!!\0", mtime=0))
    files.machine.write_bytes(bytes(1 << 20))
    return files


def _upload(s3: Any, files: Files, name: str, bars: Progress) -> None:
    from boto3.s3.transfer import TransferConfig

    s3.create_bucket(Bucket=BUCKET)
    parts = {"kernel": files.kernel, "ramdisk": files.ramdisk, "machine": files.machine}
    task = bars.add_task("uploading the guest image", total=sum(path.stat().st_size for path in parts.values()))
    settings = TransferConfig(multipart_threshold=_PART_BYTES, multipart_chunksize=_PART_BYTES, max_concurrency=4)
    for part, path in parts.items():
        s3.upload_file(str(path), BUCKET, f"{name}/{part}", Config=settings, Callback=_Advance(bars, task))


@dataclass(frozen=True, slots=True)
class _Advance:
    bars: Progress
    task: TaskID

    def __call__(self, count: int) -> None:
        self.bars.advance(self.task, count)


def _registered(ec2: Any, name: str) -> str | None:
    found = ec2.describe_images(Owners=["self"], Filters=[{"Name": "name", "Values": [name]}])["Images"]
    return found[0]["ImageId"] if found else None


def _make_public(ec2: Any, image_id: str) -> None:
    from botocore.exceptions import ClientError

    try:
        ec2.modify_image_attribute(ImageId=image_id, LaunchPermission={"Add": [{"Group": "all"}]})
    except ClientError as error:
        # Without it the image is the first account's alone.
        if error.response["Error"]["Code"] != "UnsupportedOperation":
            raise


def _progress() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), console=err, transient=True)
