"""What every index engine of Walrus promises for snapshots (services/walrus/drivers/blocks.py)."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from common.blocks import BLOCK_BYTES
from common.errors import CloudError
from services.walrus.drivers.base import BlobId, Index
from services.walrus.drivers.blocks import BlockIndex, Sealed, StoredBlock
from services.walrus.drivers.embedded.index import SqliteIndex
from services.walrus.drivers.fake import FakeIndex, Storage

Engine = Callable[[], AbstractAsyncContextManager[Index]]

GIB = 1 << 30
PAGE = 256


@pytest.fixture(params=["embedded", "fake"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    """Opens the same stored index each time it is called."""

    @asynccontextmanager
    async def embedded() -> AsyncIterator[Index]:
        index = SqliteIndex(tmp_path / "index.sqlite")
        await index.open()
        try:
            yield index
        finally:
            await index.close()

    storage = Storage()

    @asynccontextmanager
    async def fake() -> AsyncIterator[Index]:
        yield FakeIndex(storage)

    return {"embedded": embedded, "fake": fake}[request.param]


@pytest.fixture
async def index(engine: Engine) -> AsyncIterator[Index]:
    async with engine() as index:
        yield index


@pytest.fixture
def blocks(index: Index) -> BlockIndex:
    return index.blocks


def digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def packed(names: str, pack: BlobId | None = None) -> list[StoredBlock]:
    """A block of 100 bytes for each letter, in one pack."""
    pack = pack or BlobId.new()
    return [
        StoredBlock(digest=digest(name), pack=pack, start=100 * n, length=100, size=BLOCK_BYTES, compressed=True)
        for n, name in enumerate(names)
    ]


def snapshot(name: str, size: int = GIB) -> Sealed:
    return Sealed(snapshot_id=name, account_id="1" * 12, size=size, full_bytes=0)


async def made(blocks: BlockIndex, name: str, names: str, *, base: str = "", size: int = GIB) -> Sealed:
    """Each letter is the block at its place; `0` is a zero one, `.` the base's."""
    wanted = sorted(set(names) - set(".0"))
    missing = await blocks.claim(name, [digest(one) for one in wanted], now_ms=1)
    if new := "".join(one for one in wanted if digest(one) in missing):
        await blocks.add(name, packed(new), now_ms=1)
    changes = {place: b"" if one == "0" else digest(one) for place, one in enumerate(names) if one != "."}
    await blocks.undraft(name, now_ms=1)
    if changes:
        await blocks.draft(name, base, {0: changes}, now_ms=1)
    return await blocks.seal(snapshot(name, size), base, now_ms=1)


async def content(blocks: BlockIndex, name: str, names: str) -> str:
    """The first page, in those letters; `0` for zero."""
    letters = {digest(one): one for one in names} | {bytes(32): "0"}
    pages = dict(await blocks.pages(name, after=-1, limit=10))
    page = pages.get(0, bytes(32 * PAGE))
    return "".join(letters[page[32 * n : 32 * n + 32]] for n in range(PAGE)).rstrip("0")


async def drained(blocks: BlockIndex) -> None:
    while await blocks.drain(3):
        pass


async def here(blocks: BlockIndex, names: str) -> str:
    found = {block.digest for block in await blocks.find([digest(one) for one in names])}
    return "".join(one for one in names if digest(one) in found)


async def refused(code: str, call: Awaitable[object]) -> None:
    with pytest.raises(CloudError) as caught:
        await call
    assert caught.value.code == code


async def test_a_sealed_snapshot_is_what_was_said_also_after_opening_again(engine: Engine) -> None:
    async with engine() as index:
        sealed = await made(index.blocks, "one", "ab0b")
        assert sealed == replace(snapshot("one"), full_bytes=3 * BLOCK_BYTES)
    async with engine() as index:
        assert await index.blocks.sealed("one") == sealed
        assert await content(index.blocks, "one", "ab") == "ab0b"
        assert await index.blocks.sealed("other") is None


async def test_an_incremental_one_has_the_rest_of_its_base(blocks: BlockIndex) -> None:
    await made(blocks, "one", "abc")
    sealed = await made(blocks, "two", ".x0y", base="one")
    assert await content(blocks, "two", "abcxy") == "ax0y"
    assert await content(blocks, "one", "abcxy") == "abc"
    assert sealed.full_bytes == 3 * BLOCK_BYTES
    await made(blocks, "same", "", base="two")
    assert await content(blocks, "same", "axy") == "ax0y"


async def test_pages_are_read_in_order_and_zero_ones_are_left_out(blocks: BlockIndex) -> None:
    await blocks.add("one", packed("ab"), now_ms=1)
    await blocks.draft("one", "", {7: {255: digest("a")}, 2: {0: digest("b")}, 4: {1: b""}}, now_ms=1)
    await blocks.seal(snapshot("one"), "", now_ms=1)
    pages = await blocks.pages("one", after=-1, limit=10)
    assert [number for number, _ in pages] == [2, 7]
    assert pages[1][1] == bytes(32 * 255) + digest("a")
    assert [number for number, _ in await blocks.pages("one", after=2, limit=1)] == [7]
    # A page that a base has and that becomes zero.
    await blocks.draft("two", "one", {2: {0: b""}}, now_ms=1)
    await blocks.seal(snapshot("two"), "one", now_ms=1)
    assert [number for number, _ in await blocks.pages("two", after=-1, limit=10)] == [7]


async def test_the_last_block_counts_as_far_as_the_volume_goes(blocks: BlockIndex) -> None:
    size = BLOCK_BYTES + 1000
    assert (await made(blocks, "one", "ab", size=size)).full_bytes == size
    assert (await made(blocks, "two", "a0", size=size)).full_bytes == BLOCK_BYTES


@pytest.mark.parametrize("order", [("one", "two", "three"), ("two", "one", "three"), ("three", "two", "one")])
async def test_any_of_a_chain_may_go_and_the_others_are_whole(
    index: Index, blocks: BlockIndex, order: Sequence[str]
) -> None:
    contents = {"one": "abc", "two": "axc", "three": "axcd"}
    await made(blocks, "one", "abc")
    await made(blocks, "two", ".x.", base="one")
    await made(blocks, "three", "...d", base="two")
    for name in order:
        await blocks.forget(name)
        assert await blocks.sealed(name) is None
        await drained(blocks)
        del contents[name]
        for other, letters in contents.items():
            assert await content(blocks, other, "abcxd") == letters
        assert await here(blocks, "abcxd") == "".join(c for c in "abcxd" if any(c in one for one in contents.values()))
    usage = await blocks.block_usage()
    assert (usage.snapshots, usage.block_bytes, usage.pack_bytes) == (0, 0, 0)
    assert len(await index.garbage(10)) == 3


async def test_what_an_upload_found_stays_until_it_ends(blocks: BlockIndex) -> None:
    await made(blocks, "one", "ab")
    assert await blocks.claim("two", [digest("a"), digest("x")], now_ms=5) == {digest("x")}
    await blocks.forget("one")
    await drained(blocks)
    assert await here(blocks, "ab") == "a"
    await blocks.draft("two", "", {0: {0: digest("a")}}, now_ms=5)
    await blocks.seal(snapshot("two"), "", now_ms=5)
    await drained(blocks)
    assert await here(blocks, "ab") == "a"
    await blocks.forget("two")
    await drained(blocks)
    assert await here(blocks, "ab") == ""


async def test_an_upload_that_stands_still_is_given_up_and_one_that_goes_on_is_not(blocks: BlockIndex) -> None:
    await blocks.add("idle", packed("a"), now_ms=1000)
    await blocks.add("busy", packed("b"), now_ms=1000)
    await blocks.claim("busy", [], now_ms=2000)
    assert (await blocks.block_usage()).uploads == 2
    assert await blocks.forget_idle(1500) == 1
    await drained(blocks)
    assert await here(blocks, "ab") == "b"
    await blocks.forget("busy")
    await drained(blocks)
    assert (await blocks.block_usage()).uploads == 0


async def test_a_snapshot_with_a_missing_block_is_not_made(blocks: BlockIndex) -> None:
    await blocks.claim("one", [], now_ms=1)
    await refused("BlockMissing", blocks.draft("one", "", {0: {0: digest("a")}}, now_ms=1))
    assert await blocks.sealed("one") is None
    await refused("InvalidSnapshot.NotFound", blocks.draft("one", "gone", {0: {0: b""}}, now_ms=1))
    await refused("InvalidSnapshot.NotFound", blocks.seal(snapshot("one"), "gone", now_ms=1))


async def test_drafts_of_an_earlier_try_do_not_count(blocks: BlockIndex) -> None:
    await blocks.add("one", packed("ab"), now_ms=1)
    for number in range(40):
        await blocks.draft("one", "", {number: {0: digest("a")}}, now_ms=1)
    await blocks.undraft("one", now_ms=1)
    await blocks.draft("one", "", {0: {0: digest("b")}}, now_ms=1)
    await blocks.seal(snapshot("one"), "", now_ms=1)
    assert len(await blocks.pages("one", after=-1, limit=99)) == 1
    await drained(blocks)
    assert await here(blocks, "ab") == "b"


async def test_a_page_may_be_drafted_bit_by_bit(blocks: BlockIndex) -> None:
    await made(blocks, "one", "abc")
    await blocks.add("two", packed("xyz"), now_ms=1)
    for changes in ({1: digest("x")}, {0: digest("y"), 3: digest("z")}, {1: b"", 3: b""}):
        await blocks.draft("two", "one", {0: changes}, now_ms=1)
    await blocks.seal(snapshot("two"), "one", now_ms=1)
    assert await content(blocks, "two", "abcxyz") == "y0c"
    # Zero at first, and then not.
    for changes in ({0: b""}, {2: digest("a")}):
        await blocks.draft("three", "", {0: changes}, now_ms=1)
    await blocks.seal(snapshot("three"), "", now_ms=1)
    assert await content(blocks, "three", "a") == "00a"
    await blocks.forget("one")
    await drained(blocks)
    assert await here(blocks, "abcxyz") == "acy"


async def test_a_sealed_snapshot_takes_no_more(blocks: BlockIndex) -> None:
    await made(blocks, "one", "a")
    await refused("IncorrectState", blocks.claim("one", [], now_ms=1))
    await refused("IncorrectState", blocks.add("one", packed("b"), now_ms=1))
    await refused("IncorrectState", blocks.undraft("one", now_ms=1))


async def test_a_copy_is_whole_by_itself(blocks: BlockIndex) -> None:
    original = await made(blocks, "one", "ab")
    new = Sealed(snapshot_id="two", account_id="2" * 12, size=0, full_bytes=0)
    for _ in range(2):
        copy = await blocks.copy("one", new, now_ms=1)
        assert copy == replace(original, snapshot_id="two", account_id="2" * 12)
    await blocks.forget("one")
    await drained(blocks)
    assert await content(blocks, "two", "ab") == "ab"
    await refused("InvalidSnapshot.NotFound", blocks.copy("one", replace(new, snapshot_id="three"), now_ms=1))


async def test_a_block_that_is_here_is_not_stored_twice(index: Index, blocks: BlockIndex) -> None:
    first, second = packed("ab"), packed("ab")
    assert await blocks.add("one", first, now_ms=1)
    assert not await blocks.add("two", second, now_ms=1)
    assert await blocks.find([digest("a")]) == first[:1]
    assert await index.named([first[0].pack, second[0].pack]) == {first[0].pack}
    assert await blocks.add("two", packed("bc"), now_ms=1)
    assert (await blocks.block_usage()).block_bytes == 300


async def test_a_damaged_block_is_put_right_for_all_that_need_it(index: Index, blocks: BlockIndex) -> None:
    await made(blocks, "one", "a")
    (old,) = await blocks.find([digest("a")])
    await blocks.doubt(digest("a"))
    await blocks.doubt(digest("unknown"))
    assert await blocks.claim("two", [digest("a")], now_ms=1) == {digest("a")}
    again = packed("a")
    assert await blocks.add("two", again, now_ms=1)
    assert await blocks.find([digest("a")]) == again
    assert await index.garbage(10) == [old.pack]
    assert await blocks.claim("three", [digest("a")], now_ms=1) == set()
    # It is needed as often as before.
    await blocks.forget("two")
    await blocks.forget("three")
    await drained(blocks)
    assert await here(blocks, "a") == "a"
    await blocks.forget("one")
    await drained(blocks)
    assert await here(blocks, "a") == ""


async def test_blocks_of_a_sparse_pack_move_and_it_is_garbage(index: Index, blocks: BlockIndex) -> None:
    await made(blocks, "one", "abcd")
    old = (await blocks.find([digest("a")]))[0].pack
    assert await blocks.sparse(10) == []
    await made(blocks, "two", "ab")
    await blocks.forget("one")
    await drained(blocks)
    assert await blocks.sparse(10) == [old]
    left = await blocks.blocks_of(old)
    assert [block.digest for block in left] == [digest("a"), digest("b")]
    new = BlobId.new()
    moved = [replace(block, pack=new) for block in left]
    assert await blocks.move(moved, old)
    assert await index.garbage(10) == [old]
    assert await blocks.find([digest("a"), digest("b")]) == moved
    # Those that went meanwhile do not come back.
    await blocks.forget("two")
    await drained(blocks)
    assert not await blocks.move([replace(block, pack=BlobId.new()) for block in moved], new)
    assert (await blocks.block_usage()).pack_bytes == 0
