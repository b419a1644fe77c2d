"""What both forms of Signature Version 2 share: whose key it is, and whether the signature is that key's."""

from __future__ import annotations

import base64
import binascii
import hmac
from dataclasses import dataclass
from typing import Protocol

from common.errors import NotFound
from ec2_facade.auth.problem import AuthProblem, Reason
from ec2_facade.wire import WireRequest
from mallee.common.v1 import caller_pb2


class SecretHolder(Protocol):
    async def sign_v2(
        self, access_key_id: str, string_to_sign: str, *, hash_name: str
    ) -> tuple[bytes, caller_pb2.Caller]:
        """The right signature, and for whom. Raises NotFound for a key that does not exist."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    access_key_id: str
    # In base64, as the request gives it.
    signature: str
    string_to_sign: str
    hash_name: str
    # What some clients sign instead.
    otherwise: str | None = None


async def prove(secrets: SecretHolder, claim: Claim, request: WireRequest) -> caller_pb2.Caller:
    """Raises AuthProblem, or Unavailable when the CLC does not answer."""
    key = claim.access_key_id
    try:
        right, key_caller = await secrets.sign_v2(key, claim.string_to_sign, hash_name=claim.hash_name)
    except NotFound:
        raise AuthProblem(Reason.UNKNOWN_KEY, access_key=key) from None
    given = _decode(claim.signature)
    proved = hmac.compare_digest(right, given)
    if not proved and claim.otherwise is not None:
        right, _ = await secrets.sign_v2(key, claim.otherwise, hash_name=claim.hash_name)
        proved = hmac.compare_digest(right, given)
    if not proved:
        raise AuthProblem(
            Reason.WRONG_SIGNATURE,
            access_key=key,
            string_to_sign=claim.string_to_sign,
            signature=claim.signature[:256],
        )
    caller = caller_pb2.Caller()
    caller.CopyFrom(key_caller)
    caller.source_ip = request.source_ip
    return caller


def _decode(signature: str) -> bytes:
    try:
        return base64.b64decode(signature, validate=True)
    except (binascii.Error, ValueError):
        return b""
