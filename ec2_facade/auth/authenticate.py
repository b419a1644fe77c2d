"""Signature Version 4, checked in two steps so that nobody sends a body before the server knows the key.

`identify` needs the head of the request only; `verify` compares signatures once the hash of the payload is known, which
for S3 is in a header and for the Query services is that of the body.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from common.errors import NotFound
from ec2_facade.auth.canonical import canonical_request, sign, signatures_match, string_to_sign
from ec2_facade.auth.claim import Claim, format_timestamp, read_claim
from ec2_facade.auth.keys import Identities, KeyCache, SigningKey
from ec2_facade.auth.problem import AuthProblem, Reason
from ec2_facade.wire import WireRequest, to_text
from mallee.common.v1 import caller_pb2

# Tools show what was answered; a header flood is not echoed.
_MOST_SHOWN = 4096


def utc_now() -> datetime:
    return datetime.now(UTC)


# A tuple: each request makes one, and a frozen dataclass takes twice the time.
class Identified(NamedTuple):
    """The key that the request names. It proves nothing until `Authenticator.verify` has returned."""

    claim: Claim
    key: SigningKey

    def caller(self, source_ip: str) -> caller_pb2.Caller:
        caller = caller_pb2.Caller()
        caller.CopyFrom(self.key.caller)
        caller.source_ip = source_ip
        return caller


class Authenticator:
    """Raises AuthProblem for every refusal, Unavailable when the CLC does not answer."""

    def __init__(
        self,
        keys: KeyCache,
        identities: Identities,
        *,
        region: str,
        clock_skew_s: int,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._keys = keys
        self._identities = identities
        self._region = region
        self._skew = timedelta(seconds=clock_skew_s)
        self._now = now

    async def identify(self, request: WireRequest, service: str) -> Identified:
        claim = read_claim(request, must_expire=service == "s3")
        self._check(claim, service)
        _check_signed_headers(request, claim, service)
        return await self._find_key(claim)

    async def identify_claim(self, claim: Claim, service: str) -> Identified:
        """For what is signed other than a request is."""
        self._check(claim, service)
        return await self._find_key(claim)

    async def _find_key(self, claim: Claim) -> Identified:
        if claim.session_token is not None:
            raise AuthProblem(Reason.BAD_SESSION_TOKEN, token=claim.session_token[:_MOST_SHOWN])
        try:
            key = await self._keys.get(claim.scope, self._identities)
        except NotFound:
            raise AuthProblem(Reason.UNKNOWN_KEY, access_key=claim.scope.access_key_id) from None
        return Identified(claim=claim, key=key)

    def verify(self, request: WireRequest, identified: Identified, *, payload_hash: str) -> None:
        claim = identified.claim
        scope = claim.scope
        canonical = canonical_request(
            request, service=scope.service, signed_headers=claim.signed_headers, payload_hash=payload_hash
        )
        text = string_to_sign(timestamp=claim.timestamp, scope=str(scope), canonical=canonical)
        verify_text(identified, text, canonical_request=to_text(canonical[:_MOST_SHOWN]))

    def _check(self, claim: Claim, service: str) -> None:
        self._check_scope(claim, service)
        self._check_time(claim)
        self._check_date(claim)

    def _check_scope(self, claim: Claim, service: str) -> None:
        scope = claim.scope
        presigned = "yes" if claim.presigned else "no"
        if scope.service != service:
            raise AuthProblem(Reason.WRONG_SERVICE, service=scope.service, expected=service, presigned=presigned)
        if scope.region != self._region:
            raise AuthProblem(Reason.WRONG_REGION, region=scope.region, expected=self._region, presigned=presigned)

    def _check_date(self, claim: Claim) -> None:
        scope = claim.scope
        if scope.date != claim.timestamp[:8]:
            raise AuthProblem(
                Reason.WRONG_DATE,
                scope_date=scope.date,
                date=claim.timestamp[:8],
                request=claim.timestamp,
                presigned="yes" if claim.presigned else "no",
            )

    def _check_time(self, claim: Claim) -> None:
        now = self._now()
        if claim.time > now + self._skew:
            reason = Reason.NOT_YET_VALID if claim.presigned else Reason.CLOCK_AHEAD
            raise AuthProblem(reason, limit=format_timestamp(now + self._skew), **self._times(claim, now))
        ends = claim.time + (self._skew if claim.expires_s is None else timedelta(seconds=claim.expires_s))
        if now <= ends:
            return
        if claim.expires_s is None:
            limit = format_timestamp(now - self._skew)
            raise AuthProblem(Reason.CLOCK_BEHIND, limit=limit, **self._times(claim, now))
        raise AuthProblem(
            Reason.EXPIRED,
            limit=format_timestamp(now),
            expires_s=str(claim.expires_s),
            expires=ends.strftime("%Y-%m-%dT%H:%M:%SZ"),
            **self._times(claim, now),
        )

    def _times(self, claim: Claim, now: datetime) -> dict[str, str]:
        return {
            "request": claim.timestamp,
            "now": format_timestamp(now),
            "allowed": f"{int(self._skew.total_seconds()) // 60} min.",
            "skew_ms": str(int(self._skew.total_seconds() * 1000)),
            "server_time": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


def verify_text(identified: Identified, text: str, **shown: str) -> None:
    """Raises AuthProblem with `shown` beside the facts."""
    claim = identified.claim
    if not signatures_match(sign(identified.key.key, text), claim.signature):
        raise AuthProblem(
            Reason.WRONG_SIGNATURE,
            access_key=claim.scope.access_key_id,
            string_to_sign=text,
            signature=claim.signature,
            **shown,
        )


def _check_signed_headers(request: WireRequest, claim: Claim, service: str) -> None:
    """Host always; for S3 every x-amz- header too, because each changes what the request does."""
    signed = claim.signed_headers
    missing = [] if "host" in signed else ["host"]
    if service == "s3":
        missing += [name for name in request.header_names if name.startswith("x-amz-") and name not in signed]
    if missing:
        raise AuthProblem(Reason.UNSIGNED_HEADERS, headers=", ".join(sorted(missing))[:_MOST_SHOWN])
