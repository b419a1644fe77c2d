"""A node takes what it can hold and says at once what it cannot; a launch that was cut short goes on where it was."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from common.errors import IMAGE_CACHE_FULL, NoCapacity
from mallee.nc.v1 import instance_pb2, service_pb2
from tests.eventually import eventually
from tests.service.nc.stage import Shelf, make_site, running
from tests.unit.nc.specs import MACHINE, image, spec

RUNNING = instance_pb2.VM_STATE_RUNNING


def booting(number: int, *machines: instance_pb2.Image) -> instance_pb2.InstanceSpec:
    made = spec(number)
    for machine in machines:
        made.boot.CopyFrom(instance_pb2.BootSource(machine=machine))
    return made


async def test_images_that_cannot_be_kept_together_are_refused_at_once(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    limit = site.config.nodes.cache_bytes
    small, half, whole = (
        image(f"ami-0123456789abcdef{n}", bytes([n]) * size) for n, size in enumerate((1000, limit // 2, limit), 1)
    )
    contents = {made.sha256: bytes([n]) * made.size_bytes for n, made in enumerate((small, half, whole), 1)}
    async with running(site, Shelf(contents=contents, chunk_bytes=1 << 16)) as node:
        await node.client.ensure(booting(1, half))
        await node.client.until(spec(1).instance_id, RUNNING)
        for number, too_large in ((2, whole), (3, image("ami-0123456789abcdef9", bytes(limit)))):
            with pytest.raises(NoCapacity) as refusal:
                await node.client.ensure(booting(number, too_large))
            assert refusal.value.code == IMAGE_CACHE_FULL
        await node.client.ensure(booting(4, small))
        await node.client.until(spec(4).instance_id, RUNNING)
        described = await node.client.stub.DescribeNode(service_pb2.DescribeNodeRequest())
        assert described.used.vcpus == 2
        # Once nothing stands on the half the whole may take its place.
        for number in (1, 4):
            await node.client.terminate(spec(number).instance_id)
            await node.client.until(spec(number).instance_id, instance_pb2.VM_STATE_GONE)
        await node.client.ensure(booting(5, whole))
        await node.client.until(spec(5).instance_id, RUNNING)
        assert {path.name for path in site.paths.cache.iterdir() if not path.suffix} == {whole.sha256}


async def test_a_fetch_that_a_kill_cut_short_goes_on_where_it_was(tmp_path: Path) -> None:
    site, shelf = make_site(tmp_path), Shelf(cut_after=2)
    machine = image("ami-0123456789abcdef0", MACHINE)
    part = site.paths.cache / f"{machine.sha256}.part"
    async with running(site, shelf) as node:
        await node.client.ensure(booting(1, machine))
        await eventually(lambda: part.exists() and part.stat().st_size == 2000)
    again = Shelf()
    async with running(site, again) as node:
        await node.client.until(spec(1).instance_id, RUNNING)
    assert again.fetched == [(machine.sha256, 2000)]


async def test_a_launch_that_is_taken_back_leaves_no_part(tmp_path: Path) -> None:
    site, shelf = make_site(tmp_path), Shelf(cut_after=2)
    async with running(site, shelf) as node:
        await node.client.ensure(spec(1))
        await eventually(lambda: list(site.paths.cache.glob("*.part")))
        await node.client.terminate(spec(1).instance_id)
        await node.client.until(spec(1).instance_id, instance_pb2.VM_STATE_GONE)
        await eventually(lambda: not list(site.paths.cache.glob("*.part")))


async def test_many_launches_of_one_image_fetch_it_once(tmp_path: Path) -> None:
    site, shelf = make_site(tmp_path, cores=30), Shelf()
    async with running(site, shelf) as node:
        await asyncio.gather(*(node.client.ensure(spec(number)) for number in range(1, 16)))
        for number in range(1, 16):
            await node.client.until(spec(number).instance_id, RUNNING)
    assert len(shelf.fetched) == 3
