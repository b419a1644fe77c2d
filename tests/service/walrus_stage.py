"""Walrus behind its real gRPC server with mutual TLS, and channels to it as other members."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common import pki
from common.pki import Identity
from common.rpc.channel import CloudChannel, connect
from common.rpc.context import CALLER_KEY
from common.rpc.server import RpcServer
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1.service_pb2_grpc import S3ServiceStub, add_S3ServiceServicer_to_server
from mallee.walrus.v1.service_pb2_grpc import WalrusServiceStub, add_WalrusServiceServicer_to_server
from mallee.walrus.v1.upkeep_pb2_grpc import add_UpkeepServiceServicer_to_server
from services.walrus.backup import Backups
from services.walrus.bundle_image import Bundles
from services.walrus.holdings import Allowances
from services.walrus.images import Images
from services.walrus.master_keys import MasterKeys
from services.walrus.s3_service import S3Service
from services.walrus.scrub import Scrubber
from services.walrus.service import WalrusService
from services.walrus.store import Limits, Store
from services.walrus.upkeep_service import UpkeepService
from tests.walrus_store import KEYRING, LIMITS, make_bucket, opened_store

if TYPE_CHECKING:
    # The stubs' types know them, the generated code does not.
    from mallee.s3.v1.service_pb2_grpc import S3ServiceAsyncStub
    from mallee.walrus.v1.service_pb2_grpc import WalrusServiceAsyncStub

MEMBERS = {
    "walrus-1": "walrus",
    "walrus-2": "walrus",
    "facade-1": "facade",
    "clc-1": "clc",
    "sc-a": "sc",
    "nc-a-1": "nc",
    "nc-a-2": "nc",
    "admin": "admin",
}


@dataclass(kw_only=True)
class WalrusStage:
    root: Path
    store: Store
    images: Images
    ticket_key: bytes
    port: int
    certificates: Path
    stack: AsyncExitStack

    async def channel(self, member: str) -> CloudChannel:
        identity = Identity.load(self.certificates, member)
        return await self.stack.enter_async_context(connect(f"127.0.0.1:{self.port}", identity, "walrus-1"))

    async def s3(self, member: str = "facade-1") -> S3ServiceAsyncStub:
        return S3ServiceStub(await self.channel(member))

    async def walrus(self, member: str = "clc-1") -> WalrusServiceAsyncStub:
        return WalrusServiceStub(await self.channel(member))


def said_by(caller: Caller) -> tuple[tuple[str, bytes], ...]:
    """Metadata that speaks for a caller."""
    return ((CALLER_KEY, caller.SerializeToString()),)


def make_certificates(folder: Path) -> Path:
    pki.create_authority(folder)
    for member, role in MEMBERS.items():
        pki.issue(folder, member, role)
    pki.create_self_signed(folder, pki.BUNDLE_OPENER)
    return folder


@asynccontextmanager
async def walrus_stage(root: Path, certificates: Path, limits: Limits = LIMITS) -> AsyncIterator[WalrusStage]:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(opened_store(root, limits))
        key = secrets.token_bytes(32)
        certificate, opener = pki.load_self_signed(certificates, pki.BUNDLE_OPENER)
        images = Images(store, root / "pins", ticket_key=key, opener=opener, now_s=time.time)
        await images.open()
        bundles = Bundles(store=store, folder=root / "pins", ticket_key=key, certificate=certificate, key=opener)
        server = RpcServer(Identity.load(certificates, "walrus-1"))
        server.add(add_S3ServiceServicer_to_server, S3Service(store))
        server.add(add_WalrusServiceServicer_to_server, WalrusService(store, images, bundles))
        keys = MasterKeys(store=store, load=lambda: KEYRING)
        backups = Backups(store=store, images=images, staging=root / "staging", member="walrus-1")
        scrubber = Scrubber(store=store, pins=root / "pins", bytes_per_s=0, cycle_s=3600)
        server.add(
            add_UpkeepServiceServicer_to_server, UpkeepService(store, scrubber, backups, keys, Allowances(store))
        )
        await stack.enter_async_context(server)
        await make_bucket(store)
        yield WalrusStage(
            root=root,
            store=store,
            images=images,
            ticket_key=key,
            port=server.ports[0],
            certificates=certificates,
            stack=stack,
        )
