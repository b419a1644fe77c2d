"""The gRPC handlers of mallee.walrus.v1."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final

from common.rpc.context import current_caller, current_peer
from mallee.nc.v1 import instance_pb2
from mallee.walrus.v1 import service_pb2, service_pb2_grpc
from services.walrus import blocks, transfer, web_calls
from services.walrus.account import delete_account_data
from services.walrus.bundle_image import Bundles
from services.walrus.image import Kind
from services.walrus.images import Images
from services.walrus.snapshots import Snapshots
from services.walrus.store import Store

_KINDS: Final = {
    service_pb2.IMAGE_KIND_MACHINE: Kind.MACHINE,
    service_pb2.IMAGE_KIND_KERNEL: Kind.KERNEL,
    service_pb2.IMAGE_KIND_RAMDISK: Kind.RAMDISK,
}
_KIND_NUMBERS: Final = {kind: number for number, kind in _KINDS.items()}
_FORMATS: Final = {"raw": instance_pb2.IMAGE_FORMAT_RAW, "qcow2": instance_pb2.IMAGE_FORMAT_QCOW2}


class WalrusService(service_pb2_grpc.WalrusServiceServicer):
    def __init__(self, store: Store, images: Images, bundles: Bundles) -> None:
        self._store = store
        self._images = images
        self._bundles = bundles
        self._snapshots = Snapshots(store)

    async def PinImage(self, request: service_pb2.PinImageRequest, context: Any) -> service_pb2.PinImageResponse:
        pin, kind, described = await self._images.pin(
            request.image_id,
            request.bucket,
            request.key,
            wanted=_KINDS.get(request.kind),
            certificates=request.signing_certificates,
            caller=current_caller(),
        )
        return service_pb2.PinImageResponse(
            sha256=pin.sha256,
            size_bytes=pin.size,
            format=_FORMATS[pin.format],
            virtual_size_bytes=pin.virtual_size,
            kind=_KIND_NUMBERS[kind],
            architecture=described.architecture if described else "",
            kernel_id=described.kernel_id if described else "",
            ramdisk_id=described.ramdisk_id if described else "",
        )

    async def CopyPin(self, request: service_pb2.CopyPinRequest, context: Any) -> service_pb2.CopyPinResponse:
        await self._images.copy(request.source_image_id, request.image_id)
        return service_pb2.CopyPinResponse()

    async def UnpinImage(self, request: service_pb2.UnpinImageRequest, context: Any) -> service_pb2.UnpinImageResponse:
        await self._images.unpin(request.image_id)
        return service_pb2.UnpinImageResponse()

    async def FetchImage(
        self, request: service_pb2.FetchImageRequest, context: Any
    ) -> AsyncIterator[service_pb2.FetchImageResponse]:
        peer = current_peer()
        chunks = self._images.fetch(
            request.image_id,
            request.sha256,
            request.offset,
            proof=request.ticket,
            expires_unix_s=request.ticket_expires.seconds,
            node=peer.member_id if peer else "",
        )
        async with aclosing(chunks):
            async for chunk in chunks:
                yield service_pb2.FetchImageResponse(chunk=chunk)

    async def FindBlocks(self, request: service_pb2.FindBlocksRequest, context: Any) -> service_pb2.FindBlocksResponse:
        missing = await blocks.find_blocks(self._store, request.snapshot_id, request.digests)
        return service_pb2.FindBlocksResponse(missing=missing)

    async def StoreBlocks(
        self, request_iterator: AsyncIterator[service_pb2.StoreBlocksRequest], context: Any
    ) -> service_pb2.StoreBlocksResponse:
        stored_bytes = await blocks.store_blocks(self._store, aiter(request_iterator))
        return service_pb2.StoreBlocksResponse(stored_bytes=stored_bytes)

    async def SealSnapshot(
        self, request_iterator: AsyncIterator[service_pb2.SealSnapshotRequest], context: Any
    ) -> service_pb2.SealSnapshotResponse:
        sealed = await self._snapshots.seal(aiter(request_iterator))
        return service_pb2.SealSnapshotResponse(full_bytes=sealed.full_bytes)

    async def ReadSnapshot(
        self, request: service_pb2.ReadSnapshotRequest, context: Any
    ) -> AsyncIterator[service_pb2.ReadSnapshotResponse]:
        async with aclosing(self._snapshots.read(request.snapshot_id)) as answers:
            async for answer in answers:
                yield answer

    async def FetchBlocks(
        self, request: service_pb2.FetchBlocksRequest, context: Any
    ) -> AsyncIterator[service_pb2.FetchBlocksResponse]:
        async with aclosing(blocks.fetch_blocks(self._store, request.digests)) as found:
            async for block in found:
                yield service_pb2.FetchBlocksResponse(block=block)

    async def CopySnapshot(
        self, request: service_pb2.CopySnapshotRequest, context: Any
    ) -> service_pb2.CopySnapshotResponse:
        made = await self._snapshots.copy(request.source_snapshot_id, request.snapshot_id, request.account_id)
        return service_pb2.CopySnapshotResponse(size_bytes=made.size, full_bytes=made.full_bytes)

    async def ForgetSnapshot(
        self, request: service_pb2.ForgetSnapshotRequest, context: Any
    ) -> service_pb2.ForgetSnapshotResponse:
        await self._snapshots.forget(request.snapshot_id)
        return service_pb2.ForgetSnapshotResponse()

    async def FetchObject(
        self, request: service_pb2.FetchObjectRequest, context: Any
    ) -> AsyncIterator[service_pb2.FetchObjectResponse]:
        async with aclosing(transfer.fetch_object(self._store, request)) as answers:
            async for answer in answers:
                yield answer

    async def StoreObject(
        self, request_iterator: AsyncIterator[service_pb2.StoreObjectRequest], context: Any
    ) -> service_pb2.StoreObjectResponse:
        return service_pb2.StoreObjectResponse(etag=await transfer.store_object(self._store, aiter(request_iterator)))

    async def BundleImage(
        self, request_iterator: AsyncIterator[service_pb2.BundleImageRequest], context: Any
    ) -> service_pb2.BundleImageResponse:
        peer = current_peer()
        key = await self._bundles.make(aiter(request_iterator), node=peer.member_id if peer else "", now_s=time.time())
        return service_pb2.BundleImageResponse(manifest_key=key)

    async def GetWebConfiguration(
        self, request: service_pb2.GetWebConfigurationRequest, context: Any
    ) -> service_pb2.GetWebConfigurationResponse:
        return await web_calls.web_configuration(self._store, request.bucket)

    async def DescribeStore(
        self, request: service_pb2.DescribeStoreRequest, context: Any
    ) -> service_pb2.DescribeStoreResponse:
        usage = await self._store.index.usage(request.account_id)
        kept = await self._store.index.blocks.block_usage()
        return service_pb2.DescribeStoreResponse(
            buckets=usage.buckets,
            objects=usage.objects,
            bytes=usage.size,
            pinned_images=usage.pins,
            snapshots=kept.snapshots,
            snapshot_uploads=kept.uploads,
            block_bytes=kept.block_bytes,
            block_waste_bytes=kept.pack_bytes - kept.block_bytes,
        )

    async def DeleteAccountData(
        self, request: service_pb2.DeleteAccountDataRequest, context: Any
    ) -> service_pb2.DeleteAccountDataResponse:
        await delete_account_data(self._store, request.account_id)
        return service_pb2.DeleteAccountDataResponse()
