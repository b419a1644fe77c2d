"""Signed requests sent byte by byte, for what no client library would send."""

from __future__ import annotations

import base64
import http.client
import socket
import zlib
from dataclasses import dataclass
from urllib.parse import urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from ec2_facade.auth.canonical import chunk_string_to_sign, sign, trailer_string_to_sign
from ec2_facade.auth.claim import peek_scope
from ec2_facade.wire import WireRequest
from tests.unit.facade.signing import ACCESS_KEY, REGION, SECRET, sha256, signing_key, wire_of

_CHUNK = 65536


class _DeclaredAuth(S3SigV4Auth):
    """Signs with the payload declaration it is given."""

    def __init__(self, declaration: str) -> None:
        super().__init__(Credentials(ACCESS_KEY, SECRET), "s3", REGION)
        self._declaration = declaration

    def payload(self, request: object) -> str:
        return self._declaration


@dataclass
class Wire:
    request: WireRequest
    body: bytes
    # -1: that of the body. None: no Content-Length at all.
    length: int | None = -1

    @classmethod
    def trailing(cls, url: str, body: bytes, *, signed: bool, checksum_of: bytes | None = None) -> Wire:
        """An aws-chunked upload with a CRC32 trailer."""
        declaration = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" if signed else "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
        headers = {
            "Content-Encoding": "aws-chunked",
            "X-Amz-Decoded-Content-Length": str(len(body)),
            "X-Amz-Trailer": "x-amz-checksum-crc32",
        }
        request = AWSRequest(method="PUT", url=url, data=b"", headers=headers)
        _DeclaredAuth(declaration).add_auth(request)
        wire = wire_of(request)
        return cls(wire, _frame(wire, body, signed=signed, checksum_of=body if checksum_of is None else checksum_of))

    def head(self) -> bytes:
        target = self.request.raw_path + (f"?{self.request.raw_query}" if self.request.raw_query else "")
        lines = [f"{self.request.method} {target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in self.request.headers if name != "content-length"]
        if self.length is not None:
            lines.append(f"content-length: {len(self.body) if self.length == -1 else self.length}")
        return "\r\n".join([*lines, "", ""]).encode()

    def send(self, port: int) -> tuple[int, bytes]:
        with socket.create_connection(("127.0.0.1", port), timeout=15) as sock:
            sock.sendall(self.head() + self.body)
            answer = http.client.HTTPResponse(sock, method=self.request.method)
            answer.begin()
            return answer.status, answer.read()


def _frame(wire: WireRequest, body: bytes, *, signed: bool, checksum_of: bytes) -> bytes:
    scope = peek_scope(wire)
    assert scope is not None
    key, timestamp = signing_key(scope), wire.header("x-amz-date") or ""
    previous = (wire.header("authorization") or "").rpartition("=")[2]
    framed = b""
    for chunk in [*(body[at : at + _CHUNK] for at in range(0, len(body), _CHUNK)), b""]:
        extension = ""
        if signed:
            text = chunk_string_to_sign(
                timestamp=timestamp, scope=str(scope), previous=previous, data_sha256=sha256(chunk)
            )
            previous = sign(key, text)
            extension = f";chunk-signature={previous}"
        framed += f"{len(chunk):x}{extension}\r\n".encode() + chunk + (b"\r\n" if chunk else b"")
    trailer = f"x-amz-checksum-crc32:{base64.b64encode(zlib.crc32(checksum_of).to_bytes(4, 'big')).decode()}"
    framed += f"{trailer}\r\n".encode()
    if signed:
        digest = sha256(f"{trailer}\n".encode())
        text = trailer_string_to_sign(timestamp=timestamp, scope=str(scope), previous=previous, trailer_sha256=digest)
        framed += f"x-amz-trailer-signature:{sign(key, text)}\r\n".encode()
    return framed + b"\r\n"


def raw_exchange(port: int, method: str, url: str, body: bytes | None = None) -> tuple[int, bytes]:
    """As a browser or curl would, with nothing signed but what is in the URL."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    connection.request(method, target, body=body, headers={"Host": parts.netloc})
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found
