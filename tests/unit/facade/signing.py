"""Requests as AWS's own client library signs them: the oracle for our checks."""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from common.errors import NotFound
from ec2_facade.auth.authenticate import Authenticator
from ec2_facade.auth.claim import Scope
from ec2_facade.auth.keys import KeyCache, SigningKey
from ec2_facade.wire import WireRequest, split_target
from mallee.common.v1 import caller_pb2

ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
REGION = "us-east-1"
ENDPOINT = "http://cloud.example:8773"


def signing_key(scope: Scope, secret: str = SECRET) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (scope.date, scope.region, scope.service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


class FixedIdentities:
    """One access key; counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def signing_key(self, scope: Scope) -> SigningKey:
        self.asked += 1
        if scope.access_key_id != ACCESS_KEY:
            raise NotFound("no such access key", code="InvalidClientTokenId")
        return SigningKey(signing_key(scope), caller_pb2.Caller(account_id="1" * 12, access_key_id=ACCESS_KEY))


def authenticator(now: datetime | None = None, *, region: str = REGION) -> Authenticator:
    return Authenticator(
        KeyCache(),
        FixedIdentities(),
        region=region,
        clock_skew_s=900,
        now=(lambda: now) if now else (lambda: datetime.now(UTC)),
    )


def sign_headers(
    method: str,
    url: str,
    *,
    service: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    region: str = REGION,
    access_key: str = ACCESS_KEY,
    secret: str = SECRET,
) -> WireRequest:
    request = AWSRequest(method=method, url=url, data=body, headers=dict(headers or {}))
    signer = S3SigV4Auth if service == "s3" else SigV4Auth
    signer(Credentials(access_key, secret), service, region).add_auth(request)
    return wire_of(request)


def presign(
    method: str,
    url: str,
    *,
    service: str = "s3",
    expires_s: int = 3600,
    headers: dict[str, str] | None = None,
    region: str = REGION,
) -> WireRequest:
    request = AWSRequest(method=method, url=url, headers=dict(headers or {}))
    signer = S3SigV4QueryAuth if service == "s3" else SigV4QueryAuth
    signer(Credentials(ACCESS_KEY, SECRET), service, region, expires=expires_s).add_auth(request)
    return wire_of(request)


def wire_of(request: Any) -> WireRequest:
    """What goes over the wire when urllib3 sends this."""
    prepared = request.prepare()
    parts = urlsplit(prepared.url)
    target = parts.path or "/"
    path, query = split_target(f"{target}?{parts.query}" if parts.query else target)
    headers = [(name.lower(), _text(value)) for name, value in prepared.headers.items()]
    if not any(name == "host" for name, _ in headers):
        headers.append(("host", parts.netloc))
    return WireRequest(method=prepared.method, raw_path=path, raw_query=query, headers=tuple(headers))


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
