"""The life of a service process: arguments, configuration, logs, metrics, start, and an orderly end at SIGTERM.

def main() -> None:
    run_service("clc", build)

async def build(ctx: ServiceContext) -> None:
    etcd = await ctx.stack.enter_async_context(…)        # closed last, in reverse order
    ctx.tasks.create_task(reconciler.run())              # cancelled before that
    await ctx.serve(RpcServer(ctx.identity, addresses=[…]).add(…))   # drained first
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

import uvloop

from common import log, metrics
from common.config import CloudConfig, ConfigError, load
from common.errors import CloudError
from common.pki import Identity
from common.rpc.server import RpcServer

# sysexits.h EX_CONFIG: starting again without a change is no use.
EXIT_CONFIG: Final = 78
_STOP_GRACE_S: Final = 2.0

_log = log.get_logger(__name__)

Build = Callable[["ServiceContext"], Awaitable[None]]


@dataclass(kw_only=True)
class ServiceContext:
    """What a service's `build` is given."""

    config: CloudConfig
    # What it was read from, for processes that this one starts.
    config_path: Path
    member: str
    identity: Identity
    # host:port of this process's /metrics.
    metrics_address: str
    # Closed at the end, after the tasks have been cancelled.
    stack: AsyncExitStack
    # One that raises ends the process: the supervisor starts it again.
    tasks: asyncio.TaskGroup
    _stop_first: list[Callable[[], Awaitable[None]]] = field(default_factory=list)

    async def serve(self, server: RpcServer) -> RpcServer:
        """Starts it, and drains it first at the end."""
        self.on_stop(lambda: server.stop(_STOP_GRACE_S))
        await server.start()
        return server

    def on_stop(self, stop: Callable[[], Awaitable[None]]) -> None:
        """Called when the end begins, while tasks still run: stop taking requests. The latest first."""
        self._stop_first.append(stop)

    async def stop_taking_requests(self) -> None:
        while self._stop_first:
            await self._stop_first.pop()()


def run_service(role: str, build: Build) -> NoReturn:
    """Runs until SIGTERM or SIGINT. Exit code 0 then; 78 for a configuration it cannot use; 1 when a part failed."""
    parser = argparse.ArgumentParser(prog=f"mallee-{role}")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--member", required=True)
    arguments = parser.parse_args()
    try:
        config = load(arguments.config)
        address = metrics_address(config, role, arguments.member)
        identity = Identity.load(config.pki_path, arguments.member)
        if identity.role != role:
            raise ConfigError(f"the certificate of {arguments.member} is for a {identity.role}, not for a {role}")
    except ConfigError as error:
        print(f"mallee-{role}: {error}", file=sys.stderr)
        sys.exit(EXIT_CONFIG)
    log.configure(role=role, member=arguments.member)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(_run(build, config, arguments.config.absolute(), identity, address)))


def metrics_address(config: CloudConfig, role: str, member: str) -> str:
    """Raises ConfigError for a member that the configuration does not have."""
    match role:
        case "facade":
            port = config.facade.metrics_port_of(member)
        case "clc":
            port = config.clc.metrics_port
        case "walrus":
            try:
                shard = config.walrus.shards.number(member)
            except ValueError as error:
                raise ConfigError(f"[walrus] processes is {config.walrus.processes}: {error}") from error
            port = config.walrus.metrics_port_of(shard)
        case "cc":
            port = config.zone(member.removeprefix("cc-")).cc_metrics_port
        case "sc":
            port = config.zone(member.removeprefix("sc-")).sc_metrics_port
        case "nc":
            _, node = config.node(member)
            return f"{node.address}:{node.metrics_port}"
        case _:
            raise ConfigError(f"a {role} has no metrics address")
    return f"{config.management_address}:{port}"


async def _run(build: Build, config: CloudConfig, config_path: Path, identity: Identity, address: str) -> int:
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    try:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(metrics.serve(address))
            try:
                async with asyncio.TaskGroup() as tasks:
                    context = ServiceContext(
                        config=config,
                        config_path=config_path,
                        member=identity.member_id,
                        identity=identity,
                        metrics_address=address,
                        stack=stack,
                        tasks=tasks,
                    )
                    await _serve_until(ending, build, context)
                    # The one way to cancel a task group's tasks is to leave it by an exception.
                    raise _Ended
            except* _Ended:
                pass
    except* (OSError, CloudError, ConfigError) as group:
        for error in _leaves(group):
            _log.error("the service ends", error=str(error), kind=type(error).__name__)
        failed = True
    else:
        failed = False
    _log.info("stopped")
    return int(failed)


async def _serve_until(ending: asyncio.Event, build: Build, context: ServiceContext) -> None:
    try:
        if await _built_before(ending, build, context):
            _log.info("ready", metrics=context.metrics_address, pid=os.getpid())
            _tell_supervisor()
            await ending.wait()
            _log.info("stopping")
    finally:
        await context.stop_taking_requests()


async def _built_before(ending: asyncio.Event, build: Build, context: ServiceContext) -> bool:
    """False when the end was asked for first. Builds in this task: what enters `stack` is left by the same task."""
    here = asyncio.current_task()
    assert here is not None

    def interrupt(done: asyncio.Future[Any]) -> None:
        here.cancel()

    watch = asyncio.ensure_future(ending.wait())
    watch.add_done_callback(interrupt)
    try:
        await build(context)
    except asyncio.CancelledError:
        if not ending.is_set():
            raise
        here.uncancel()
        return False
    finally:
        watch.remove_done_callback(interrupt)
        watch.cancel()
    return True


def _tell_supervisor() -> None:
    """s6's readiness protocol: a newline on the descriptor that the run script names."""
    if number := os.environ.pop("MALLEE_NOTIFY_FD", ""):
        os.write(int(number), b"\n")
        os.close(int(number))


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


class _Ended(Exception):
    """Everything was asked to end."""
