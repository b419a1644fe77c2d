"""EC2's actions asked as clients ask them: Query parameters in, status and XML out, without HTTP between."""

from __future__ import annotations

from typing import Final
from xml.etree import ElementTree

from common.errors import CloudError
from ec2_facade.protocol import QueryProtocol, Response
from tests.service.clc.making import Make, boot
from tests.service.clc.mistakes import Parameters, parameters_of
from tests.service.clc.named_requests import NAMED
from tests.service.clc.stage import Stage
from tests.service.clc.test_every_member_is_read import REQUESTS

PROTOCOL: Final = QueryProtocol("ec2")
# (action, how it is asked) → its request.
WAYS: Final[dict[tuple[str, str], Make]] = {(action, "whole"): make for action, make in REQUESTS.items()} | NAMED


async def answer(stage: Stage, action: str, parameters: Parameters) -> Response:
    """Through the facade's protocol and the use case."""
    try:
        operation, message = PROTOCOL.parse({"Action": action, "Version": "2016-11-15"} | dict(parameters))
        answered = await stage.run(action, type(message).FromString(message.SerializeToString()))
        return PROTOCOL.render(operation, answered, "r-1")
    except CloudError as error:
        return PROTOCOL.render_error(error, "r-1")


async def ask(stage: Stage, action: str, parameters: Parameters) -> tuple[int, str]:
    """(status, error code or nothing)"""
    response = await answer(stage, action, parameters)
    return response.status, ElementTree.fromstring(response.body).findtext("./Errors/Error/Code", "")


async def right_request(stage: Stage, action: str, how: str) -> dict[str, str]:
    """What it names is made."""
    request = await WAYS[action, how](stage)
    if action == "RebootInstances":
        await boot(stage, request.instance_ids[0])
    return parameters_of(PROTOCOL.contract.operations[action], request)
