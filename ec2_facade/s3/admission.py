"""Who asks: every way in which S3's clients say it, by header and by query, and nobody at all.

A request that names nobody is let through as nobody: what a bucket has opened to all is Walrus's to know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ec2_facade.auth.authenticate import Identified, verify_text
from ec2_facade.auth.canonical import ALGORITHM
from ec2_facade.auth.claim import read_form_claim
from ec2_facade.auth.legacy import is_legacy
from ec2_facade.auth.mechanisms import Authentication
from ec2_facade.auth.payload import Payload, read_payload, undeclared_payload
from ec2_facade.auth.problem import AuthProblem
from ec2_facade.errors import Refused
from ec2_facade.services import Hosts, bare_host
from ec2_facade.wire import WireRequest, to_bytes
from mallee.common.v1.caller_pb2 import Caller, RequestContext

_SHOWN_CHARACTERS = 2048
_BY_HEADER, _BY_QUERY = "REST-HEADER", "REST-QUERY-STRING"
_LEGACY = "AWS"
_SIGNATURE_QUERY = frozenset({"X-Amz-Algorithm", "X-Amz-Signature", "X-Amz-Credential"})


# A tuple: each request makes one, and a frozen dataclass takes twice the time.
class Proved(NamedTuple):
    """Who asks, and what was signed about the body."""

    caller: Caller
    payload: Payload
    # What chunk signatures follow from; None where there are none.
    identified: Identified | None = None

    @property
    def anonymous(self) -> bool:
        return self.caller.anonymous


class Admission:
    def __init__(self, authentication: Authentication, hosts: Hosts) -> None:
        self._current = authentication.current
        self._legacy = authentication.legacy
        self._hosts = hosts

    async def admit(self, wire: WireRequest) -> Proved:
        """Raises AuthProblem, Refused for a body that cannot be checked, Unavailable when the CLC does not answer."""
        if is_legacy(wire):
            return await self._admit_legacy(wire)
        if names_nobody(wire):
            return _nobody(wire)
        identified = await self._current.identify(wire, "s3")
        payload = read_payload(wire, identified.claim)
        self._current.verify(wire, identified, payload_hash=payload.hash)
        caller = identified.caller(wire.source_ip)
        _describe(caller.request, wire, _BY_QUERY if identified.claim.presigned else _BY_HEADER, ALGORITHM)
        caller.request.signed_ms = int(identified.claim.time.timestamp()) * 1000
        return Proved(caller=caller, payload=payload, identified=identified)

    async def _admit_legacy(self, wire: WireRequest) -> Proved:
        host_bucket = self._hosts.bucket_of(bare_host(wire.host))
        caller = await self._legacy.authenticate(wire, host_bucket=host_bucket)
        _describe(caller.request, wire, _BY_QUERY if wire.header("authorization") is None else _BY_HEADER, _LEGACY)
        return Proved(caller=caller, payload=undeclared_payload(wire))

    async def admit_form(self, wire: WireRequest, fields: Mapping[str, str]) -> Caller:
        """Who a browser's form says that it is from; its policy is what is signed. `fields` by lower-case name."""
        caller, version = Caller(anonymous=True, source_ip=wire.source_ip), ""
        if fields.keys() & {"x-amz-signature", "x-amz-credential", "x-amz-algorithm"}:
            need_fields(fields, "policy", "X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Signature")
            try:
                identified = await self._current.identify_claim(read_form_claim(fields), "s3")
                verify_text(identified, fields["policy"])
            except AuthProblem as problem:
                facts = {"argument": "X-Amz-Credential"} | problem.facts | {"form": "yes"}
                raise AuthProblem(problem.reason, problem.detail, **facts) from None
            caller, version = identified.caller(wire.source_ip), ALGORITHM
        elif fields.keys() & {"awsaccesskeyid", "signature", "policy"}:
            need_fields(fields, "AWSAccessKeyId", "policy", "signature")
            caller, version = await self._legacy.authenticate_form(wire, fields), _LEGACY
        _describe(caller.request, wire, "POST" if version else "", version)
        return caller


def names_nobody(wire: WireRequest) -> bool:
    """It comes without credentials of any kind."""
    signed = wire.header("authorization") or not _SIGNATURE_QUERY.isdisjoint(wire.query_texts)
    return not signed and not is_legacy(wire)


def need_fields(fields: Mapping[str, str], *names: str) -> None:
    for name in names:
        if name.lower() not in fields:
            message = (
                f"Bucket POST must contain a field named '{name}'.  If it is specified, please check the order of the "
                "fields."
            )
            details = {"ArgumentName": name, "ArgumentValue": ""}
            raise Refused("InvalidArgument", message, status=400, details=details)


def request_context(wire: WireRequest) -> RequestContext:
    """What any request tells of itself."""
    context = RequestContext()
    _describe(context, wire, "", "")
    return context


def _describe(context: RequestContext, wire: WireRequest, auth_type: str, signature_version: str) -> None:
    context.SetInParent()
    if wire.secure:
        context.secure_transport = True
    if (agent := wire.header("user-agent")) is not None:
        context.user_agent = _shown(agent)
    if (referer := wire.header("referer")) is not None:
        context.referer = _shown(referer)
    if declared := wire.header("x-amz-content-sha256"):
        context.content_sha256 = _shown(declared)
    context.auth_type = auth_type
    context.signature_version = signature_version


def _nobody(wire: WireRequest) -> Proved:
    for name, _ in wire.query:
        if name.startswith(b"response-"):
            message = "Request specific response headers cannot be used for anonymous GET requests."
            raise Refused("InvalidRequest", message, status=400)
    caller = Caller(anonymous=True, source_ip=wire.source_ip, request=request_context(wire))
    return Proved(caller=caller, payload=undeclared_payload(wire))


def _shown(value: str) -> str:
    known = value if value.isascii() else to_bytes(value).decode("utf-8", "replace")
    return known[:_SHOWN_CHARACTERS]
