"""Signature Version 2 of S3: presigned URLs, which the AWS CLI and boto3 make in us-east-1 unless told otherwise, and
the Authorization header of older clients.

https://docs.aws.amazon.com/AmazonS3/latest/API/RESTAuthentication.html
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import unquote

from ec2_facade.auth.authenticate import utc_now
from ec2_facade.auth.claim import parse_timestamp
from ec2_facade.auth.problem import AuthProblem, Reason
from ec2_facade.auth.version2 import Claim, SecretHolder, prove
from ec2_facade.wire import WireRequest, to_text
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
# They choose an action as well, and nobody signs them: whoever was given a URL would change with them what it does.
_UNSIGNED: Final = frozenset(
    {
        "abac",
        "annotation",
        "annotationName",
        "attributes",
        "encryption",
        "intelligent-tiering",
        "legal-hold",
        "metadataAnnotationTable",
        "metadataConfiguration",
        "metadataInventoryTable",
        "metadataJournalTable",
        "metadataTable",
        "ownershipControls",
        "policyStatus",
        "publicAccessBlock",
        "renameObject",
        "retention",
        "session",
    }
)
_MECHANISM: Final = "AWS "
_ISO: Final = "%Y-%m-%dT%H:%M:%SZ"
_EARLIEST: Final = datetime.fromtimestamp(0, UTC)
# 2100-01-01: what is later is no date.
_LATEST: Final = 4102444800


def is_legacy(request: WireRequest) -> bool:
    return (request.header("authorization") or "").startswith(_MECHANISM) or _in_query(request)


def _in_query(request: WireRequest) -> bool:
    return request.query_value("AWSAccessKeyId") is not None or request.query_value("Signature") is not None


class LegacyAuthenticator:
    def __init__(self, secrets: SecretHolder, *, clock_skew_s: int, now: Callable[[], datetime] = utc_now) -> None:
        self._secrets = secrets
        self._skew = timedelta(seconds=clock_skew_s)
        self._now = now

    async def authenticate(self, request: WireRequest, *, host_bucket: str | None) -> caller_pb2.Caller:
        """Raises AuthProblem, or Unavailable when the CLC does not answer. `host_bucket`: the one in the host name."""
        if (header := request.header("authorization")) is None:
            claim, token = self._query_claim(request, host_bucket), request.query_value("x-amz-security-token")
        elif _in_query(request) or request.query_value("X-Amz-Signature") is not None:
            raise AuthProblem(Reason.TWO_MECHANISMS, header=header[:256])
        else:
            claim, token = self._header_claim(request, header, host_bucket), request.header("x-amz-security-token")
        if token is not None:
            raise AuthProblem(Reason.BAD_SESSION_TOKEN, token=token[:256])
        if not _is_text(claim.string_to_sign + claim.access_key_id):
            raise AuthProblem(Reason.MALFORMED, "The request is not in UTF-8.")
        return await prove(self._secrets, claim, request)

    async def authenticate_form(self, request: WireRequest, fields: Mapping[str, str]) -> caller_pb2.Caller:
        """Of a browser's form: the policy is what is signed. All fields are there, by lower-case name."""
        if (token := fields.get("x-amz-security-token")) is not None:
            raise AuthProblem(Reason.BAD_SESSION_TOKEN, token=token[:256])
        claim = Claim(
            access_key_id=fields["awsaccesskeyid"],
            signature=fields["signature"],
            string_to_sign=fields["policy"],
            hash_name="sha1",
        )
        return await prove(self._secrets, claim, request)

    def _query_claim(self, request: WireRequest, host_bucket: str | None) -> Claim:
        access_key_id, signature, expires = (
            request.query_value(name) for name in ("AWSAccessKeyId", "Signature", "Expires")
        )
        if not access_key_id or not signature or not expires:
            raise AuthProblem(Reason.INCOMPLETE_QUERY)
        self._check_expires(expires)
        return _claim(request, access_key_id, signature, moment=expires, host_bucket=host_bucket)

    def _header_claim(self, request: WireRequest, header: str, host_bucket: str | None) -> Claim:
        access_key_id, colon, signature = header.removeprefix(_MECHANISM).strip().rpartition(":")
        if not colon or not access_key_id or " " in access_key_id:
            raise AuthProblem(Reason.BAD_LEGACY_HEADER, header=header[:256])
        self._check_date(request)
        # Whoever gives both has signed the one of Amazon's: the other may be set by what sends the request.
        moment = "" if request.header("x-amz-date") is not None else (request.header("date") or "").strip()
        return _claim(request, access_key_id, signature, moment=moment, host_bucket=host_bucket)

    def _check_expires(self, expires: str) -> None:
        if not expires.isascii() or not expires.isdigit() or int(expires[:20]) > _LATEST:
            raise AuthProblem(Reason.BAD_LEGACY_DATE, f"Invalid date (should be seconds since epoch): {expires[:64]}")
        now, ends = self._now(), datetime.fromtimestamp(int(expires), UTC)
        if now > ends:
            raise AuthProblem(Reason.EXPIRED, expires=ends.strftime(_ISO), server_time=now.strftime(_ISO))

    def _check_date(self, request: WireRequest) -> None:
        text = request.header("x-amz-date")
        if text is None:
            text = request.header("date") or ""
        moment, now = _date(text), self._now()
        if moment is None or moment < _EARLIEST:
            raise AuthProblem(Reason.BAD_LEGACY_DATE, "AWS authentication requires a valid Date or x-amz-date header")
        if abs(moment - now) > self._skew:
            raise AuthProblem(
                Reason.CLOCK_BEHIND if moment < now else Reason.CLOCK_AHEAD,
                request=text[:64],
                server_time=now.strftime(_ISO),
                skew_ms=str(self._skew // timedelta(milliseconds=1)),
            )


def _date(text: str) -> datetime | None:
    """As RFC 9110 writes it, or in ISO 8601's basic format."""
    if (moment := parse_timestamp(text)) is not None:
        return moment
    try:
        moment = parsedate_to_datetime(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _claim(request: WireRequest, access_key_id: str, signature: str, *, moment: str, host_bucket: str | None) -> Claim:
    """A bucket alone is signed with a slash behind it (botocore), or as it is sent (AWS's SDK for JavaScript)."""
    head, path = _head(request, moment), f"/{host_bucket}{request.raw_path}" if host_bucket else request.raw_path
    alone = path != "/" and path.count("/") == 1
    paths = [f"{path}/", path] if alone else [path]
    texts = [f"{head}\n{_resource(request, one, by_query=request.header('authorization') is None)}" for one in paths]
    return Claim(
        access_key_id=access_key_id,
        signature=signature,
        string_to_sign=texts[0],
        hash_name="sha1",
        otherwise=texts[1] if alone else None,
    )


def _head(request: WireRequest, moment: str) -> str:
    """`moment`: the Date of a header, the Expires of a query."""
    by_query = request.header("authorization") is None

    def given(name: str) -> str:
        return (request.header(name) or (by_query and request.query_value(name)) or "").strip()

    lines = [request.method, given("content-md5"), given("content-type"), moment]
    lines += _amz_headers(request, by_query=by_query)
    if any("\n" in line for line in lines):
        # Two lines in one would be signed like one and another.
        raise AuthProblem(Reason.MALFORMED, "A header has a line break in it.")
    return "\n".join(lines)


def _amz_headers(request: WireRequest, *, by_query: bool) -> list[str]:
    """Those in the query stand for headers that a browser cannot send."""
    found: dict[str, str] = {}
    for key, value in request.query if by_query else ():
        name = to_text(key).lower()
        if name in found:
            # Which of them counts, and whether they are one with a comma in it, is not for who adds it.
            raise AuthProblem(Reason.MALFORMED, f"{name[:64]} is given twice.")
        if name.startswith("x-amz-"):
            found[name] = to_text(value)
    for name in request.header_names:
        if name.startswith("x-amz-"):
            found[name] = ",".join(value.strip() for value in request.header_values(name))
    return [f"{name}:{found[name]}" for name in sorted(found)]


def _resource(request: WireRequest, path: str, *, by_query: bool) -> str:
    signed = _SUBRESOURCES | _UNSIGNED if by_query else _SUBRESOURCES
    # Names as the action is found by them, however they are written.
    arguments = sorted(
        (name, unquote(value) if equals else "", bool(equals))
        for name, equals, value in (
            (unquote(name), equals, value)
            for name, equals, value in (pair.partition("=") for pair in request.raw_query.split("&"))
        )
        if name in signed
    )
    query = "&".join(f"{name}={value}" if equals else name for name, value, equals in arguments)
    return f"{path}?{query}" if query else path


def _is_text(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
