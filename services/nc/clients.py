"""Walrus, as the node needs it."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from common.errors import Unavailable
from common.rpc.channel import cloud_errors
from common.rpc.peers import Peers
from mallee.nc.v1 import instance_pb2
from mallee.walrus.v1 import service_pb2, service_pb2_grpc


class WalrusImages:
    """Implements ImageSource. Without `walrus` yet (etcd has not answered) it is Unavailable."""

    def __init__(self) -> None:
        self.walrus: Peers | None = None

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
        stub = self.walrus.stub(service_pb2_grpc.WalrusServiceStub)
        with cloud_errors():
            call = stub.FetchImage(request)
            try:
                async for answer in call:
                    yield answer.chunk
            finally:
                call.cancel()
