"""Every action with every single mistake: refused in AWS's words, never a server's error, and nothing has changed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.service.clc.asking import PROTOCOL, WAYS, ask, right_request
from tests.service.clc.documented_codes import DOCUMENTED
from tests.service.clc.instance_requests import REFUSED
from tests.service.clc.mistakes import Mistake, mistakes
from tests.service.clc.snapshot_requests import WITHOUT_DRY_RUN
from tests.service.clc.stage import Stage


def fault(mistake: Mistake, status: int, code: str) -> str:
    """What is wrong with the answer, or nothing."""
    if status >= 500:
        return "a server's error"
    if status == 200:
        return "it was done"
    if mistake.certain and code == "DryRunOperation":
        return "it would have been done"
    if code not in DOCUMENTED:
        return "no code of EC2's"
    if mistake.codes and code not in mistake.codes:
        return f"not one of {sorted(mistake.codes)}"
    if mistake.pattern and not mistake.pattern.fullmatch(code):
        return f"not like {mistake.pattern.pattern}"
    return ""


@pytest.mark.parametrize(("action", "how"), sorted(WAYS))
async def test_every_mistake_is_refused_and_changes_nothing(stage: Stage, action: str, how: str) -> None:
    foreign = await right_request(stage.of_the_other(), action, how)
    right = await right_request(stage, action, how)
    dry = {"DryRun": "true"}
    if action not in REFUSED | WITHOUT_DRY_RUN:
        assert await ask(stage, action, right | dry) == (412, "DryRunOperation")
    before, found = effects(stage), []
    for mistake in mistakes(PROTOCOL.contract.operations[action], right, foreign):
        status, code = await ask(stage, action, dict(mistake.parameters) | ({} if mistake.certain else dry))
        if wrong := fault(mistake, status, code):
            found.append((mistake.what, status, code, wrong))
        if effects(stage) != before:
            found.append((mistake.what, status, code, "it has changed something"))
            before = effects(stage)
    assert not found, "\n".join(map(str, found))


def effects(stage: Stage) -> Any:
    return stage.cloud.store.revision, dict(stage.images.pins)


PERMISSION = {"IpPermissions.1.IpProtocol": "-1", "IpPermissions.1.IpRanges.1.CidrIp": "10.0.0.0/8"}
COMBINATION, VALUE = "InvalidParameterCombination", "InvalidParameterValue"


@pytest.mark.parametrize(
    ("action", "how", "more", "code"),
    [
        ("DescribeInstances", "by id", {"MaxResults": "5"}, COMBINATION),
        ("DescribeInstanceStatus", "by id", {"MaxResults": "5"}, COMBINATION),
        ("DescribeNetworkInterfaces", "by id", {"MaxResults": "5"}, COMBINATION),
        ("DescribeSecurityGroupRules", "by id", {"MaxResults": "5"}, COMBINATION),
        ("AssociateAddress", "by public address", {"AllocationId": "eipalloc-0123456789abcdef0"}, COMBINATION),
        ("AssociateAddress", "by public address", {"NetworkInterfaceId": "eni-0123456789abcdef0"}, COMBINATION),
        ("DisassociateAddress", "whole", {"PublicIp": "198.18.0.1"}, COMBINATION),
        ("ReleaseAddress", "whole", {"PublicIp": "198.18.0.1"}, COMBINATION),
        ("DeleteKeyPair", "whole", {"KeyPairId": "key-0123456789abcdef0"}, COMBINATION),
        ("DeleteSecurityGroup", "whole", {"GroupName": "web"}, COMBINATION),
        ("AuthorizeSecurityGroupIngress", "by ids", {"GroupName": "web"}, COMBINATION),
        ("AuthorizeSecurityGroupIngress", "whole", {"IpPermissions.1.FromPort": "23"}, VALUE),
        ("AuthorizeSecurityGroupIngress", "whole", {"IpPermissions.1.IpRanges.1.CidrIp": "::/0"}, VALUE),
        ("AuthorizeSecurityGroupIngress", "of a group", {"CidrIp": "10.0.0.0/8"}, COMBINATION),
        ("RevokeSecurityGroupIngress", "of a group", {"IpProtocol": "tcp"}, COMBINATION),
        ("RevokeSecurityGroupIngress", "by ids", PERMISSION, COMBINATION),
        ("UpdateSecurityGroupRuleDescriptionsIngress", "by ids", PERMISSION, COMBINATION),
        (
            "ModifySecurityGroupRules",
            "whole",
            {"SecurityGroupRule.1.SecurityGroupRule.CidrIpv6": "::/0"},
            COMBINATION,
        ),
        ("ModifyImageAttribute", "as a structure", {"Description.Value": "x"}, COMBINATION),
        ("ModifyInstanceAttribute", "groups", {"DisableApiTermination.Value": "true"}, COMBINATION),
        ("ModifyNetworkInterfaceAttribute", "groups", {"Description.Value": "web"}, COMBINATION),
        ("RunInstances", "on an interface", {"SubnetId": "subnet-0123456789abcdef0"}, COMBINATION),
        ("RunInstances", "on an interface", {"SecurityGroup.1": "web"}, COMBINATION),
        ("RunInstances", "on an interface", {"PrivateIpAddress": "172.31.5.5"}, COMBINATION),
        ("RunInstances", "whole", {"MinCount": "2"}, VALUE),
        ("RunInstances", "whole", {"MinCount": "2", "MaxCount": "2"}, COMBINATION),
        ("RunInstances", "whole", {"InstanceInitiatedShutdownBehavior": "stop"}, COMBINATION),
    ],
)
async def test_what_contradicts_itself_is_refused(
    stage: Stage, action: str, how: str, more: dict[str, str], code: str
) -> None:
    right = await right_request(stage, action, how)
    before = effects(stage)
    assert await ask(stage, action, right | more) == (400, code)
    assert effects(stage) == before
