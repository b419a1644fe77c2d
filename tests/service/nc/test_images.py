from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from common.errors import InvalidArgument, NoCapacity, Unavailable
from mallee.nc.v1 import instance_pb2
from services.nc.images import ImageCache
from tests.service.nc.stage import Shelf
from tests.unit.nc.specs import image

CONTENTS = [bytes([number]) * 4000 for number in range(1, 5)]
IMAGES = [image(f"ami-0123456789abcdef{number}", content) for number, content in enumerate(CONTENTS)]


@pytest.fixture
def shelf() -> Shelf:
    return Shelf(contents={made.sha256: content for made, content in zip(IMAGES, CONTENTS, strict=True)})


def cache(folder: Path, shelf: Shelf, *in_use: instance_pb2.Image, limit: int = 10000) -> ImageCache:
    contents = {made.sha256 for made in in_use}
    return ImageCache(folder, shelf, limit_bytes=limit, reserve_bytes=0, in_use=lambda: contents)


async def get(of: ImageCache, number: int = 0) -> bytes:
    async with of.hold(IMAGES[number]) as path:
        return path.read_bytes()


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
    assert await get(cache(tmp_path, shelf)) == CONTENTS[0]
    assert shelf.fetched == [(IMAGES[0].sha256, 0), (IMAGES[0].sha256, 3000)]


async def test_a_spoilt_part_is_thrown_away(tmp_path: Path, shelf: Shelf) -> None:
    (tmp_path / f"{IMAGES[0].sha256}.part").write_bytes(b"?" * 1000)
    assert await get(cache(tmp_path, shelf)) == CONTENTS[0]
    (tmp_path / f"{IMAGES[1].sha256}.part").write_bytes(b"?" * 9000)
    assert await get(cache(tmp_path, shelf), 1) == CONTENTS[1]


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


async def test_the_least_recently_used_goes_and_what_is_in_use_stays(tmp_path: Path, shelf: Shelf) -> None:
    of = cache(tmp_path, shelf, IMAGES[0])
    for number in (0, 1):
        await get(of, number)
        # A day apart.
        os.utime(tmp_path / f"{IMAGES[number].sha256}.ok", (86400 * number, 86400 * number))
    await get(of, 2)
    assert {name for name in names_in(tmp_path) if "." not in name} == {IMAGES[0].sha256, IMAGES[2].sha256}


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
