"""What happens to every request, in order. The steps of a service's own stand in query.py and s3/pipeline.py.

request id → service → authenticate → parse → caller into metadata → call → render → access log and metrics
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from common.errors import CloudError
from common.ids import new_request_id
from common.log import get_logger
from common.rpc import context as rpc_context
from ec2_facade.auth.failures import refusal
from ec2_facade.auth.mechanisms import Authentication
from ec2_facade.auth.problem import AuthProblem
from ec2_facade.backends import Backends
from ec2_facade.body import HeldBytes
from ec2_facade.errors import INTERNAL, Refused, for_clients
from ec2_facade.exchange import Exchange
from ec2_facade.limits import Limits
from ec2_facade.observe import Observed
from ec2_facade.protocol import QueryProtocol, Response, RestXmlProtocol
from ec2_facade.query import QueryPipeline
from ec2_facade.s3.page import error_page
from ec2_facade.s3.pipeline import S3Pipeline
from ec2_facade.services import QUERY_SERVICES, Endpoint, find_service
from ec2_facade.unserved import unserved_error

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocols:
    """Every service's codec: costly to make, so made once per process."""

    query: dict[str, QueryProtocol]
    s3: RestXmlProtocol

    @classmethod
    def load(cls) -> Protocols:
        """Reads AWS's models now, rather than while the first client waits."""
        made = cls(query={service: QueryProtocol(service) for service in QUERY_SERVICES}, s3=RestXmlProtocol("s3"))
        for contract in [made.s3.contract, *(protocol.contract for protocol in made.query.values())]:
            assert contract.operations
        return made


class Pipeline:
    def __init__(
        self,
        protocols: Protocols,
        authentication: Authentication,
        backends: Backends,
        *,
        limits: Limits,
        endpoint: Endpoint,
        note: Callable[[Exchange, float], None] = lambda exchange, took_s: None,
    ) -> None:
        """`note` hears of every request that was answered, and how long it took."""
        self._note = note
        self._protocols = protocols
        self._limits = limits
        self.proxies = endpoint.proxies
        self._hosts = endpoint.s3_hosts()
        self._held = HeldBytes(limits.held_bytes)
        self._sts_actions = frozenset(protocols.query["sts"].contract.model.operation_names)
        self._query = QueryPipeline(protocols.query, authentication, backends, limits)
        self._s3 = S3Pipeline(protocols.s3, authentication, backends, limits, endpoint)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        exchange = Exchange(request, new_request_id(), self._limits, self._held, self.proxies)
        with rpc_context.bind(request_id=exchange.request_id), Observed(exchange, self._note):
            try:
                exchange.service = find_service(exchange.wire, hosts=self._hosts, sts_actions=self._sts_actions)
                pipeline = self._s3 if exchange.service == "s3" else self._query
                return await pipeline.answer(exchange)
            except AuthProblem as problem:
                error: CloudError = refusal(problem, exchange.service)
            except CloudError as raised:
                error = for_clients(raised)
            exchange.code = error.code
            return await exchange.send(self._render(exchange, error))

    def failed(self, request: web.BaseRequest, status: int, cause: BaseException | None) -> web.StreamResponse:
        """For what never came to a handler, or a bug in one: an opaque answer, the rest to the log."""
        request_id = new_request_id()
        if status >= 500:
            _log.error("a request failed", request_id=request_id, path=request.path[:1024], exc_info=cause)
            error = Refused("InternalError", INTERNAL, status=500)
        else:
            _log.info("not an HTTP request", request_id=request_id, address=request.remote, cause=repr(cause)[:256])
            error = Refused("BadRequest", "An error occurred when parsing the HTTP request.", status=400)
        answer = self._protocols.s3.render_error(error, request_id)
        return web.Response(status=answer.status, headers=dict(answer.headers), body=answer.body)

    def _render(self, exchange: Exchange, error: CloudError) -> Response:
        if exchange.wants_page:
            return error_page(error, exchange.request_id)
        if exchange.service == "s3":
            return self._protocols.s3.render_error(error, exchange.request_id, exchange.wire.raw_path)
        if protocol := self._protocols.query.get(exchange.service):
            return protocol.render_error(error, exchange.request_id)
        return unserved_error(exchange.wire, error, exchange.request_id)
