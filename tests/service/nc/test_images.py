from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from common.errors import IMAGE_CACHE_FULL, InvalidArgument, NoCapacity, Unavailable
from mallee.nc.v1 import instance_pb2
from services.nc.image_file import HASHED_EVERY_S, mark
from services.nc.images import ImageCache
from tests.eventually import eventually
from tests.service.nc.stage import Shelf
from tests.unit.nc.specs import image
from tests.unit.nc.test_full_disk import largest_file

CONTENTS = [bytes([number]) * 4000 for number in range(1, 5)]
IMAGES = [image(f"ami-0123456789abcdef{number}", content) for number, content in enumerate(CONTENTS)]


@pytest.fixture
def shelf() -> Shelf:
    return Shelf(contents={made.sha256: content for made, content in zip(IMAGES, CONTENTS, strict=True)})


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        self.now_s += 1
        return self.now_s


def cache(
    folder: Path, shelf: Shelf, *in_use: instance_pb2.Image, limit: int = 10000, now_s: Clock | None = None
) -> ImageCache:
    """Opened, as a process that begins does."""
    contents = {made.sha256: made.size_bytes for made in in_use}
    made = ImageCache(
        folder, shelf, limit_bytes=limit, reserve_bytes=0, in_use=lambda: contents, now_s=now_s or Clock()
    )
    made.open()
    return made


async def get(of: ImageCache, number: int = 0) -> bytes:
    async with of.hold(IMAGES[number]) as path:
        return path.read_bytes()


def bytes_in(folder: Path) -> int:
    """Of images, whole and in part."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix in ("", ".part"))


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def test_an_image_is_fetched_once_for_all_who_wait(tmp_path: Path, shelf: Shelf) -> None:
    of = cache(tmp_path, shelf)
    assert await asyncio.gather(*(get(of) for _ in range(5))) == [CONTENTS[0]] * 5
    assert await get(cache(tmp_path, shelf)) == CONTENTS[0]
    assert shelf.fetched == [(IMAGES[0].sha256, 0)]


async def test_a_fetch_that_broke_off_goes_on_where_it_ended(tmp_path: Path, shelf: Shelf) -> None:
    shelf.cut_after = 3
    with pytest.raises(Unavailable):
        await get(cache(tmp_path, shelf))
    shelf.cut_after = None
    assert await get(cache(tmp_path, shelf, IMAGES[0])) == CONTENTS[0]
    assert shelf.fetched == [(IMAGES[0].sha256, 0), (IMAGES[0].sha256, 3000)]


async def test_a_spoilt_part_is_thrown_away(tmp_path: Path, shelf: Shelf) -> None:
    (tmp_path / f"{IMAGES[0].sha256}.part").write_bytes(b"?" * 1000)
    (tmp_path / f"{IMAGES[1].sha256}.part").write_bytes(b"?" * 9000)
    of = cache(tmp_path, shelf, *IMAGES[:2], limit=18000)
    assert await get(of) == CONTENTS[0]
    assert await get(of, 1) == CONTENTS[1]
    assert names_in(tmp_path) == {name for of in IMAGES[:2] for name in (of.sha256, f"{of.sha256}.ok")}


async def test_what_nobody_will_complete_is_thrown_away(tmp_path: Path, shelf: Shelf) -> None:
    shelf.cut_after = 3
    wanted = {IMAGES[0].sha256: IMAGES[0].size_bytes}
    of = ImageCache(tmp_path, shelf, limit_bytes=10000, reserve_bytes=0, in_use=lambda: wanted)
    with pytest.raises(Unavailable):
        await get(of)
    of.tidy()
    assert names_in(tmp_path) == {f"{IMAGES[0].sha256}.part"}
    wanted.clear()
    of.tidy()
    assert names_in(tmp_path) == set()
    for stray in ("core", f"{IMAGES[0].sha256}.new", f"{IMAGES[0].sha256}.part"):
        (tmp_path / stray).write_bytes(b"?")
    cache(tmp_path, shelf)
    assert names_in(tmp_path) == set()


async def test_bytes_that_were_not_promised_are_refused(tmp_path: Path, shelf: Shelf) -> None:
    shelf.garbled = True
    with pytest.raises(InvalidArgument):
        await get(cache(tmp_path, shelf))
    assert names_in(tmp_path) == set()


async def test_a_changed_file_is_fetched_again_and_a_touched_one_is_not(tmp_path: Path, shelf: Shelf) -> None:
    of, path = cache(tmp_path, shelf), tmp_path / IMAGES[0].sha256
    await get(of)
    os.utime(path)
    assert await get(of) == CONTENTS[0]
    assert len(shelf.fetched) == 1
    path.chmod(0o600)
    path.write_bytes(b"!" * 4000)
    assert await get(of) == CONTENTS[0]
    assert len(shelf.fetched) == 2


async def test_a_file_whose_marker_was_not_written_is_verified_and_kept(tmp_path: Path, shelf: Shelf) -> None:
    (tmp_path / IMAGES[0].sha256).write_bytes(CONTENTS[0])
    assert await get(cache(tmp_path, shelf)) == CONTENTS[0]
    assert shelf.fetched == []


async def test_a_file_that_looks_as_it_did_is_hashed_again_after_a_week(tmp_path: Path, shelf: Shelf) -> None:
    clock = Clock()
    of, path = cache(tmp_path, shelf, now_s=clock), tmp_path / IMAGES[0].sha256
    await get(of)
    # What a disk loses leaves no trace in the inode.
    path.chmod(0o600)
    path.write_bytes(b"!" * 4000)
    mark(path, now_s=clock())
    clock.now_s += HASHED_EVERY_S / 2
    assert await get(of) == b"!" * 4000
    clock.now_s += HASHED_EVERY_S / 2
    assert await get(of) == CONTENTS[0]
    assert len(shelf.fetched) == 2


async def test_the_least_recently_used_goes_and_what_is_in_use_stays(tmp_path: Path, shelf: Shelf) -> None:
    clock = Clock()
    of = cache(tmp_path, shelf, IMAGES[0], limit=12100, now_s=clock)
    for number in (0, 1, 2, 1):
        await get(of, number)
    # Also for a process that has just begun.
    await get(cache(tmp_path, shelf, IMAGES[0], limit=12100, now_s=clock), 3)
    assert {name for name in names_in(tmp_path) if "." not in name} == {IMAGES[n].sha256 for n in (0, 1, 3)}


async def test_a_lower_limit_holds_from_the_start(tmp_path: Path, shelf: Shelf) -> None:
    of = cache(tmp_path, shelf, limit=20000)
    for number in (0, 1, 2):
        await get(of, number)
    cache(tmp_path, shelf, IMAGES[0], limit=8000)
    assert {name for name in names_in(tmp_path) if "." not in name} == {IMAGES[n].sha256 for n in (0, 2)}


async def test_many_at_once_never_take_more_than_the_limit(tmp_path: Path, shelf: Shelf) -> None:
    shelf.chunk_bytes = 500
    of = cache(tmp_path, shelf)
    most = 0

    async def look() -> None:
        nonlocal most
        while True:
            most = max(most, bytes_in(tmp_path))
            await asyncio.sleep(0)

    looking = asyncio.ensure_future(look())
    shelf.open.clear()
    tries = [asyncio.ensure_future(get(of, number)) for number in (0, 1, 2, 3, 0, 1, 2, 3)]
    # As many as there is room for are under way, and the others have been told.
    await eventually(lambda: sum(tried.done() for tried in tries) == 4)
    under_way = {content for content, _ in shelf.fetched}
    assert len(under_way) == 2
    shelf.open.set()
    results = await asyncio.gather(*tries, return_exceptions=True)
    looking.cancel()
    assert [type(result) for result in results] == [
        bytes if made.sha256 in under_way else NoCapacity for made in IMAGES
    ] * 2
    # More than one at once; how much of them was seen depends on when one looked.
    assert 5000 < most <= 10000


async def test_one_that_gives_up_leaves_the_fetch_to_the_others(tmp_path: Path, shelf: Shelf) -> None:
    of = cache(tmp_path, shelf)
    shelf.open.clear()
    first, second = asyncio.ensure_future(get(of)), asyncio.ensure_future(get(of))
    await eventually(lambda: shelf.fetched)
    first.cancel()
    shelf.open.set()
    assert await second == CONTENTS[0]
    assert first.cancelled()


async def test_what_cannot_be_kept_is_told_before_it_is_wanted(tmp_path: Path, shelf: Shelf) -> None:
    of = cache(tmp_path, shelf, IMAGES[0])
    await get(of, 1)
    of.check_room([IMAGES[0], IMAGES[2]])
    for too_much in ([image("ami-1", bytes(10001))], IMAGES[1:3]):
        with pytest.raises(NoCapacity) as refusal:
            of.check_room(too_much)
        assert refusal.value.code == IMAGE_CACHE_FULL


async def test_a_full_disk_is_no_room(tmp_path: Path, shelf: Shelf) -> None:
    of = ImageCache(tmp_path, shelf, limit_bytes=10000, reserve_bytes=1 << 60, in_use=dict)
    with pytest.raises(NoCapacity):
        await get(of)
    with pytest.raises(NoCapacity):
        of.check_room(IMAGES[:1])
    with largest_file(2500), pytest.raises(NoCapacity):
        await get(cache(tmp_path, shelf))
    assert await get(cache(tmp_path, shelf, IMAGES[0])) == CONTENTS[0]


async def test_when_all_is_in_use_there_is_no_room(tmp_path: Path, shelf: Shelf) -> None:
    of = cache(tmp_path, shelf, *IMAGES)
    await get(of, 0)
    await get(of, 1)
    with pytest.raises(NoCapacity):
        await get(of, 2)
    assert await get(of, 0) == CONTENTS[0]


async def test_what_is_held_is_not_dropped(tmp_path: Path, shelf: Shelf) -> None:
    of = cache(tmp_path, shelf)
    async with of.hold(IMAGES[0]) as first, of.hold(IMAGES[1]) as second:
        with pytest.raises(NoCapacity):
            await get(of, 2)
        assert first.read_bytes() + second.read_bytes() == CONTENTS[0] + CONTENTS[1]
    assert await get(of, 2) == CONTENTS[2]


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64])
async def test_only_a_sha256_names_an_image(tmp_path: Path, shelf: Shelf, name: str) -> None:
    with pytest.raises(InvalidArgument):
        async with cache(tmp_path, shelf).hold(instance_pb2.Image(image_id="ami-1", sha256=name)):
            pass
