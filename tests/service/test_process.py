"""A service process: ready, stopped in order by SIGTERM, ended by one clear line when its configuration is wrong."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from common import pki
from common.config import ClcConfig, CloudConfig
from common.process import EXIT_CONFIG, metrics_address
from tests.ports import free_port

ROOT = Path(__file__).parents[2]

# A service that says in its log what happens to it.
SERVICE = """
    import asyncio, contextlib
    from common.log import get_logger
    from common.process import run_service
    from common.rpc.server import RpcServer
    from common.errors import Unavailable

    log = get_logger("test")

    @contextlib.asynccontextmanager
    async def part():
        try:
            yield
        finally:
            log.info("part closed")

    async def work(kind):
        try:
            if kind == "crash":
                raise Unavailable("the disk is gone")
            await asyncio.Event().wait()
        finally:
            log.info("task ended")

    async def build(ctx):
        await ctx.stack.enter_async_context(part())
        if KIND == "stuck":
            log.info("building")
            await asyncio.Event().wait()
        if KIND == "fails":
            raise Unavailable("etcd does not answer")
        ctx.tasks.create_task(work(KIND))
        await ctx.serve(RpcServer(ctx.identity))
        async def stopped():
            log.info("stopped taking requests")
        ctx.on_stop(stopped)

    run_service("clc", build)
"""


class Process:
    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self.child = child
        self.events: list[dict[str, Any]] = []

    async def line(self) -> str:
        assert self.child.stderr is not None
        return (await asyncio.wait_for(self.child.stderr.readline(), 30)).decode()

    async def until(self, event: str) -> dict[str, Any]:
        while line := await self.line():
            self.events.append(json.loads(line))
            if self.events[-1]["event"] == event:
                return self.events[-1]
        pytest.fail(f"ended before {event!r}: {self.events}")

    async def rest(self) -> list[str]:
        """The events to its end."""
        while line := await self.line():
            self.events.append(json.loads(line))
        await asyncio.wait_for(self.child.wait(), 30)
        return [event["event"] for event in self.events]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "mallee.toml"
    path.write_text(f'cloud_id = "abcd"\nhome = "{tmp_path}"\n[clc]\nmetrics_port = {free_port()}\n')
    pki.create_authority(tmp_path / "pki")
    pki.issue(tmp_path / "pki", "clc-1", "clc")
    pki.issue(tmp_path / "pki", "walrus-1", "walrus")
    return path


def written(config: Path, kind: str, content: str | None) -> Path:
    """The program; and the configuration, if `content` replaces it."""
    if content is not None:
        config.write_text(content)
    program = config.parent / "service.py"
    program.write_text(f"KIND = {kind!r}\n" + textwrap.dedent(SERVICE))
    return program


@asynccontextmanager
async def running(
    config: Path, kind: str = "well", *, member: str = "clc-1", content: str | None = None, **env: str
) -> AsyncIterator[Process]:
    program = written(config, kind, content)
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        str(program),
        f"--config={config}",
        f"--member={member}",
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/gen", **env},
        stderr=asyncio.subprocess.PIPE,
        pass_fds=[int(fd) for fd in env.values()],
    )
    try:
        yield Process(child)
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


async def test_sigterm_stops_requests_then_tasks_then_parts(config: Path) -> None:
    async with running(config) as process:
        await process.until("ready")
        process.child.send_signal(signal.SIGTERM)
        events = await process.rest()
    assert events == ["ready", "stopping", "stopped taking requests", "task ended", "part closed", "stopped"]
    assert process.child.returncode == 0
    assert {event["member"] for event in process.events} == {"clc-1"}


async def test_sigterm_while_starting_ends_it_in_order(config: Path) -> None:
    async with running(config, "stuck") as process:
        await process.until("building")
        process.child.send_signal(signal.SIGTERM)
        events = await process.rest()
    assert events == ["building", "part closed", "stopped"]
    assert process.child.returncode == 0


async def test_a_task_that_fails_ends_the_process_for_the_supervisor(config: Path) -> None:
    async with running(config, "crash") as process:
        events = await process.rest()
    assert events[-3:] == ["part closed", "the service ends", "stopped"]
    assert process.events[-2]["error"] == "the disk is gone"
    assert process.child.returncode == 1


async def test_a_start_that_fails_is_one_line(config: Path) -> None:
    async with running(config, "fails") as process:
        assert await process.rest() == ["part closed", "the service ends", "stopped"]
    assert process.child.returncode == 1


async def test_metrics_are_shown_on_the_management_port(config: Path) -> None:
    async with running(config) as process:
        address = (await process.until("ready"))["metrics"]
        async with ClientSession() as http, http.get(f"http://{address}/metrics") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=")
            text = await answer.text()
    assert "# TYPE mallee_rpc_requests_total counter" in text
    assert "process_resident_memory_bytes" in text


async def test_the_supervisor_is_told_when_it_is_ready(config: Path) -> None:
    read, write = os.pipe()
    async with running(config, MALLEE_NOTIFY_FD=str(write)) as process:
        os.close(write)
        await process.until("ready")
        assert await asyncio.to_thread(os.read, read, 10) == b"\n"
    os.close(read)


@pytest.mark.parametrize(
    ("content", "member", "says"),
    [
        ("colour = 1", "clc-1", "unknown key 'colour'"),
        ("cloud_id = ", "clc-1", "mallee.toml"),
        (None, "clc-7", "clc-7.pem: No such file"),
        (None, "walrus-1", "is for a walrus, not for a clc"),
    ],
)
async def test_a_wrong_configuration_is_one_clear_line(
    config: Path, content: str | None, member: str, says: str
) -> None:
    async with running(config, member=member, content=content) as process:
        line = await process.line()
        assert says in line
        assert line.startswith("mallee-clc: ")
        assert await process.line() == ""
        assert await process.child.wait() == EXIT_CONFIG


def test_each_role_has_its_metrics_address() -> None:
    config = CloudConfig(cloud_id="abcd", home="/x", clc=ClcConfig(metrics_port=1234))
    assert metrics_address(config, "clc", "clc-1") == "127.0.0.1:1234"
    assert metrics_address(config, "walrus", "walrus-1") == "127.0.0.1:9775"
