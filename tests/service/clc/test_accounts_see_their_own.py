"""Nobody sees or touches another account's resources, shared and public images apart."""

from __future__ import annotations

import re
from typing import Any

import pytest

from common.errors import CloudError
from mallee.ec2.v1 import image_pb2, instance_pb2, key_pair_pb2, security_group_pb2, subnet_pb2, tag_pb2, vpc_pb2
from tests.service.clc.asking import PROTOCOL, answer, ask, right_request
from tests.service.clc.stage import Stage

ALICE, BOB = 0, 1


async def alices(stage: Stage) -> dict[str, str]:
    image = await stage.run(
        "RegisterImage", image_pb2.RegisterImageRequest(name="machine", image_location="bucket/machine")
    )
    group = await stage.run(
        "CreateSecurityGroup", security_group_pb2.CreateSecurityGroupRequest(group_name="g", description="d")
    )
    key = await stage.run("CreateKeyPair", key_pair_pb2.CreateKeyPairRequest(key_name="k", key_type="ed25519"))
    subnets = await stage.run("DescribeSubnets", subnet_pb2.DescribeSubnetsRequest())
    launch = instance_pb2.RunInstancesRequest(image_id=image.image_id, min_count=1, max_count=1)
    reservation = await stage.run("RunInstances", launch)
    return {
        "image": image.image_id,
        "group": group.group_id,
        "key": key.key_pair_id,
        "subnet": subnets.subnets[0].subnet_id,
        "vpc": subnets.subnets[0].vpc_id,
        "instance": reservation.instances[0].instance_id,
    }


async def test_naming_anothers_resource_is_as_if_it_were_not_there(stage: Stage) -> None:
    own = await alices(stage)
    mine = await stage.run(
        "RegisterImage", image_pb2.RegisterImageRequest(name="machine", image_location="bucket/machine"), caller=BOB
    )
    tag = tag_pb2.Tag(key="a", value="b")
    attempts: list[tuple[str, Any, str]] = [
        ("DescribeInstances", instance_pb2.DescribeInstancesRequest(instance_ids=[own["instance"]]),
         "InvalidInstanceID.NotFound"),
        ("TerminateInstances", instance_pb2.TerminateInstancesRequest(instance_ids=[own["instance"]]),
         "InvalidInstanceID.NotFound"),
        ("GetConsoleOutput", instance_pb2.GetConsoleOutputRequest(instance_id=own["instance"]),
         "InvalidInstanceID.NotFound"),
        ("GetConsoleScreenshot", instance_pb2.GetConsoleScreenshotRequest(instance_id=own["instance"]),
         "InvalidInstanceID.NotFound"),
        ("GetPasswordData", instance_pb2.GetPasswordDataRequest(instance_id=own["instance"]),
         "InvalidInstanceID.NotFound"),
        ("DescribeImages", image_pb2.DescribeImagesRequest(image_ids=[own["image"]]), "InvalidAMIID.NotFound"),
        ("DeregisterImage", image_pb2.DeregisterImageRequest(image_id=own["image"]), "InvalidAMIID.NotFound"),
        ("RunInstances", instance_pb2.RunInstancesRequest(image_id=own["image"], min_count=1, max_count=1),
         "InvalidAMIID.NotFound"),
        ("RunInstances", instance_pb2.RunInstancesRequest(
            image_id=mine.image_id, min_count=1, max_count=1, key_name="k"), "InvalidKeyPair.NotFound"),
        ("RunInstances", instance_pb2.RunInstancesRequest(
            image_id=mine.image_id, min_count=1, max_count=1, security_group_ids=[own["group"]]),
         "InvalidGroup.NotFound"),
        ("RunInstances", instance_pb2.RunInstancesRequest(
            image_id=mine.image_id, min_count=1, max_count=1, subnet_id=own["subnet"]), "InvalidSubnetID.NotFound"),
        ("DescribeSecurityGroups", security_group_pb2.DescribeSecurityGroupsRequest(group_ids=[own["group"]]),
         "InvalidGroup.NotFound"),
        ("DeleteSecurityGroup", security_group_pb2.DeleteSecurityGroupRequest(group_id=own["group"]),
         "InvalidGroup.NotFound"),
        ("DescribeKeyPairs", key_pair_pb2.DescribeKeyPairsRequest(key_names=["k"]), "InvalidKeyPair.NotFound"),
        ("DescribeVpcs", vpc_pb2.DescribeVpcsRequest(vpc_ids=[own["vpc"]]), "InvalidVpcID.NotFound"),
        ("CreateTags", tag_pb2.CreateTagsRequest(resources=[own["vpc"]], tags=[tag]), "InvalidVpcID.NotFound"),
    ]  # fmt: skip
    for action, request, code in attempts:
        with pytest.raises(CloudError) as caught:
            await stage.run(action, request, caller=BOB)
        assert (action, caught.value.code) == (action, code)


async def test_listings_show_only_ones_own(stage: Stage) -> None:
    await alices(stage)
    for action, request, field in (
        ("DescribeInstances", instance_pb2.DescribeInstancesRequest(), "reservations"),
        ("DescribeImages", image_pb2.DescribeImagesRequest(), "images"),
        ("DescribeKeyPairs", key_pair_pb2.DescribeKeyPairsRequest(), "key_pairs"),
    ):
        assert len(getattr(await stage.run(action, request), field)) == 1
        assert len(getattr(await stage.run(action, request, caller=BOB), field)) == 0
    groups = await stage.run("DescribeSecurityGroups", security_group_pb2.DescribeSecurityGroupsRequest(), caller=BOB)
    assert [g.group_name for g in groups.security_groups] == ["default"]


async def test_no_read_tells_of_anothers(stage: Stage) -> None:
    """Whatever looks like an id in what Alice sees is nowhere in what Bob sees."""
    everything = await right_request(stage, "CreateTags", "on everything")
    await ask(stage, "CreateTags", everything)
    reads = [action for action in PROTOCOL.contract.operations if action.startswith("Describe")]
    seen: dict[int, set[str]] = {ALICE: set(), BOB: set()}
    for who, as_one in ((ALICE, stage), (BOB, stage.of_the_other())):
        for action in reads:
            body = (await answer(as_one, action, {})).body.decode()
            seen[who] |= set(re.findall(r"\b(?:[a-z]+-)+[0-9a-f]{17}\b|\b[0-9]{12}\b|198\.[0-9.]+", body))
    assert {value for name, value in everything.items() if name.startswith("ResourceId.")} <= seen[ALICE]
    assert stage.callers[BOB].account_id in seen[BOB]
    assert seen[ALICE] & seen[BOB] == set()


@pytest.mark.parametrize("everybody", [True, False])
async def test_a_shared_image_is_run_by_those_it_is_shared_with(stage: Stage, everybody: bool) -> None:
    own = await alices(stage)
    grant = image_pb2.LaunchPermission(group="all") if everybody else None
    grant = grant or image_pb2.LaunchPermission(user_id=stage.callers[BOB].account_id)
    for change, works in (("add", True), ("remove", False)):
        permission = image_pb2.LaunchPermissionModifications(**{change: [grant]})
        request = image_pb2.ModifyImageAttributeRequest(image_id=own["image"], launch_permission=permission)
        await stage.run("ModifyImageAttribute", request)
        launch = instance_pb2.RunInstancesRequest(image_id=own["image"], min_count=1, max_count=1)
        if works:
            tag = tag_pb2.CreateTagsRequest(resources=[own["image"]], tags=[tag_pb2.Tag(key="secret", value="x")])
            await stage.run("CreateTags", tag)
            for action, meddling, code in (
                ("DeregisterImage", image_pb2.DeregisterImageRequest(image_id=own["image"]), "AuthFailure"),
                ("ModifyImageAttribute", request, "AuthFailure"),
                ("CreateTags", tag, "InvalidAMIID.NotFound"),
            ):
                with pytest.raises(CloudError) as caught:
                    await stage.run(action, meddling, caller=BOB)
                assert (action, caught.value.code) == (action, code)
            assert (await stage.run("RunInstances", launch, caller=BOB)).instances
            seen = await stage.run(
                "DescribeImages", image_pb2.DescribeImagesRequest(executable_users=["all" if everybody else "self"]),
                caller=BOB,
            )  # fmt: skip
            assert [(i.image_id, list(i.tags)) for i in seen.images] == [(own["image"], [])]
        else:
            with pytest.raises(CloudError):
                await stage.run("RunInstances", launch, caller=BOB)
