"""Presigned URLs of Signature Version 2: what the AWS CLI and boto3 make for S3 in us-east-1 unless told otherwise.

https://docs.aws.amazon.com/AmazonS3/latest/API/RESTAuthentication.html#RESTAuthenticationQueryStringAuth. Everything in
the query is theirs; the header form is not taken.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final
from urllib.parse import unquote

from ec2_facade.auth.authenticate import utc_now
from ec2_facade.auth.problem import AuthProblem, Reason
from ec2_facade.auth.version2 import Claim, SecretHolder, prove
from ec2_facade.wire import WireRequest
from mallee.common.v1 import caller_pb2

# Query arguments that are part of what is signed.
_SUBRESOURCES: Final = frozenset(
    {
        "accelerate",
        "acl",
        "analytics",
        "cors",
        "delete",
        "inventory",
        "lifecycle",
        "location",
        "logging",
        "metrics",
        "notification",
        "object-lock",
        "partNumber",
        "policy",
        "replication",
        "requestPayment",
        "response-cache-control",
        "response-content-disposition",
        "response-content-encoding",
        "response-content-language",
        "response-content-type",
        "response-expires",
        "restore",
        "select",
        "select-type",
        "storageClass",
        "tagging",
        "torrent",
        "uploadId",
        "uploads",
        "versionId",
        "versioning",
        "versions",
        "website",
    }
)
# 2100-01-01: what is later is no date.
_LATEST: Final = 4102444800


def is_legacy(request: WireRequest) -> bool:
    return (
        request.query_value("AWSAccessKeyId") is not None
        and request.query_value("Signature") is not None
        and request.header("authorization") is None
    )


class LegacyAuthenticator:
    def __init__(self, secrets: SecretHolder, *, now: Callable[[], datetime] = utc_now) -> None:
        self._secrets = secrets
        self._now = now

    async def authenticate(self, request: WireRequest, *, host_bucket: str | None) -> caller_pb2.Caller:
        """Raises AuthProblem, or Unavailable when the CLC does not answer. `host_bucket`: the one in the host name."""
        access_key_id = request.query_value("AWSAccessKeyId") or ""
        expires = request.query_value("Expires") or ""
        signature = request.query_value("Signature") or ""
        self._check_time(expires)
        if (token := request.query_value("x-amz-security-token")) is not None:
            raise AuthProblem(Reason.BAD_SESSION_TOKEN, token=token[:256])
        text = string_to_sign(request, expires=expires, host_bucket=host_bucket)
        if not _is_text(text):
            raise AuthProblem(Reason.MALFORMED, "The request is not in UTF-8.")
        claim = Claim(access_key_id=access_key_id, signature=signature, string_to_sign=text, hash_name="sha1")
        return await prove(self._secrets, claim, request)

    def _check_time(self, expires: str) -> None:
        if not expires.isascii() or not expires.isdigit() or int(expires[:20]) > _LATEST:
            raise AuthProblem(Reason.MALFORMED, f"Invalid date (should be seconds since epoch): {expires[:64]}")
        now, ends = self._now(), datetime.fromtimestamp(int(expires), UTC)
        if now > ends:
            iso = "%Y-%m-%dT%H:%M:%SZ"
            raise AuthProblem(Reason.EXPIRED, expires_s="0", expires=ends.strftime(iso), server_time=now.strftime(iso))


def string_to_sign(request: WireRequest, *, expires: str, host_bucket: str | None) -> str:
    def given(name: str) -> str:
        return (request.header(name) or request.query_value(name) or "").strip()

    lines = [request.method, given("content-md5"), given("content-type"), expires]
    return "\n".join([*lines, *_amz_headers(request), _resource(request, host_bucket)])


def _amz_headers(request: WireRequest) -> list[str]:
    """Those in the query stand for headers that a browser cannot send."""
    found = {
        key.decode("utf-8", "surrogateescape").lower(): value.decode("utf-8", "surrogateescape")
        for key, value in request.query
        if key.lower().startswith(b"x-amz-")
    }
    for name in request.header_names:
        if name.startswith("x-amz-"):
            found[name] = ",".join(value.strip() for value in request.header_values(name))
    return [f"{name}:{found[name]}" for name in sorted(found)]


def _resource(request: WireRequest, host_bucket: str | None) -> str:
    path = f"/{host_bucket}{request.raw_path}" if host_bucket else request.raw_path
    arguments = sorted(
        (name, unquote(value) if equals else None)
        for name, equals, value in (pair.partition("=") for pair in request.raw_query.split("&"))
        if name in _SUBRESOURCES
    )
    query = "&".join(name if value is None else f"{name}={value}" for name, value in arguments)
    return f"{path}?{query}" if query else path


def _is_text(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
