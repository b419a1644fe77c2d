"""What the CLC asks of Walrus: to look at images and keep their bytes, to copy and forget snapshots, to clear out an
account."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from common.errors import NotFound
from common.rpc.peers import Peers
from common.shards import Shards
from mallee.nc.v1 import instance_pb2
from mallee.walrus.v1 import service_pb2, service_pb2_grpc

# Walrus reads the whole image once, to hash it.
_PIN_TIMEOUT_S: Final = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """An image as Walrus found it."""

    kind: service_pb2.ImageKind.ValueType
    sha256: str
    size_bytes: int
    format: instance_pb2.ImageFormat.ValueType
    virtual_size_bytes: int
    # As a bundle says of itself.
    architecture: str = ""
    kernel_id: str = ""
    ramdisk_id: str = ""


class ImageStore(Protocol):
    async def pin(self, image_id: str, *, bucket: str, key: str, certificates: Sequence[str] = ()) -> Pinned:
        """For the current caller, one of whose `certificates` (PEM) has signed it if it is a bundle. Idempotent.

        Raises CloudError in words for the user when it is refused.
        """

    async def copy_pin(self, source_id: str, image_id: str) -> None:
        """Keeps the bytes of one image for another, too. Idempotent. Raises NotFound."""

    async def unpin(self, image_id: str) -> None:
        """Idempotent."""

    async def copy_snapshot(self, source_id: str, snapshot_id: str, account_id: str) -> int:
        """A second one of the same content; nominal bytes of its blocks that are not zero. Idempotent.

        Raises NotFound if there is no such source.
        """

    async def forget_snapshot(self, snapshot_id: str) -> None:
        """Idempotent."""

    async def delete_account_data(self, account_id: str) -> None:
        """Every bucket and object of it. Idempotent."""

    async def has_data(self, account_id: str) -> bool:
        """Does it have a bucket?"""


class WalrusImages:
    """Pins are where their image's object is, snapshots are the first process's."""

    def __init__(self, peers: Peers, shards: Shards = Shards("walrus")) -> None:  # noqa: B008
        self._peers = peers
        self._shards = shards

    async def pin(self, image_id: str, *, bucket: str, key: str, certificates: Sequence[str] = ()) -> Pinned:
        answer = await self._stub(self._shards.of(bucket)).PinImage(
            service_pb2.PinImageRequest(
                image_id=image_id,
                bucket=bucket,
                key=key.encode(),
                signing_certificates=[certificate.encode() for certificate in certificates],
            ),
            timeout=_PIN_TIMEOUT_S,
        )
        return Pinned(
            kind=answer.kind,
            sha256=answer.sha256,
            size_bytes=answer.size_bytes,
            format=answer.format,
            virtual_size_bytes=answer.virtual_size_bytes,
            architecture=answer.architecture,
            kernel_id=answer.kernel_id,
            ramdisk_id=answer.ramdisk_id,
        )

    async def copy_pin(self, source_id: str, image_id: str) -> None:
        request = service_pb2.CopyPinRequest(source_image_id=source_id, image_id=image_id)
        *others, last = self._shards
        for member in others:
            with suppress(NotFound):
                await self._stub(member).CopyPin(request)
                return
        await self._stub(last).CopyPin(request)

    async def unpin(self, image_id: str) -> None:
        for member in self._shards:
            await self._stub(member).UnpinImage(service_pb2.UnpinImageRequest(image_id=image_id))

    async def copy_snapshot(self, source_id: str, snapshot_id: str, account_id: str) -> int:
        request = service_pb2.CopySnapshotRequest(
            source_snapshot_id=source_id, snapshot_id=snapshot_id, account_id=account_id
        )
        return (await self._stub(self._shards.first).CopySnapshot(request)).full_bytes

    async def forget_snapshot(self, snapshot_id: str) -> None:
        await self._stub(self._shards.first).ForgetSnapshot(service_pb2.ForgetSnapshotRequest(snapshot_id=snapshot_id))

    async def delete_account_data(self, account_id: str) -> None:
        request = service_pb2.DeleteAccountDataRequest(account_id=account_id)
        for member in self._shards:
            await self._stub(member).DeleteAccountData(request, timeout=_PIN_TIMEOUT_S)

    async def has_data(self, account_id: str) -> bool:
        request = service_pb2.DescribeStoreRequest(account_id=account_id)
        stores = [await self._stub(member).DescribeStore(request) for member in self._shards]
        return any(store.buckets > 0 for store in stores)

    def _stub(self, member: str) -> service_pb2_grpc.WalrusServiceAsyncStub:
        return self._peers.stub(service_pb2_grpc.WalrusServiceStub, member)
