"""A node's image that becomes a bundle: whole in its bucket, or nowhere."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator

from google.protobuf.timestamp_pb2 import Timestamp

from common import ticket
from mallee.nc.v1 import instance_pb2 as nc
from mallee.s3.v1 import listing_pb2
from mallee.walrus.v1 import service_pb2
from services.walrus.listing import list_objects_v2
from tests.eventually import eventually
from tests.service.walrus_fixtures import certificates, stage
from tests.service.walrus_stage import WalrusStage
from tests.walrus_store import ALICE

__all__ = ["certificates", "stage"]

NODE = "nc-a-1"
# What no compression makes smaller takes some time to pack.
IMAGE_BYTES = 48 << 20


async def image(stage: WalrusStage) -> AsyncIterator[service_pb2.BundleImageRequest]:
    expires = int(time.time()) + 60
    wide = ticket.mint_bundle(
        stage.ticket_key, account_id=ALICE.account_id, bucket="bucket", prefix="mine", expires_unix_s=expires
    )
    order = nc.BundleOrder(
        bundle_id="bun-1",
        account_id=ALICE.account_id,
        bucket="bucket",
        prefix="mine",
        ticket=ticket.narrow(wide, node=NODE),
        ticket_expires=Timestamp(seconds=expires),
    )
    yield service_pb2.BundleImageRequest(order=order, size_bytes=IMAGE_BYTES)
    for _ in range(IMAGE_BYTES >> 20):
        yield service_pb2.BundleImageRequest(chunk=os.urandom(1 << 20))
    yield service_pb2.BundleImageRequest(complete=True)


async def test_a_bundle_that_is_given_up_while_it_is_packed_leaves_nothing(stage: WalrusStage) -> None:
    folder = stage.root / "pins"
    call = (await stage.walrus(NODE)).BundleImage(image(stage))
    making = asyncio.ensure_future(call)
    await eventually(lambda: list(folder.glob("*-parts/*")))
    making.cancel()
    await eventually(lambda: not list(folder.iterdir()))
    listed = await list_objects_v2(stage.store, listing_pb2.ListObjectsV2Request(bucket="bucket"), ALICE)
    assert not listed.contents


async def test_a_bundle_is_in_its_bucket_with_its_manifest(stage: WalrusStage) -> None:
    answer = await (await stage.walrus(NODE)).BundleImage(image(stage))
    listed = await list_objects_v2(stage.store, listing_pb2.ListObjectsV2Request(bucket="bucket"), ALICE)
    keys = [one.key for one in listed.contents]
    assert answer.manifest_key in keys
    assert len(keys) == 1 + -(-IMAGE_BYTES // (10 << 20))
    assert not list((stage.root / "pins").iterdir())
