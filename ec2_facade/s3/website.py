"""Website endpoints: a bucket as a website, for anybody's browser.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/WebsiteEndpoints.html. Nobody has credentials here: what may be
read is what the bucket has opened to all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import quote

from aiohttp import web
from google.protobuf.message import Message

from common.errors import CloudError, NotFound
from common.rpc import context as rpc_context
from ec2_facade.backends import Backends
from ec2_facade.errors import Refused
from ec2_facade.exchange import Exchange
from ec2_facade.limits import Limits
from ec2_facade.protocol import Response, RestXmlProtocol
from ec2_facade.protocol.errors import s3_ids, s3_refusal
from ec2_facade.s3 import routing
from ec2_facade.s3.address import decode_path
from ec2_facade.s3.admission import request_context
from ec2_facade.s3.download import download
from ec2_facade.s3.page import error_page
from ec2_facade.s3.routing import SAFE, Elsewhere
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1.website_pb2 import WebsiteConfiguration

# Headers of a request that speak of the page; what else a browser sends is not for the store.
_CONDITIONS: Final = ("range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since")

Render = Callable[[Message], Response]


class _Moved(Exception):
    """The object says itself that it is somewhere else."""

    def __init__(self, to: Elsewhere) -> None:
        super().__init__(to.location)
        self.to = to


def website_of_host(host: str, domains: Sequence[str], region: str) -> str | None:
    """BUCKET of BUCKET.s3-website-REGION.DOMAIN or BUCKET.s3-website.REGION.DOMAIN."""
    if ".s3-website" not in host:
        return None
    for domain in domains:
        for endpoint in (f".s3-website-{region}.{domain}", f".s3-website.{region}.{domain}"):
            if host.endswith(endpoint):
                return host.removesuffix(endpoint)
    return None


class Website:
    def __init__(self, protocol: RestXmlProtocol, backends: Backends, limits: Limits) -> None:
        self._protocol = protocol
        self._backends = backends
        self._limits = limits

    async def answer(self, exchange: Exchange, bucket: str) -> web.StreamResponse:
        """Raises CloudError; the pipeline shows it as a page."""
        wire = exchange.wire
        exchange.action = "WebsiteRequest"
        if wire.method not in ("GET", "HEAD"):
            message = "The specified method is not allowed against this resource."
            raise Refused("MethodNotAllowed", message, status=405, details={"Method": wire.method})
        config = await self._configuration(bucket)
        key = decode_path(wire.raw_path.removeprefix("/"))
        if elsewhere := routing.before(config, wire, key):
            return await self._send_elsewhere(exchange, elsewhere)
        exchange.key = key
        exchange.caller = nobody = Caller(anonymous=True, source_ip=wire.source_ip, request=request_context(wire))
        with rpc_context.bind(caller=nobody):
            try:
                return await self._show(exchange, bucket, _page(config, key))
            except _Moved as moved:
                return await self._send_elsewhere(exchange, moved.to)
            except CloudError as error:
                return await self._answer_instead(exchange, bucket, config, key, error)

    async def stands(self, bucket: str) -> bool:
        """There is one. Raises Unavailable."""
        try:
            return (await self._backends.web_configuration(bucket)).HasField("website")
        except NotFound:
            return False

    async def _configuration(self, bucket: str) -> WebsiteConfiguration:
        found = await self._backends.web_configuration(bucket)
        if not found.HasField("website"):
            message = "The specified bucket does not have a website configuration"
            details = {"BucketName": bucket}
            raise Refused("NoSuchWebsiteConfiguration", message, status=404, details=details)
        return found.website

    async def _answer_instead(
        self, exchange: Exchange, bucket: str, config: WebsiteConfiguration, key: str, error: CloudError
    ) -> web.StreamResponse:
        """Of a page that cannot be shown: the folder of that name, a redirect, the bucket's own error document."""
        status, _ = s3_refusal(error)
        if not 400 <= status < 500:
            raise error
        if not key.endswith("/") and key and await self._is_there(bucket, _page(config, f"{key}/")):
            return await self._send_elsewhere(exchange, Elsewhere(status=302, location=f"/{quote(key, safe='/-_.~')}/"))
        if elsewhere := routing.after(config, exchange.wire, key, status):
            return await self._send_elsewhere(exchange, elsewhere)
        if not config.HasField("error_document"):
            raise error
        exchange.code = error.code
        try:
            return await self._show(exchange, bucket, config.error_document.key, status=status)
        except _Moved as moved:
            return await self._send_elsewhere(exchange, moved.to)
        except CloudError as document:
            return await exchange.send(error_page(error, exchange.request_id, document=document))

    async def _show(
        self, exchange: Exchange, bucket: str, key: str, *, status: int | None = None
    ) -> web.StreamResponse:
        """`status`: of an error document, which is shown whole, whatever part the browser wanted of the page."""
        wire = exchange.wire
        headers = {name: value for name in _CONDITIONS if (value := wire.header(name)) is not None}
        operation = self._protocol.contract.operations["HeadObject" if wire.method == "HEAD" else "GetObject"]

        def render(found: Message) -> Response:
            _check_moved(found)
            answer = self._protocol.render(operation, found, exchange.request_id)
            return answer if status is None else Response(status=status, headers=answer.headers)

        request = self._protocol.parse(operation, bucket, key, {}, headers if status is None else {})
        if wire.method == "HEAD":
            return await exchange.send(
                render(await self._backends.call(operation, request, timeout_s=self._limits.call_s))
            )
        return await download(exchange, self._backends, self._protocol, operation, request, self._limits, render=render)

    async def _is_there(self, bucket: str, key: str) -> bool:
        operation = self._protocol.contract.operations["HeadObject"]
        request = self._protocol.parse(operation, bucket, key, {}, {})
        try:
            await self._backends.call(operation, request, timeout_s=self._limits.call_s)
        except CloudError:
            return False
        return True

    async def _send_elsewhere(self, exchange: Exchange, to: Elsewhere) -> web.StreamResponse:
        # Whatever an owner wrote, it is to stand in a header.
        location = quote(to.location, safe=f"{SAFE}#%[]")
        headers = [*s3_ids(exchange.request_id), ("Location", location)]
        return await exchange.send(Response(status=to.status, headers=headers))


def _page(config: WebsiteConfiguration, key: str) -> str:
    return key + config.index_document.suffix if not key or key.endswith("/") else key


def _check_moved(found: Any) -> None:
    if location := getattr(found, "website_redirect_location", ""):
        raise _Moved(Elsewhere(status=301, location=location))
