"""A facade on a free port, with stand-ins behind it, and clients in front."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from common.background import Background
from ec2_facade.auth.authenticate import Authenticator
from ec2_facade.auth.keys import KeyCache
from ec2_facade.auth.legacy import LegacyAuthenticator
from ec2_facade.auth.legacy_query import LegacyQueryAuthenticator
from ec2_facade.auth.mechanisms import Authentication
from ec2_facade.auth.watch import follow_access_keys
from ec2_facade.backends import Backends, ClcIdentities
from ec2_facade.limits import Limits
from ec2_facade.pipeline import Pipeline, Protocols
from ec2_facade.proxies import Proxies
from ec2_facade.server import FacadeServer
from ec2_facade.services import Endpoint
from tests.eventually import eventually
from tests.service.facade.stand_in import Backstage, make_certificates
from tests.unit.facade.signing import ACCESS_KEY, REGION, SECRET

DOMAINS = ("localhost", "s3.localhost")
BUCKET_HOSTS = ("named.example",)


class Stage:
    def __init__(self, backstage: Backstage, protocols: Protocols, keys: KeyCache, server: FacadeServer) -> None:
        self.backstage = backstage
        self.protocols = protocols
        self.keys = keys
        self.server = server
        self.port = server.ports[0]
        self.url = f"http://127.0.0.1:{self.port}"

    def client(
        self, service: str, *, secret: str = SECRET, access_key: str = ACCESS_KEY, region: str = REGION, **config: Any
    ) -> Any:
        return boto3.client(
            service,  # type: ignore[call-overload]
            endpoint_url=self.url,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret,
            region_name=region,
            config=Config(retries={"total_max_attempts": 1}, read_timeout=20, **config),
        )


Opener = Callable[..., Any]


@pytest.fixture(scope="session")
def facade_certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("facade-pki")
    make_certificates(folder)
    return folder


@pytest.fixture(scope="session")
def protocols() -> Protocols:
    return Protocols.load()


@pytest.fixture
async def open_stage(facade_certificates: Path, protocols: Protocols) -> AsyncIterator[Opener]:
    """Opens a facade with limits of the test's own."""
    async with AsyncExitStack() as stack:
        yield functools.partial(_open, stack, facade_certificates, protocols)


@pytest.fixture
async def stage(open_stage: Opener) -> Stage:
    opened: Stage = await open_stage()
    return opened


async def _open(
    stack: AsyncExitStack, folder: Path, protocols: Protocols, *, proxies: Sequence[str] = (), **limits: Any
) -> Stage:
    backstage = Backstage(folder, stack)
    clc, walrus = await backstage.start()
    keys, identities, bounds = KeyCache(), ClcIdentities(clc), Limits(**limits)
    authenticator = Authenticator(keys, identities, region=REGION, clock_skew_s=900)
    pipeline = Pipeline(
        protocols,
        Authentication(
            current=authenticator,
            legacy=LegacyAuthenticator(identities, clock_skew_s=900),
            legacy_query=LegacyQueryAuthenticator(identities, clock_skew_s=900),
        ),
        Backends(clc=clc, walrus=walrus),
        limits=bounds,
        endpoint=Endpoint(region=REGION, domains=DOMAINS, bucket_hosts=BUCKET_HOSTS, proxies=Proxies(proxies)),
    )
    tasks = await stack.enter_async_context(Background())
    tasks.start(follow_access_keys(keys, identities, retry_s=0.05))
    server = FacadeServer(pipeline, bounds, [("127.0.0.1", 0)])
    await server.start()
    stack.push_async_callback(server.stop, 1)
    await eventually(lambda: keys.live)
    return Stage(backstage, protocols, keys, server)


async def in_thread(work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """boto3 blocks."""
    return await asyncio.to_thread(work, *args, **kwargs)
