"""Refusals of services that this cloud does not have, in the protocol that their clients speak.

https://smithy.io/2.0/aws/protocols/index.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from common.errors import CloudError
from ec2_facade.auth.claim import peek_scope
from ec2_facade.protocol import Response
from ec2_facade.protocol.errors import query_error
from ec2_facade.wire import WireRequest

_FORM = "application/x-www-form-urlencoded"
_JSON_RPC = "application/x-amz-json-"
# Of those that speak neither RPC nor forms, these few speak XML; all others JSON.
_REST_XML = frozenset({"cloudfront", "route53", "s3-outposts", "s3express"})


def speaks_rpc(request: WireRequest) -> bool:
    """In a protocol that no service of this cloud has."""
    return request.header("x-amz-target") is not None or _speaks_cbor(request)


def unserved_error(request: WireRequest, error: CloudError, request_id: str) -> Response:
    """With code and message where the client's SDK looks for them."""
    told = {"__type": error.code, "message": error.message}
    headers = [("x-amzn-RequestId", request_id), ("x-amzn-ErrorType", error.code)]
    if _speaks_cbor(request):
        headers += [("smithy-protocol", "rpc-v2-cbor"), ("Content-Type", "application/cbor")]
        return Response(status=400, headers=headers, body=_cbor(told))
    content_type = request.header("content-type") or ""
    if speaks_rpc(request) or content_type.startswith(_JSON_RPC):
        kind = content_type if content_type in (f"{_JSON_RPC}1.0", f"{_JSON_RPC}1.1") else f"{_JSON_RPC}1.0"
    elif _speaks_xml(request, content_type):
        return query_error(error, request_id)
    else:
        kind = "application/json"
    return Response(status=400, headers=[*headers, ("Content-Type", kind)], body=json.dumps(told).encode())


def _speaks_cbor(request: WireRequest) -> bool:
    return request.header("smithy-protocol") == "rpc-v2-cbor"


def _speaks_xml(request: WireRequest, content_type: str) -> bool:
    scope = peek_scope(request)
    by_form = content_type.startswith(_FORM) or request.query_value("Action") is not None
    return by_form or (scope is not None and scope.service in _REST_XML)


def _cbor(texts: Mapping[str, str]) -> bytes:
    """RFC 8949: a map of fewer than 24 texts, each of less than 64 KiB."""
    body = bytes([0xA0 | len(texts)])
    for text in (part.encode() for pair in texts.items() for part in pair):
        body += b"\x79" + len(text).to_bytes(2) + text
    return body
