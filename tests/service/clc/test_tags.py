"""Everything that an account has carries tags, and is found by them."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from tests.service.clc.asking import answer, ask, right_request
from tests.service.clc.stage import Stage

# What the tags of "CreateTags on everything" are on, and the action that shows it.
SHOWN_BY = {
    "i": "DescribeInstances",
    "eni": "DescribeNetworkInterfaces",
    "ami": "DescribeImages",
    "vpc": "DescribeVpcs",
    "subnet": "DescribeSubnets",
    "key": "DescribeKeyPairs",
    "sg": "DescribeSecurityGroups",
    "sgr": "DescribeSecurityGroupRules",
    "eipalloc": "DescribeAddresses",
    "rtb": "DescribeRouteTables",
    "igw": "DescribeInternetGateways",
    "acl": "DescribeNetworkAcls",
    "dopt": "DescribeDhcpOptions",
    "snap": "DescribeSnapshots",
    "import-snap": "DescribeImportSnapshotTasks",
    "import-ami": "DescribeImportImageTasks",
    "export-ami": "DescribeExportImageTasks",
}
TYPES = {
    "i": "instance",
    "eni": "network-interface",
    "ami": "image",
    "vpc": "vpc",
    "subnet": "subnet",
    "key": "key-pair",
    "sg": "security-group",
    "sgr": "security-group-rule",
    "eipalloc": "elastic-ip",
    "rtb": "route-table",
    "igw": "internet-gateway",
    "acl": "network-acl",
    "dopt": "dhcp-options",
    "snap": "snapshot",
    "import-snap": "import-snapshot-task",
    "import-ami": "import-image-task",
    "export-ami": "export-image-task",
}


async def shown(stage: Stage, action: str, parameters: dict[str, str]) -> str:
    response = await answer(stage, action, parameters)
    assert response.status == 200, response.body
    return response.body.decode()


async def test_whatever_is_tagged_is_found_by_its_tags(stage: Stage) -> None:
    everything = await right_request(stage, "CreateTags", "on everything")
    assert await ask(stage, "CreateTags", everything) == (200, "")
    ids = {value.rpartition("-")[0]: value for name, value in everything.items() if name.startswith("ResourceId.")}
    assert ids.keys() == SHOWN_BY.keys()
    for prefix, action in SHOWN_BY.items():
        for name, value, found in (
            ("tag:a", "b", True),
            ("tag:a", "B", False),
            ("tag:A", "b", False),
            ("tag-key", "a", True),
            ("tag-key", "b", False),
        ):
            member = "Filters" if action.startswith("DescribeImport") else "Filter"
            body = await shown(stage, action, {f"{member}.1.Name": name, f"{member}.1.Value.1": value})
            assert (ids[prefix] in body) is found, (action, name, value)
            assert ("<key>a</key><value>b</value>" in body) is found, (action, name, value)
    listed = ElementTree.fromstring(re.sub(' xmlns="[^"]*"', "", await shown(stage, "DescribeTags", {})))
    tags = {item.findtext("resourceId"): item.findtext("resourceType") for item in listed.iter("item")}
    assert {ids[prefix]: kind for prefix, kind in TYPES.items()}.items() <= tags.items()
    off = {name: value for name, value in everything.items() if not name.endswith(".Value")}
    assert await ask(stage, "DeleteTags", off) == (200, "")
    assert "<item>" not in await shown(stage, "DescribeTags", {"Filter.1.Name": "key", "Filter.1.Value.1": "a"})


@pytest.mark.parametrize(
    ("action", "how", "kinds"),
    [
        ("AllocateAddress", "whole", ["elastic-ip"]),
        ("AuthorizeSecurityGroupEgress", "whole", ["security-group-rule"]),
        ("AuthorizeSecurityGroupIngress", "whole", ["security-group-rule"]),
        ("CreateKeyPair", "whole", ["key-pair"]),
        ("CreateSecurityGroup", "whole", ["security-group"]),
        ("ImportKeyPair", "whole", ["key-pair"]),
        ("RegisterImage", "whole", ["image"]),
        ("RunInstances", "on an interface", ["instance", "network-interface"]),
    ],
)
async def test_tags_given_at_birth_are_checked_and_kept(stage: Stage, action: str, how: str, kinds: list[str]) -> None:
    right = await right_request(stage, action, how)
    bare = {name: value for name, value in right.items() if not name.startswith("TagSpecification.")}

    def specified(**tags: str) -> dict[str, str]:
        found = dict(bare)
        for number, kind in enumerate(kinds, 1):
            found[f"TagSpecification.{number}.ResourceType"] = kind
            for index, (key, value) in enumerate(tags.items(), 1):
                found[f"TagSpecification.{number}.Tag.{index}.Key"] = key
                found[f"TagSpecification.{number}.Tag.{index}.Value"] = value
        return found

    before = stage.cloud.store.revision
    wrong: list[tuple[dict[str, str], str]] = [
        (specified(), "InvalidParameterValue"),
        (specified(**{"aws:name": "x"}), "InvalidParameterValue"),
        (specified(**{"AWS:name": "x"}), "InvalidParameterValue"),
        (specified(**{"k" * 129: "x"}), "InvalidParameterValue"),
        (specified(**{"": "x"}), "InvalidParameterValue"),
        (specified(key="v" * 257), "InvalidParameterValue"),
        (specified(**{f"k{number}": "" for number in range(51)}), "TagLimitExceeded"),
        (specified(a="1") | {"TagSpecification.1.ResourceType": "vpc"}, "InvalidParameterValue"),
        (specified(a="1", b="2") | {"TagSpecification.1.Tag.2.Key": "a"}, "InvalidParameterValue"),
    ]
    for request, code in wrong:
        assert await ask(stage, action, request) == (400, code), request
    assert stage.cloud.store.revision == before
    assert await ask(stage, action, specified(größe="<&>")) == (200, "")
    body = await shown(stage, "DescribeTags", {"Filter.1.Name": "key", "Filter.1.Value.1": "größe"})
    assert set(re.findall("<resourceType>([^<]*)<", body)) == set(kinds)
    assert "<value>&lt;&amp;&gt;</value>" in body
