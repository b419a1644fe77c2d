"""A client of EC2's Query API that costs little itself: requests are signed before the clock starts."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Self, TypeVar
from urllib.parse import urlencode

import aiohttp
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from yarl import URL

_VERSION: Final = "2016-11-15"
_FORM: Final = "application/x-www-form-urlencoded; charset=utf-8"
_TIMEOUT_S: Final = 120.0

T = TypeVar("T")


class Refused(RuntimeError):
    """The endpoint answered with an error."""


@dataclass(frozen=True, slots=True)
class Signed:
    body: bytes
    headers: dict[str, str]


class QueryClient:
    """Use as an async context."""

    def __init__(self, endpoint_url: str, access_key_id: str, secret_access_key: str, region: str) -> None:
        self._url = f"{endpoint_url}/"
        self._auth = SigV4Auth(Credentials(access_key_id, secret_access_key), "ec2", region)
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
            skip_auto_headers=("User-Agent", "Accept"),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    def sign(self, action: str, **parameters: object) -> Signed:
        """Names of parameters have `__` for their dots: Filter__1__Name."""
        named = {name.replace("__", "."): str(value) for name, value in parameters.items()}
        body = urlencode({"Action": action, "Version": _VERSION, **named}).encode()
        request = AWSRequest("POST", self._url, headers={"Content-Type": _FORM}, data=body)
        self._auth.add_auth(request)
        return Signed(body, dict(request.headers))

    async def send(self, signed: Signed) -> str:
        """The body of the answer. Raises Refused."""
        url = URL(self._url, encoded=True)
        async with self._session.post(url, data=signed.body, headers=signed.headers) as answer:
            text = await answer.text()
        if answer.status != 200:
            raise Refused(text[:500])
        return text

    async def ask(self, action: str, **parameters: object) -> str:
        return await self.send(self.sign(action, **parameters))


async def at_once(clients: int, work: Sequence[T], do: Callable[[T], Awaitable[object]]) -> float:
    """Does all the work with so many clients; returns how many a second."""
    left = iter(work)

    async def client() -> None:
        for piece in left:
            await do(piece)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(clients):
            tasks.create_task(client())
    return len(work) / (time.perf_counter() - began)


def values(text: str, tag: str) -> list[str]:
    """What stands in the elements of that name, each once."""
    return list(dict.fromkeys(re.findall(f"<{tag}>([^<]+)</{tag}>", text)))


def numbered(name: str, given: Sequence[str]) -> dict[str, str]:
    """InstanceId__1, InstanceId__2 …"""
    return {f"{name}__{number}": value for number, value in enumerate(given, start=1)}
