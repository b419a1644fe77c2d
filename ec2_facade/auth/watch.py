"""Follows the CLC's stream of changed access keys, so that cached signing keys are dropped as they change."""

from __future__ import annotations

import asyncio
import random
from typing import Protocol

from common.errors import CloudError
from common.log import get_logger
from common.rpc.channel import cloud_errors
from ec2_facade.auth.keys import KeyCache
from mallee.clc.v1 import service_pb2, service_pb2_grpc

_RETRY_S = 0.5

_log = get_logger(__name__)


class Watched(Protocol):
    def choose(self) -> service_pb2_grpc.IdentityServiceAsyncStub:
        """The CLC to watch, and to ask from now on. Raises Unavailable."""

    def forget(self) -> None:
        """That one is gone: ask any."""


async def follow_access_keys(cache: KeyCache, identities: Watched, *, retry_s: float = _RETRY_S) -> None:
    """Runs until cancelled. While the stream is broken the cache keeps nothing."""
    while True:
        try:
            await _follow(cache, identities)
        except CloudError as error:
            _log.info("the stream of access keys broke; signing keys are asked for anew", error=str(error))
        finally:
            cache.close()
            identities.forget()
        # Not all facades at the same instant.
        await asyncio.sleep(retry_s * random.uniform(0.5, 1.5))


async def _follow(cache: KeyCache, identities: Watched) -> None:
    stub = identities.choose()
    with cloud_errors():
        call = stub.WatchAccessKeys(service_pb2.WatchAccessKeysRequest())
        try:
            async for change in call:
                if cache.live:
                    cache.drop(change.access_key_ids)
                else:
                    cache.open()
        finally:
            call.cancel()
