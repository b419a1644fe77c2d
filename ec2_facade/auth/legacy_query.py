"""Signature Version 2 of the Query services: what apache-libcloud still uses for EC2 in us-east-1.

https://docs.aws.amazon.com/general/latest/gr/signature-version-2.html (archived), botocore.auth.SigV2Auth. The
parameters of a GET carry it; a signed form is not taken, since its body would have to be read before the key is known.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import quote

from ec2_facade.auth.authenticate import utc_now
from ec2_facade.auth.claim import format_timestamp
from ec2_facade.auth.problem import AuthProblem, Reason
from ec2_facade.auth.version2 import Claim, SecretHolder, prove
from ec2_facade.wire import WireRequest, to_bytes
from mallee.common.v1 import caller_pb2

_HASHES: Final = {"HmacSHA256": "sha256", "HmacSHA1": "sha1"}


def is_legacy_query(request: WireRequest) -> bool:
    return (
        request.method == "GET"
        and request.query_value("AWSAccessKeyId") is not None
        and request.query_value("X-Amz-Algorithm") is None
        and request.header("authorization") is None
    )


class LegacyQueryAuthenticator:
    def __init__(self, secrets: SecretHolder, *, clock_skew_s: int, now: Callable[[], datetime] = utc_now) -> None:
        self._secrets = secrets
        self._skew = timedelta(seconds=clock_skew_s)
        self._now = now

    async def authenticate(self, request: WireRequest) -> caller_pb2.Caller:
        """Raises AuthProblem, or Unavailable when the CLC does not answer."""
        access_key_id, signature = _value(request, "AWSAccessKeyId"), _value(request, "Signature")
        if (version := _value(request, "SignatureVersion")) != "2":
            raise AuthProblem(Reason.MALFORMED, f"Unsupported SignatureVersion '{version[:64]}'.")
        hash_name = _HASHES.get(method := _value(request, "SignatureMethod"))
        if hash_name is None:
            raise AuthProblem(Reason.MALFORMED, f"Unsupported SignatureMethod '{method[:64]}'.")
        self._check_time(request)
        if (token := request.query_value("SecurityToken")) is not None:
            raise AuthProblem(Reason.BAD_SESSION_TOKEN, token=token[:256])
        text = string_to_sign(request)
        claim = Claim(access_key_id=access_key_id, signature=signature, string_to_sign=text, hash_name=hash_name)
        return await prove(self._secrets, claim, request)

    def _check_time(self, request: WireRequest) -> None:
        """Exactly one of Timestamp, when it was signed, and Expires, until when it is good."""
        signed_at, expires = request.query_value("Timestamp"), request.query_value("Expires")
        if (signed_at is None) is (expires is None):
            raise AuthProblem(Reason.MALFORMED, "Exactly one of the parameters Timestamp and Expires must be given.")
        moment, now = _moment(signed_at or expires or ""), self._now()
        facts = {
            "request": format_timestamp(moment),
            "now": format_timestamp(now),
            "allowed": f"{int(self._skew.total_seconds()) // 60} min.",
        }
        if signed_at is None and moment < now:
            raise AuthProblem(Reason.EXPIRED, limit=format_timestamp(now), **facts)
        if signed_at is not None and moment < now - self._skew:
            raise AuthProblem(Reason.CLOCK_BEHIND, limit=format_timestamp(now - self._skew), **facts)
        if signed_at is not None and moment > now + self._skew:
            raise AuthProblem(Reason.CLOCK_AHEAD, limit=format_timestamp(now + self._skew), **facts)


def string_to_sign(request: WireRequest) -> str:
    """The parameters in the order of their bytes, each as RFC 3986 encodes it, whatever the client wrote."""
    pairs = sorted(pair for pair in request.query if pair[0] != b"Signature")
    query = "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in pairs)
    host = quote(to_bytes(request.host.lower()), safe="-_.~:[]%")
    return "\n".join((request.method, host, quote(to_bytes(request.raw_path), safe="/%-_.~"), query))


def _value(request: WireRequest, name: str) -> str:
    """Raises AuthProblem for a parameter that is not there, or cannot be one of a signature's."""
    value = request.query_value(name)
    if value is None:
        raise AuthProblem(Reason.MALFORMED, f"The request must contain the parameter {name}.")
    if not value.isascii():
        raise AuthProblem(Reason.MALFORMED, f"The parameter {name} is not in ASCII.")
    return value


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise AuthProblem(Reason.MALFORMED, f"Not a date and time of ISO 8601: '{text[:64]}'.") from None
