"""What serves snapshots to volumes that are made of them: a process beside the storage controller, that outlives it.

    python -m services.sc.source_main --config FILE --member sc-a --folder FOLDER --socket PATH

Ends when there is nothing to serve any more, and at SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import uvloop

from common import log
from common.config import CloudConfig, ConfigError, load
from common.errors import NotFound, Unavailable
from common.etcd.client import Etcd
from common.etcd.membership import Membership
from common.ids import SnapshotId
from common.pki import Identity
from common.process import EXIT_CONFIG
from common.rpc.errors import cloud_errors
from common.rpc.peers import Peers
from mallee.walrus.v1 import service_pb2
from mallee.walrus.v1.service_pb2_grpc import WalrusServiceStub
from services.sc.block_cache import BlockCache
from services.sc.block_source import BlockSource, SnapshotExport
from services.sc.manifest_file import Manifest
from services.sc.nbd.server import NbdServer
from services.sc.source_files import SourceFiles

# What the cache takes of the file system that volumes are on, at most.
_CACHE_BYTES: Final = 4 << 30
_LOOK_EVERY_S: Final = 5.0
_RETRY_S: Final = 1.0

_log = log.get_logger(__name__)


def main() -> None:
    parser = argparse.ArgumentParser(prog="mallee-sc-source")
    for name in ("config", "folder", "socket"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--member", required=True)
    arguments = parser.parse_args()
    try:
        config = load(arguments.config)
        identity = Identity.load(config.pki_path, arguments.member)
    except ConfigError as error:
        print(f"mallee-sc-source: {error}", file=sys.stderr)
        sys.exit(EXIT_CONFIG)
    log.configure(role="sc-source", member=arguments.member)
    files = SourceFiles(arguments.folder)
    files.prepare()
    # Kept to the end of the process, whatever ends it.
    if files.take_lock() is None:
        return
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(config, identity, files, arguments.socket))


async def serve(config: CloudConfig, identity: Identity, files: SourceFiles, socket: Path) -> None:
    ending = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ending.set)
    cache = BlockCache(files.blocks, most_bytes=_CACHE_BYTES, reserve_bytes=config.sc.reserve_bytes)
    walrus = Walrus(config, identity)
    async with AsyncExitStack() as stack:
        following = asyncio.ensure_future(walrus.follow())
        stack.callback(following.cancel)
        source = await stack.enter_async_context(BlockSource(cache, walrus.fetch))

        async def opened(name: str) -> SnapshotExport:
            return SnapshotExport(await asyncio.to_thread(_manifest, files, name), source)

        await stack.enter_async_context(NbdServer(socket, opened))
        _log.info("ready", socket=str(socket))
        while files.serving() and not ending.is_set() and not following.done():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await ending.wait()
    if not files.serving():
        cache.clear()
    if following.done() and not following.cancelled():
        # A bug: it flies.
        following.result()
    _log.info("stopped")


def _manifest(files: SourceFiles, name: str) -> Manifest:
    try:
        return Manifest(files.manifest(SnapshotId(name)))
    except (ValueError, OSError) as error:
        raise NotFound(f"{name} is not served here: {error}") from error


class Walrus:
    def __init__(self, config: CloudConfig, identity: Identity) -> None:
        self._config = config
        self._identity = identity
        self._peers: Peers | None = None

    async def follow(self) -> None:
        """Knows where Walrus is, from now on."""
        while True:
            with contextlib.suppress(Unavailable):
                async with (
                    Etcd(self._config.etcd.endpoints, self._identity) as etcd,
                    Membership(etcd) as membership,
                    Peers(membership, self._identity, "walrus") as self._peers,
                ):
                    await asyncio.Event().wait()
            await asyncio.sleep(_RETRY_S)

    async def fetch(self, digests: Sequence[bytes]) -> AsyncGenerator[service_pb2.Block, None]:
        if self._peers is None:
            raise Unavailable("it is not known yet where Walrus is")
        stub = self._peers.stub(WalrusServiceStub, self._config.walrus.shards.first)
        answers = stub.FetchBlocks(service_pb2.FetchBlocksRequest(digests=digests))
        try:
            with cloud_errors():
                async for answer in answers:
                    yield answer.block
        finally:
            answers.cancel()


if __name__ == "__main__":
    main()
