"""STS: who the caller is."""

from __future__ import annotations

from mallee.sts.v1 import caller_pb2 as sts
from services.clc.use_case import Call, Cloud, use_case


@use_case("sts.GetCallerIdentity")
async def get_caller_identity(
    cloud: Cloud, call: Call, request: sts.GetCallerIdentityRequest
) -> sts.GetCallerIdentityResponse:
    return sts.GetCallerIdentityResponse(
        user_id=call.caller.user_id, account=call.caller.account_id, arn=call.caller.arn
    )
