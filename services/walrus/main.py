"""Walrus as a process: its store under the cloud's home, S3 and images over gRPC. Wiring only."""

from __future__ import annotations

import functools
import secrets
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from common import shard_file
from common.config import ConfigError
from common.etcd.client import Etcd
from common.etcd.membership import Membership
from common.keyring import OBJECT_KEYS, Keyring
from common.log import get_logger
from common.pki import BUNDLE_OPENER, load_self_signed
from common.process import ServiceContext, run_service
from common.reconcile import keep_running
from common.rpc.local import socket_path
from common.rpc.local.server import LocalServer
from common.rpc.peers import Peers
from common.rpc.server import RpcServer
from mallee.common.v1.caller_pb2 import Member
from mallee.s3.v1.service_pb2_grpc import add_S3ServiceServicer_to_server
from mallee.walrus.v1.access_log_pb2_grpc import add_AccessLogServiceServicer_to_server
from mallee.walrus.v1.service_pb2_grpc import add_WalrusServiceServicer_to_server
from mallee.walrus.v1.shard_pb2_grpc import add_ShardServiceServicer_to_server
from mallee.walrus.v1.upkeep_pb2_grpc import add_UpkeepServiceServicer_to_server
from services.walrus import accounts, observe
from services.walrus.access_log import AccessLog
from services.walrus.access_log_service import AccessLogService
from services.walrus.backup import Backups
from services.walrus.bundle_image import Bundles
from services.walrus.drivers.base import StoreTooNew
from services.walrus.drivers.embedded.blobs import FileBlobs
from services.walrus.drivers.embedded.index import SqliteIndex
from services.walrus.drivers.embedded.writer import LOG_BYTES
from services.walrus.expire import Expirer
from services.walrus.holdings import Allowances
from services.walrus.images import Images
from services.walrus.lifecycle import Calendar
from services.walrus.local import local_handlers
from services.walrus.master_keys import MasterKeys
from services.walrus.reclaim import Reclaimer
from services.walrus.s3_service import S3Service
from services.walrus.scrub import Scrubber
from services.walrus.service import WalrusService
from services.walrus.shard_service import ShardService
from services.walrus.siblings import Siblings
from services.walrus.store import Limits, Store
from services.walrus.tell import Teller
from services.walrus.upkeep_service import UpkeepService

_STOP_GRACE_S = 2.0
_SWITCH_S = 0.0005

_log = get_logger(__name__)


async def build(ctx: ServiceContext) -> None:
    config = ctx.config
    shard = config.walrus.shards.number(ctx.member)
    root = config.walrus_path(shard)
    store = await _open_store(ctx, root, shard)
    ticket_key = (config.pki_path / "ticket.key").read_bytes()
    certificate, opener = load_self_signed(config.pki_path, BUNDLE_OPENER)
    images = Images(store, root / "pins", ticket_key=ticket_key, opener=opener, now_s=time.time)
    await images.open()
    access_log = AccessLog(store, root / "access-logs", delivery_s=config.walrus.access_log_s)
    scrubber = Scrubber(
        store=store,
        pins=root / "pins",
        bytes_per_s=config.walrus.scrub_bytes_per_s,
        cycle_s=config.walrus.scrub_days * 86_400,
    )
    allowances = Allowances(store)
    await allowances.begin()
    _start_workers(ctx, store, access_log, scrubber)
    address = f"{config.management_address}:{config.walrus.port_of(shard)}"
    server = RpcServer(ctx.identity, addresses=[address])
    server.add(add_S3ServiceServicer_to_server, S3Service(store))
    keys = MasterKeys(store=store, load=lambda: Keyring.load(config.pki_path / OBJECT_KEYS))
    part = shard_file.text_of(shard, config.walrus.processes)
    backups = Backups(store=store, images=images, staging=root / "staging", member=ctx.member, part=part)
    bundles = Bundles(store=store, folder=root / "pins", ticket_key=ticket_key, certificate=certificate, key=opener)
    server.add(add_WalrusServiceServicer_to_server, WalrusService(store, images, bundles))
    server.add(add_UpkeepServiceServicer_to_server, UpkeepService(store, scrubber, backups, keys, allowances))
    server.add(add_AccessLogServiceServicer_to_server, AccessLogService(access_log))
    server.add(add_ShardServiceServicer_to_server, ShardService(store, allowances))
    await ctx.serve(server)
    await _serve_locally(ctx, store, shard)
    await _join(ctx, store, address)


async def _join(ctx: ServiceContext, store: Store, address: str) -> None:
    etcd = await ctx.stack.enter_async_context(Etcd(ctx.config.etcd.endpoints, ctx.identity))
    membership = await ctx.stack.enter_async_context(Membership(etcd))
    store.accounts = accounts.asked_of(await ctx.stack.enter_async_context(Peers(membership, ctx.identity, "clc")))
    if store.siblings.others:
        store.siblings.peers = await ctx.stack.enter_async_context(
            Peers(membership, ctx.identity, "walrus", speak_for_callers=True)
        )
    await membership.register(
        Member(
            id=ctx.member,
            role="walrus",
            address=address,
            metrics_address=ctx.metrics_address,
            boot_id=secrets.token_hex(8),
        )
    )


async def _open_store(ctx: ServiceContext, root: Path, shard: int) -> Store:
    config = ctx.config
    blobs = FileBlobs(root)
    try:
        await blobs.open()
    except BlockingIOError as error:
        raise ConfigError(f"another process works on {root}") from error
    ctx.stack.push_async_callback(blobs.close)
    shard_file.claim(root, shard, config.walrus.processes)
    index = SqliteIndex(root / "index.sqlite", on_commit=observe.committed, log_bytes=LOG_BYTES)
    try:
        await index.open()
    except StoreTooNew as error:
        raise ConfigError(str(error)) from error
    ctx.stack.push_async_callback(index.close)
    limits = Limits(inline_bytes=config.walrus.inline_bytes, reserve_bytes=config.walrus.reserve_bytes)
    targets = {target.name: target.url for target in config.walrus.event_targets}
    calendar = Calendar(day_ms=round(config.walrus.lifecycle_day_s * 1000))
    store = Store(
        index=index,
        blobs=blobs,
        region=config.region,
        limits=limits,
        calendar=calendar,
        keyring=_keyring(config.pki_path / OBJECT_KEYS),
        opens_buckets=config.walrus.new_buckets == "before-2023",
        event_targets=targets,
        siblings=Siblings(config.walrus.shards, shard),
    )
    ctx.stack.push_async_callback(store.close)
    return store


def _keyring(path: Path) -> Keyring:
    try:
        return Keyring.load(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the keys that objects are encrypted with: {error}") from error


def _start_workers(ctx: ServiceContext, store: Store, access_log: AccessLog, scrubber: Scrubber) -> None:
    """What Walrus does by itself, each told by the store when there is something to do."""
    reclaimer = Reclaimer(store)
    store.reclaim = reclaimer.nudge
    _keep(ctx, "reclaim", reclaimer.run)
    expirer = Expirer(store)
    store.expire = expirer.nudge
    _keep(ctx, "expire", expirer.run)
    teller = Teller(store)
    store.tell = teller.nudge
    _keep(ctx, "tell", teller.run)
    store.logging_changed = access_log.settings_changed
    _keep(ctx, "access log", access_log.run)
    _keep(ctx, "figures", functools.partial(observe.follow, store))
    if ctx.config.walrus.scrub_bytes_per_s:
        _keep(ctx, "scrub", scrubber.run)


def _keep(ctx: ServiceContext, name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Objects are served whatever becomes of it."""
    ctx.tasks.create_task(keep_running(f"walrus-{name}", work), name=name)


async def _serve_locally(ctx: ServiceContext, store: Store, shard: int) -> None:
    """For facades on this host. Without it they come by gRPC, as those of other hosts do."""
    path = socket_path(ctx.config, "walrus", shard)
    server = LocalServer(path, local_handlers(store))
    try:
        await server.start()
    except OSError as error:
        _log.warning("no way for processes on this host", path=str(path), error=str(error))
    else:
        ctx.on_stop(lambda: server.stop(_STOP_GRACE_S))


def main() -> None:
    # The index's writer needs the interpreter back after each statement: with the default of 5 ms it waits for the loop
    # longer than for the disk.
    sys.setswitchinterval(_SWITCH_S)
    run_service("walrus", build)


if __name__ == "__main__":
    main()
