"""Images: what is pinned, what is refused, and who may fetch it. The hostile ones are made by qemu-img itself."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import os
import struct
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from google.protobuf.timestamp_pb2 import Timestamp

from common import pki, ticket
from common.bundle import manifest as manifests
from common.bundle.pack import pack
from common.errors import CloudError, Denied, InvalidArgument, NotFound, WrongState
from common.rpc.channel import cloud_errors
from mallee.nc.v1 import instance_pb2
from mallee.s3.v1 import object_pb2
from mallee.walrus.v1 import service_pb2
from services.walrus.delete import delete_object
from services.walrus.drivers.base import BlobId
from services.walrus.images import Images
from tests.service.walrus_fixtures import certificates, stage
from tests.service.walrus_stage import WalrusStage, said_by
from tests.walrus_store import ALICE, BOB, begin_upload, complete, put_bytes, upload_part

__all__ = ["certificates", "stage"]

AMI = "ami-00000000000000001"
DISK = bytes(range(256)) * 4096
SECRET = b"root:secret\n" * 100
KERNEL = b"MZ" + bytes(0x1FC) + b"\x55\xaa\xeb\x66HdrS" + bytes(1000)
RAMDISK = gzip.compress(b"070701" + bytes(100))


def qemu_img(*arguments: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)


async def pin(
    stage: WalrusStage, image_id: str = AMI, key: str = "disk", kind: int = 0
) -> service_pb2.PinImageResponse:
    request = service_pb2.PinImageRequest(image_id=image_id, bucket="bucket", key=key.encode())
    request.kind = kind  # type: ignore[assignment]
    return await (await stage.walrus()).PinImage(request, metadata=said_by(ALICE), timeout=30)


async def refused(stage: WalrusStage, kind: int = 0) -> str:
    with pytest.raises(InvalidArgument) as caught:
        await pin(stage, kind=kind)
    assert list((stage.root / "pins").iterdir()) == []
    return caught.value.message


async def test_a_raw_disk_is_pinned_under_its_content_and_survives_its_object(stage: WalrusStage) -> None:
    await put_bytes(stage.store, "disk", DISK)
    answer = await pin(stage)
    assert answer.sha256 == hashlib.sha256(DISK).hexdigest()
    assert (answer.size_bytes, answer.virtual_size_bytes) == (len(DISK), len(DISK))
    assert (answer.format, answer.kind) == (instance_pb2.IMAGE_FORMAT_RAW, service_pb2.IMAGE_KIND_MACHINE)
    await put_bytes(stage.store, "disk", b"else")
    assert (stage.root / "pins" / answer.sha256).read_bytes().startswith(DISK)
    assert await pin(stage) == answer


async def test_an_image_of_several_parts_is_assembled(stage: WalrusStage) -> None:
    upload_id = await begin_upload(stage.store, "disk")
    halves = (DISK[:300_000], DISK[300_000:])
    parts = {n: await upload_part(stage.store, "disk", upload_id, n, body) for n, body in enumerate(halves, 1)}
    await complete(stage.store, "disk", upload_id, parts)
    assert (await pin(stage)).sha256 == hashlib.sha256(DISK).hexdigest()


async def test_an_image_is_pinned_once_and_let_go_though_it_is_asked_for_again_meanwhile(stage: WalrusStage) -> None:
    await put_bytes(stage.store, "disk", DISK)
    drafts = stage.root / "pins"
    whole, exported, goes_on = stage.store.blobs.export, asyncio.Event(), asyncio.Event()

    async def slow(blobs: Sequence[BlobId], path: Path, *, exact: bool = False) -> int:
        size = await whole(blobs, path, exact=exact)
        if not exported.is_set():
            exported.set()
            await goes_on.wait()
        return size

    stage.store.blobs.export = slow  # type: ignore[method-assign]
    first = asyncio.ensure_future(pin(stage))
    await exported.wait()
    await put_bytes(stage.store, "disk", DISK[::-1])
    walrus = await stage.walrus("clc-1")
    again = asyncio.ensure_future(pin(stage))
    # Longer than it takes where nothing holds it up.
    await asyncio.wait([again], timeout=0.5)
    goes_on.set()
    assert (await first).sha256 == (await again).sha256 == hashlib.sha256(DISK).hexdigest()
    assert [path.name for path in drafts.iterdir()] == [hashlib.sha256(DISK).hexdigest()]
    await walrus.UnpinImage(service_pb2.UnpinImageRequest(image_id=AMI))
    assert list(drafts.iterdir()) == []


async def test_a_small_image_that_stands_in_the_index_is_pinned_too(stage: WalrusStage) -> None:
    await put_bytes(stage.store, "disk", RAMDISK)
    assert (await pin(stage)).size_bytes == len(RAMDISK)


async def test_the_content_tells_kernels_and_ramdisks_from_disks(stage: WalrusStage) -> None:
    for number, (body, kind) in enumerate(
        (
            (KERNEL, service_pb2.IMAGE_KIND_KERNEL),
            (RAMDISK, service_pb2.IMAGE_KIND_RAMDISK),
            (b"070701" + bytes(100), service_pb2.IMAGE_KIND_RAMDISK),
            (DISK, service_pb2.IMAGE_KIND_MACHINE),
        )
    ):
        await put_bytes(stage.store, "disk", body)
        assert (await pin(stage, f"ami-{number:017x}")).kind == kind


async def test_a_claimed_kind_must_be_what_the_content_is(stage: WalrusStage) -> None:
    await put_bytes(stage.store, "disk", DISK)
    assert "kernel" in await refused(stage, kind=service_pb2.IMAGE_KIND_KERNEL)
    assert "ramdisk" in await refused(stage, kind=service_pb2.IMAGE_KIND_RAMDISK)
    await put_bytes(stage.store, "disk", RAMDISK)
    assert "compressed" in await refused(stage, kind=service_pb2.IMAGE_KIND_MACHINE)


async def test_a_clean_qcow2_is_pinned_as_one(stage: WalrusStage, tmp_path: Path) -> None:
    qemu_img("create", "-f", "qcow2", tmp_path / "disk", "10M")
    await put_bytes(stage.store, "disk", (tmp_path / "disk").read_bytes())
    answer = await pin(stage)
    assert (answer.format, answer.virtual_size_bytes) == (instance_pb2.IMAGE_FORMAT_QCOW2, 10 << 20)


@pytest.mark.parametrize("version", ["0.10", "1.1"])
async def test_an_image_that_would_read_a_file_of_the_host_is_refused(
    stage: WalrusStage, tmp_path: Path, version: str
) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    qemu_img(
        "create", "-f", "qcow2", "-o", f"compat={version}", "-b", tmp_path / "secret", "-F", "raw", tmp_path / "disk"
    )
    await put_bytes(stage.store, "disk", (tmp_path / "disk").read_bytes())
    assert "backing file" in await refused(stage)


async def test_an_image_with_an_external_data_file_is_refused(stage: WalrusStage, tmp_path: Path) -> None:
    qemu_img(
        "create", "-f", "qcow2", "-o", f"data_file={tmp_path / 'secret'},data_file_raw=on", tmp_path / "disk", "1M"
    )
    hostile = (tmp_path / "disk").read_bytes()
    await put_bytes(stage.store, "disk", hostile)
    assert "external" in await refused(stage)
    # Without the feature bit but with the name in the header: it may not come near qemu-img either.
    features = int.from_bytes(hostile[72:80], "big") & ~4
    await put_bytes(stage.store, "disk", hostile[:72] + features.to_bytes(8, "big") + hostile[80:])
    assert "external" in await refused(stage)


async def test_encryption_snapshots_and_foreign_formats_are_refused(stage: WalrusStage, tmp_path: Path) -> None:
    qemu_img("create", "-f", "qcow2", tmp_path / "encrypted", "1M")
    plain = (tmp_path / "encrypted").read_bytes()
    # Making a real one measures the machine's speed, and fails on a busy one.
    (tmp_path / "encrypted").write_bytes(plain[:32] + struct.pack(">I", 2) + plain[36:])
    qemu_img("create", "-f", "qcow2", tmp_path / "snapshots", "1M")
    qemu_img("snapshot", "-c", "one", tmp_path / "snapshots")
    for name in ("vmdk", "vdi", "vhdx", "qed"):
        qemu_img("create", "-f", name, tmp_path / name, "1M")
    for name in ("encrypted", "snapshots", "vmdk", "vdi", "vhdx", "qed"):
        await put_bytes(stage.store, "disk", (tmp_path / name).read_bytes())
        assert "What to do" in await refused(stage), name


async def test_a_header_that_lies_to_qemu_img_is_refused(stage: WalrusStage, tmp_path: Path) -> None:
    qemu_img("create", "-f", "qcow2", tmp_path / "disk", "10M")
    good = (tmp_path / "disk").read_bytes()
    for change in (
        good[:36] + struct.pack(">I", 1 << 30) + good[40:],
        good[:20] + struct.pack(">I", 63) + good[24:],
        good[:50],
        good[:4] + struct.pack(">I", 9) + good[8:],
        good[:24] + struct.pack(">Q", 0) + good[32:],
    ):
        await put_bytes(stage.store, "disk", change)
        assert "refused" in await refused(stage)


async def test_half_a_sector_and_nothing_at_all_are_no_disks(stage: WalrusStage) -> None:
    await put_bytes(stage.store, "disk", DISK + b"x")
    assert "truncate" in await refused(stage)
    await put_bytes(stage.store, "disk", b"")
    assert "empty" in await refused(stage)


async def test_only_ones_own_images_are_pinned(stage: WalrusStage) -> None:
    walrus = await stage.walrus()
    await put_bytes(stage.store, "disk", DISK)
    request = service_pb2.PinImageRequest(image_id=AMI, bucket="bucket", key=b"disk")
    with pytest.raises(Denied):
        await walrus.PinImage(request, metadata=said_by(BOB))
    with pytest.raises(Denied):
        await walrus.PinImage(request)
    with pytest.raises(NotFound) as caught:
        await pin(stage, key="nothing")
    assert caught.value.code == "InvalidManifest"
    await pin(stage)
    with pytest.raises(WrongState):
        await pin(stage, key="other")


async def test_bytes_stay_until_the_last_pin_is_gone(stage: WalrusStage) -> None:
    walrus = await stage.walrus()
    await put_bytes(stage.store, "disk", DISK)
    first, second = "ami-00000000000000001", "ami-00000000000000002"
    sha256 = (await pin(stage, first)).sha256
    await pin(stage, second)
    for _ in range(2):
        await walrus.UnpinImage(service_pb2.UnpinImageRequest(image_id=first))
    assert (stage.root / "pins" / sha256).exists()
    third = service_pb2.CopyPinRequest(source_image_id=second, image_id="ami-00000000000000003")
    for _ in range(2):
        await walrus.CopyPin(third)
    await walrus.UnpinImage(service_pb2.UnpinImageRequest(image_id=second))
    assert (stage.root / "pins" / sha256).exists()
    await walrus.UnpinImage(service_pb2.UnpinImageRequest(image_id=third.image_id))
    assert list((stage.root / "pins").iterdir()) == []
    with pytest.raises(NotFound):
        await walrus.CopyPin(third)


async def put_bundle(stage: WalrusStage, folder: Path, image: bytes, *, sealed_for: str = "") -> bytes:
    """Its manifest's text stands in the bucket, beside its parts, as disk.manifest.xml; the signer's certificate."""
    path = folder / "disk"
    path.write_bytes(image)
    key, iv = b"k" * 16, b"i" * 16
    packed = pack(path, folder, "disk", key=key, iv=iv, part_bytes=100_000)
    user, signer = pki.self_signed("alice")
    cloud, _ = pki.self_signed(sealed_for) if sealed_for else pki.load_self_signed(stage.certificates, "bundle")
    described = manifests.Described(name="disk", account_id=ALICE.account_id, kernel_id="aki-00000000000000007")
    text = manifests.render(described, packed, key=key, iv=iv, cloud=cloud, user=user, signer=signer)
    await put_bytes(stage.store, "folder/disk.manifest.xml", text)
    for part in packed.parts:
        await put_bytes(stage.store, f"folder/{part.filename}", (folder / part.filename).read_bytes())
    return user.public_bytes(serialization.Encoding.PEM)


async def pin_bundle(stage: WalrusStage, *certificates: bytes) -> service_pb2.PinImageResponse:
    request = service_pb2.PinImageRequest(
        image_id=AMI, bucket="bucket", key=b"folder/disk.manifest.xml", signing_certificates=certificates
    )
    return await (await stage.walrus()).PinImage(request, metadata=said_by(ALICE), timeout=30)


async def test_a_bundle_is_the_image_in_it(stage: WalrusStage, tmp_path: Path) -> None:
    image = os.urandom(512 << 10)
    certificate = await put_bundle(stage, tmp_path, image)
    answer = await pin_bundle(stage, certificate)
    assert answer.sha256 == hashlib.sha256(image).hexdigest()
    assert answer.kernel_id == "aki-00000000000000007"
    assert [path.name for path in (stage.root / "pins").iterdir()] == [answer.sha256]


@pytest.mark.parametrize("wrong", ["signature", "cloud", "part missing", "part changed", "format"])
async def test_a_bundle_that_is_not_whole_is_refused_and_leaves_nothing(
    stage: WalrusStage, tmp_path: Path, wrong: str
) -> None:
    image = b"KDMV" + os.urandom(512 << 10) if wrong == "format" else os.urandom(512 << 10)
    certificate = await put_bundle(stage, tmp_path, image, sealed_for="another" if wrong == "cloud" else "")
    match wrong:
        case "signature":
            certificate = pki.self_signed("mallory")[0].public_bytes(serialization.Encoding.PEM)
        case "part missing":
            gone = object_pb2.DeleteObjectRequest(bucket="bucket", key="folder/disk.part.01")
            await delete_object(stage.store, gone, ALICE)
        case "part changed":
            await put_bytes(stage.store, "folder/disk.part.01", b"else")
    with pytest.raises(CloudError) as caught:
        await pin_bundle(stage, certificate)
    assert caught.value.code == ("InvalidParameterValue" if wrong == "format" else "InvalidManifest")
    assert list((stage.root / "pins").iterdir()) == []


async def test_leftovers_of_a_crash_are_swept_and_pins_are_not(stage: WalrusStage) -> None:
    await put_bytes(stage.store, "disk", DISK)
    sha256 = (await pin(stage)).sha256
    (stage.root / "pins" / "draft-1").write_bytes(b"x")
    (stage.root / "pins" / "bundling-1-parts").mkdir()
    (stage.root / "pins" / "bundling-1-parts" / "no.part.00").write_bytes(b"x")
    _, opener = pki.load_self_signed(stage.certificates, pki.BUNDLE_OPENER)
    await Images(stage.store, stage.root / "pins", ticket_key=b"", opener=opener, now_s=time.time).open()
    assert [path.name for path in (stage.root / "pins").iterdir()] == [sha256]


async def fetched(
    stage: WalrusStage, sha256: str, *, member: str = "nc-a-1", node: str = "nc-a-1", offset: int = 0, age_s: int = 0
) -> bytes:
    expires = int(time.time()) + 60 - age_s
    wide = ticket.mint(stage.ticket_key, sha256=sha256, image_id=AMI, expires_unix_s=expires)
    request = service_pb2.FetchImageRequest(
        image_id=AMI,
        sha256=sha256,
        offset=offset,
        ticket=ticket.narrow(wide, node=node),
        ticket_expires=Timestamp(seconds=expires),
    )
    with cloud_errors():
        answers = (await stage.walrus(member)).FetchImage(request)
        return b"".join([answer.chunk async for answer in answers])


async def test_a_node_fetches_with_its_own_ticket_from_any_offset(stage: WalrusStage) -> None:
    await put_bytes(stage.store, "disk", DISK)
    sha256 = (await pin(stage)).sha256
    assert await fetched(stage, sha256) == DISK
    assert await fetched(stage, sha256, offset=1_000_000) == DISK[1_000_000:]
    assert await fetched(stage, sha256, offset=len(DISK)) == b""
    for members in ({"node": "nc-a-2"}, {"member": "nc-a-2"}, {"age_s": 61}):
        with pytest.raises(Denied):
            await fetched(stage, sha256, **members)
    with pytest.raises(NotFound):
        await fetched(stage, "0" * 64)
    with pytest.raises(InvalidArgument):
        await fetched(stage, sha256, offset=len(DISK) + 1)


async def test_pins_of_one_content_at_once_do_not_disturb_each_other(stage: WalrusStage) -> None:
    await put_bytes(stage.store, "disk", DISK)
    answers = await asyncio.gather(*(pin(stage, f"ami-{n:017x}") for n in range(6)), return_exceptions=True)
    assert not [answer for answer in answers if isinstance(answer, CloudError)]
    assert len(list((stage.root / "pins").iterdir())) == 1


@pytest.mark.parametrize("parts", [1, 2])
async def test_an_image_that_the_store_encrypted_is_pinned_as_what_it_is(stage: WalrusStage, parts: int) -> None:
    upload_id = await begin_upload(stage.store, "disk", server_side_encryption="AES256")
    bodies = (DISK,) if parts == 1 else (DISK[:300_000], DISK[300_000:])
    etags = {n: await upload_part(stage.store, "disk", upload_id, n, body) for n, body in enumerate(bodies, 1)}
    await complete(stage.store, "disk", upload_id, etags)
    answer = await pin(stage)
    assert answer.sha256 == hashlib.sha256(DISK).hexdigest()
    assert (stage.root / "pins" / answer.sha256).read_bytes() == DISK
    await put_bytes(stage.store, "disk", RAMDISK, server_side_encryption="AES256")
    assert (await pin(stage, "ami-00000000000000002")).size_bytes == len(RAMDISK)


async def test_an_image_that_only_its_owner_can_read_is_refused(stage: WalrusStage) -> None:
    key = bytes(32)
    await put_bytes(
        stage.store,
        "disk",
        DISK,
        sse_customer_algorithm="AES256",
        sse_customer_key=base64.b64encode(key).decode(),
        sse_customer_key_md5=base64.b64encode(hashlib.md5(key).digest()).decode(),
    )
    assert "SSE-C" in await refused(stage)
