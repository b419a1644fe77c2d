"""Two stores that share the buckets, each behind its gRPC server: what one asks of the other."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from common.errors import CloudError, Unavailable
from common.pki import Identity
from common.rpc.channel import CloudChannel, connect
from common.rpc.peers import Peers
from common.rpc.server import RpcServer
from common.shards import Shards
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import bucket_access_pb2, bucket_pb2, bucket_policy_pb2, copy_pb2, object_pb2
from mallee.walrus.v1 import shard_pb2, upkeep_pb2
from mallee.walrus.v1.shard_pb2_grpc import ShardServiceStub, add_ShardServiceServicer_to_server
from services.walrus import bucket_access, buckets, copy, delete, policies
from services.walrus.holdings import Allowances
from services.walrus.reclaim import Reclaimer
from services.walrus.shard_service import ShardService
from services.walrus.siblings import Siblings
from services.walrus.store import Store
from services.walrus.upkeep_service import UpkeepService
from tests.eventually import becomes
from tests.service.walrus_stage import make_certificates
from tests.walrus_store import ALICE, BOB, files_of, get_object, make_bucket, opened_store, put_bytes, refused

SHARDS = Shards("walrus", 2)
# By the rule.
HERE, THERE, BOBS = "pair-0", "pair-2", "bobs-1"
LARGE = os.urandom(3 << 20)


class Known:
    """Peers that are known from the start. One that was cut off is not there."""

    def __init__(self, channels: dict[str, CloudChannel]) -> None:
        self.channels = channels

    def stub(self, kind: Any, member_id: str) -> Any:
        if member_id not in self.channels:
            raise Unavailable(f"{member_id} is not there now")
        return kind(self.channels[member_id])


@dataclass(kw_only=True)
class Pair:
    here: Store
    there: Store
    server_there: RpcServer
    allowances: list[Allowances]
    known: Known
    root: Path


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    certificates = make_certificates(tmp_path / "pki")
    async with AsyncExitStack() as stack:
        stores, servers, allowances, known = [], [], [], Known({})
        for shard, member in enumerate(SHARDS):
            store = await stack.enter_async_context(opened_store(tmp_path / member))
            store.siblings = Siblings(SHARDS, shard)
            store.siblings.peers = cast(Peers, known)
            server = RpcServer(Identity.load(certificates, member))
            allowances.append(Allowances(store))
            await allowances[-1].begin()
            server.add(add_ShardServiceServicer_to_server, ShardService(store, allowances[-1]))
            await stack.enter_async_context(server)
            # As any member of the role.
            identity = Identity.load(certificates, SHARDS.first)
            address = f"127.0.0.1:{server.ports[0]}"
            known.channels[member] = await stack.enter_async_context(
                connect(address, identity, member, speak_for_callers=True)
            )
            stores.append(store)
            servers.append(server)
        here, there = stores
        await make_bucket(here, HERE)
        await make_bucket(there, THERE)
        yield Pair(here=here, there=there, server_there=servers[1], allowances=allowances, known=known, root=tmp_path)


async def copied(pair: Pair, key: str) -> copy_pb2.CopyObjectOutput:
    request = copy_pb2.CopyObjectRequest(bucket=HERE, key=key, copy_source=f"{THERE}/{key}")
    return await copy.copy_object(pair.here, request, ALICE)


async def test_who_asks_the_wrong_process_is_never_told_that_a_bucket_is_not_there(pair: Pair) -> None:
    create = bucket_pb2.CreateBucketRequest(bucket=THERE)
    head = bucket_pb2.HeadBucketRequest(bucket=THERE)
    for asked in (
        buckets.create_bucket(pair.here, create, BOB),
        buckets.head_bucket(pair.here, head, ALICE),
        put_bytes(pair.here, "k", b"x", bucket=THERE),
        pair.here.own_bucket(THERE, ALICE),
    ):
        with pytest.raises(Unavailable, match="wrong place"):
            await asked
    await refused("NoSuchBucket", buckets.head_bucket(pair.here, bucket_pb2.HeadBucketRequest(bucket="pair-1"), ALICE))


async def test_buckets_of_all_are_listed_or_none(pair: Pair) -> None:
    await make_bucket(pair.there, "pair-3", BOB)
    for store in (pair.here, pair.there):
        listed = await buckets.list_buckets(store, bucket_pb2.ListBucketsRequest(), ALICE)
        assert [one.name for one in listed.buckets] == [HERE, THERE]
    first = await buckets.list_buckets(pair.here, bucket_pb2.ListBucketsRequest(max_buckets=1), ALICE)
    rest = await buckets.list_buckets(
        pair.here, bucket_pb2.ListBucketsRequest(max_buckets=1, continuation_token=first.continuation_token), ALICE
    )
    assert [one.name for page in (first, rest) for one in page.buckets] == [HERE, THERE]
    assert not rest.continuation_token
    del pair.known.channels["walrus-2"]
    with pytest.raises(Unavailable):
        await buckets.list_buckets(pair.here, bucket_pb2.ListBucketsRequest(), ALICE)


async def test_the_source_of_a_copy_stays_while_it_is_read(pair: Pair) -> None:
    await put_bytes(pair.there, "large", LARGE, bucket=THERE)
    request = shard_pb2.ReadCopySourceRequest(
        object=copy_pb2.CopyObjectRequest(bucket=HERE, key="large", copy_source=f"{THERE}/large")
    )
    async with pair.here.siblings.copy_source(THERE, request, ALICE) as (told, chunks):
        assert told.size_bytes == len(LARGE)
        got = await anext(chunks)
        await delete.delete_object(pair.there, object_pb2.DeleteObjectRequest(bucket=THERE, key="large"), ALICE)
        await Reclaimer(pair.there).collect()
        async for chunk in chunks:
            got += chunk
    assert got == LARGE

    async def is_reclaimed() -> bool:
        await Reclaimer(pair.there).collect()
        return not files_of(pair.root / "walrus-2")

    await becomes(is_reclaimed)


async def test_a_copy_whose_source_breaks_off_leaves_nothing(pair: Pair) -> None:
    await put_bytes(pair.there, "large", LARGE, bucket=THERE)
    (blob,) = (path for path in files_of(pair.root / "walrus-2") if path.stat().st_size > 1 << 20)
    with blob.open("r+b") as file:
        file.seek(len(LARGE) - 1)
        file.write(bytes([LARGE[-1] ^ 1]))
    with pytest.raises(CloudError):
        await copied(pair, "large")
    await refused("NoSuchKey", get_object(pair.here, "large", bucket=HERE))
    assert files_of(pair.root / "walrus-1") == []


async def test_the_owner_of_the_source_decides_who_copies(pair: Pair) -> None:
    await put_bytes(pair.there, "theirs", b"theirs", bucket=THERE, tagging="t=1")
    await make_bucket(pair.here, BOBS, BOB)
    request = copy_pb2.CopyObjectRequest(bucket=BOBS, key="k", copy_source=f"{THERE}/theirs")
    await refused("AccessDenied", copy.copy_object(pair.here, request, BOB))
    await refused("NoSuchKey", get_object(pair.here, "k", bucket=BOBS, caller=BOB))
    done = await copied(pair, "theirs")
    header, body = await get_object(pair.here, "theirs", bucket=HERE)
    assert (body, header.tag_count, header.e_tag) == (b"theirs", 1, done.copy_object_result.e_tag)


async def test_only_processes_of_walrus_ask_like_that(pair: Pair, tmp_path: Path) -> None:
    identity = Identity.load(tmp_path / "pki", "facade-1")
    address = f"127.0.0.1:{pair.server_there.ports[0]}"
    async with connect(address, identity, "walrus-2", speak_for_callers=True) as channel:
        asked = ShardServiceStub(channel).FindShardBucket(shard_pb2.FindShardBucketRequest(name=THERE))
        await refused("UnauthorizedOperation", asked)


async def put_quota(pair: Pair, account_id: str, **limits: Any) -> None:
    """As the operator's command says it: the account's own process first."""
    nobody = cast(Any, None)
    limited = upkeep_pb2.PutQuotaRequest(account_id=account_id, **limits)
    order = (0, 1) if SHARDS.shard_of(account_id) == 0 else (1, 0)
    for number in order:
        store, allowances = (pair.here, pair.there)[number], pair.allowances[number]
        await UpkeepService(store, nobody, nobody, nobody, allowances).PutQuota(limited, None)


# Accounts whose own process is the first, and the second.
def of_shard(shard: int, names: Iterable[str]) -> str:
    return next(name for name in names if SHARDS.shard_of(name) == shard)


def owner_at(shard: int) -> Caller:
    account_id = of_shard(shard, (f"{n}" * 12 for n in range(1, 10)))
    return Caller(account_id=account_id, arn=f"arn:aws:iam::{account_id}:root", canonical_user_id=account_id)


OWNERS = [owner_at(0), owner_at(1)]


async def buckets_of(pair: Pair, owner: Caller) -> list[tuple[Store, str]]:
    found = [(store, of_shard(n, (f"mine-{m}" for m in range(99)))) for n, store in enumerate((pair.here, pair.there))]
    for store, bucket in found:
        await make_bucket(store, bucket, owner)
    return found


@pytest.mark.parametrize("owner", OWNERS)
async def test_an_accounts_quota_is_what_all_stores_have_together(pair: Pair, owner: Caller) -> None:
    (here, mine), (there, other) = await buckets_of(pair, owner)

    async def put(store: Store, bucket: str, key: str, body: bytes) -> None:
        await put_bytes(store, key, body, bucket=bucket, caller=owner)

    await put(there, other, "a", b"four")
    await put_quota(pair, owner.account_id, objects=3, bytes=10)
    await refused("QuotaExceeded", put(here, mine, "b", b"seven!!"))
    await put(here, mine, "b", b"six!!!")
    await refused("QuotaExceeded", put(there, other, "c", b"x"))
    await put(there, other, "c", b"")
    await refused("QuotaExceeded", put(here, mine, "d", b""))
    await delete.delete_object(there, object_pb2.DeleteObjectRequest(bucket=other, key="a"), owner)
    await put(here, mine, "d", b"4444")
    await refused("QuotaExceeded", put(there, other, "e", b""))
    # More, and none any more.
    await put_quota(pair, owner.account_id, objects=4, bytes=11)
    await refused("QuotaExceeded", put(there, other, "e", b"22"))
    await put(there, other, "e", b"1")
    await put_quota(pair, owner.account_id)
    for store, bucket in ((here, mine), (there, other)):
        await put(store, bucket, "f", b"f" * 100)


@pytest.mark.parametrize("owner", OWNERS)
async def test_many_at_once_never_pass_an_accounts_quota_and_fill_it(pair: Pair, owner: Caller) -> None:
    places = await buckets_of(pair, owner)
    await put_quota(pair, owner.account_id, objects=30, bytes=30 * 7 + 6)
    calls = [
        put_bytes(store, f"k{n}", b"seven!!", bucket=bucket, caller=owner)
        for n in range(20)
        for store, bucket in places
    ]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [one for one in outcomes if isinstance(one, BaseException) and not isinstance(one, CloudError)] == []
    assert sum(not isinstance(one, BaseException) for one in outcomes) == 30
    held = [one for store, _ in places for one in await store.index.quotas.buckets(owner.account_id)]
    assert (sum(one.objects for one in held), sum(one.size for one in held)) == (30, 210)
    # What one of them gives up the other may have, by parts as well.
    (here, mine), (there, other) = places
    for n in range(20):
        for store, bucket in places:
            request = object_pb2.DeleteObjectRequest(bucket=bucket, key=f"k{n}")
            await delete.delete_object(store, request, owner)
    await put_bytes(here, "all", b"x" * 216, bucket=mine, caller=owner)
    await refused("QuotaExceeded", put_bytes(there, "more", b"x", bucket=other, caller=owner))


@pytest.mark.parametrize("owner", OWNERS)
async def test_what_is_away_keeps_what_it_was_granted_and_begins_anew_with_nothing(pair: Pair, owner: Caller) -> None:
    places = await buckets_of(pair, owner)
    await put_quota(pair, owner.account_id, bytes=1000)
    for store, bucket in places:
        await put_bytes(store, "k", b"x" * 100, bucket=bucket, caller=owner)
    home = SHARDS.shard_of(owner.account_id)
    away = SHARDS.member(1 - home)
    channel = pair.known.channels.pop(away)
    store, bucket = places[home]
    # It may hold an eighth more than it needed, and nobody asks it.
    await refused("QuotaExceeded", put_bytes(store, "rest", b"x" * 800, bucket=bucket, caller=owner))
    await put_bytes(store, "k", b"x" * 200, bucket=bucket, caller=owner)
    pair.known.channels[away] = channel
    await put_bytes(store, "rest", b"x" * 700, bucket=bucket, caller=owner)
    # Its own process is away: others have what they were granted.
    member = SHARDS.member(home)
    channel = pair.known.channels.pop(member)
    store, bucket = places[1 - home]
    with pytest.raises(Unavailable):
        await put_bytes(store, "more", b"x" * 500, bucket=bucket, caller=owner)
    pair.known.channels[member] = channel
    await refused("QuotaExceeded", put_bytes(store, "more", b"x", bucket=bucket, caller=owner))
    await delete.delete_object(
        places[home][0], object_pb2.DeleteObjectRequest(bucket=places[home][1], key="rest"), owner
    )
    for allowances in pair.allowances:
        again = Allowances(allowances._store)
        allowances.__dict__.update(again.__dict__)
        await allowances.begin()
    await put_bytes(store, "more", b"x" * 700, bucket=bucket, caller=owner)
    await refused("QuotaExceeded", put_bytes(store, "most", b"x", bucket=bucket, caller=owner))


async def test_who_pays_for_a_copy_is_told_wherever_its_source_is(pair: Pair) -> None:
    await make_bucket(pair.here, BOBS, BOB)
    for store, bucket in ((pair.here, HERE), (pair.there, THERE)):
        await put_bytes(store, "k", b"body", bucket=bucket)
        allow = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject*", "Resource": f"arn:aws:s3:::{bucket}/*"}
        block = bucket_access_pb2.DeletePublicAccessBlockRequest(bucket=bucket)
        await bucket_access.delete_public_access_block(store, block, ALICE)
        policy = bucket_policy_pb2.PutBucketPolicyRequest(
            bucket=bucket, policy=json.dumps({"Version": "2012-10-17", "Statement": [allow]})
        )
        await policies.put_bucket_policy(store, policy, ALICE)
        pays = bucket_access_pb2.PutBucketRequestPaymentRequest(bucket=bucket)
        pays.request_payment_configuration.payer = "Requester"
        await bucket_access.put_request_payment(store, pays, ALICE)
        request = copy_pb2.CopyObjectRequest(bucket=BOBS, key="k", copy_source=f"{bucket}/k", request_payer="requester")
        assert (await copy.copy_object(pair.here, request, BOB)).request_charged == "requester"
        request.request_payer = ""
        await refused("AccessDenied", copy.copy_object(pair.here, request, BOB))
