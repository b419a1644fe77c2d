"""Walrus and the storage controller of the zone, as the node needs them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from common.errors import NotFound, Unavailable
from common.rpc.channel import cloud_errors
from common.rpc.peers import Peers
from common.shards import Shards
from mallee.nc.v1 import instance_pb2
from mallee.sc.v1 import service_pb2 as sc
from mallee.sc.v1 import volume_pb2
from mallee.sc.v1.service_pb2_grpc import StorageControllerServiceStub
from mallee.walrus.v1 import service_pb2, service_pb2_grpc

# Of one try: the storage controller waits for the grant for less.
_REDEEM_S: Final = 30.0


class WalrusImages:
    """Implements ImageSource. Without `walrus` yet (etcd has not answered) it is Unavailable."""

    def __init__(self, shards: Shards) -> None:
        self.walrus: Peers | None = None
        self._shards = shards

    async def fetch(self, image: instance_pb2.Image, offset: int) -> AsyncGenerator[bytes, None]:
        request = service_pb2.FetchImageRequest(
            image_id=image.image_id,
            sha256=image.sha256,
            offset=offset,
            ticket=image.ticket,
            ticket_expires=image.ticket_expires,
        )
        if self.walrus is None:
            raise Unavailable("Walrus is not known yet")
        *others, last = self._shards
        for member in others:
            try:
                async with aclosing(_fetched(self.walrus, member, request)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            except NotFound:
                # It is kept where the object is that it was registered from.
                continue
            return
        async with aclosing(_fetched(self.walrus, last, request)) as chunks:
            async for chunk in chunks:
                yield chunk


async def _fetched(walrus: Peers, member: str, request: service_pb2.FetchImageRequest) -> AsyncGenerator[bytes, None]:
    with cloud_errors():
        call = walrus.stub(service_pb2_grpc.WalrusServiceStub, member).FetchImage(request)
        try:
            async for answer in call:
                yield answer.chunk
        finally:
            call.cancel()


class StorageExports:
    """Implements Exports. Without `storage` yet (etcd has not answered) it is Unavailable."""

    def __init__(self, host_id: str) -> None:
        self.storage: Peers | None = None
        self._host_id = host_id

    async def redeem(self, volume_id: str, generation: int) -> volume_pb2.Export:
        if self.storage is None:
            raise Unavailable("the storage controller is not known yet")
        stub = self.storage.leader_stub(StorageControllerServiceStub)
        request = sc.RedeemExportRequest(volume_id=volume_id, generation=generation, host_id=self._host_id)
        answer = await stub.RedeemExport(request, timeout=_REDEEM_S)
        return answer.export
