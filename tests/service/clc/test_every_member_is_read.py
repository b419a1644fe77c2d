"""No input member that is set stays unread: what a use case does not honour, the contract must not take."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from common.errors import Unsupported
from mallee.ec2.v1 import (
    image_pb2,
    instance_pb2,
    instance_type_pb2,
    key_pair_pb2,
    region_pb2,
    subnet_pb2,
    tag_pb2,
)
from services.clc.service import CONTRACTS
from services.clc.use_case import DryRun
from tests.recording import recording, unread
from tests.service.clc.address_requests import ADDRESSES
from tests.service.clc.bundle_requests import BUNDLES
from tests.service.clc.instance_requests import INSTANCES, REFUSED
from tests.service.clc.making import Make, boot, constantly, group, image, of, reads, running, tagged
from tests.service.clc.named_requests import NAMED
from tests.service.clc.security_group_requests import SECURITY_GROUPS
from tests.service.clc.snapshot_requests import SNAPSHOTS, WITHOUT_DRY_RUN
from tests.service.clc.stage import Stage
from tests.service.clc.volume_requests import VOLUMES
from tests.service.clc.vpc_requests import PLACES


async def run_instances(stage: Stage) -> Any:
    await stage.run("CreateKeyPair", key_pair_pb2.CreateKeyPairRequest(key_name="k", key_type="ed25519"))
    subnets = (await stage.run("DescribeSubnets", subnet_pb2.DescribeSubnetsRequest())).subnets
    return instance_pb2.RunInstancesRequest(
        image_id=await image(stage),
        kernel_id=await image(stage, "kernel"),
        ramdisk_id=await image(stage, "ramdisk"),
        instance_type="t2.micro",
        min_count=1,
        max_count=1,
        key_name="k",
        monitoring=instance_pb2.RunInstancesMonitoringEnabled(enabled=True),
        placement=instance_pb2.Placement(
            availability_zone=subnets[0].availability_zone,
            availability_zone_id=subnets[0].availability_zone_id,
            tenancy="default",
            host_id=f"nc-{subnets[0].availability_zone}-1",
        ),
        credit_specification=instance_pb2.CreditSpecificationRequest(cpu_credits="unlimited"),
        cpu_options=instance_pb2.CpuOptionsRequest(core_count=1, threads_per_core=1),
        security_group_ids=[await group(stage)],
        subnet_id=subnets[0].subnet_id,
        user_data=base64.b64encode(b"#!/bin/sh").decode(),
        tag_specifications=tagged("instance"),
        metadata_options=instance_pb2.InstanceMetadataOptionsRequest(
            http_tokens="required",
            http_put_response_hop_limit=2,
            http_endpoint="enabled",
            http_protocol_ipv6="disabled",
            instance_metadata_tags="enabled",
        ),
        disable_api_termination=True,
        instance_initiated_shutdown_behavior="terminate",
        private_ip_address=subnets[0].cidr_block.replace(".0/20", ".77"),
        client_token="token",
        ebs_optimized=False,
    )


async def run_on_an_interface(stage: Stage) -> Any:
    subnets = (await stage.run("DescribeSubnets", subnet_pb2.DescribeSubnetsRequest())).subnets
    return instance_pb2.RunInstancesRequest(
        image_id=await image(stage),
        min_count=1,
        max_count=1,
        network_interfaces=[
            instance_pb2.InstanceNetworkInterfaceSpecification(
                associate_public_ip_address=False,
                delete_on_termination=True,
                description="primary",
                device_index=0,
                groups=[await group(stage)],
                private_ip_addresses=[
                    instance_pb2.PrivateIpAddressSpecification(
                        primary=True, private_ip_address=subnets[0].cidr_block.replace(".0/20", ".78")
                    )
                ],
                subnet_id=subnets[0].subnet_id,
                interface_type="interface",
                network_card_index=0,
            )
        ],
    )


async def register(stage: Stage) -> Any:
    return image_pb2.RegisterImageRequest(
        image_location="bucket/machine",
        boot_mode="legacy-bios",
        tag_specifications=tagged("image"),
        name="named",
        description="described",
        architecture="x86_64",
        kernel_id=await image(stage, "kernel"),
        ramdisk_id=await image(stage, "ramdisk"),
        root_device_name="/dev/sda1",
        virtualization_type="hvm",
        sriov_net_support="simple",
        ena_support=True,
    )


REQUESTS: dict[str, Make] = (
    SECURITY_GROUPS
    | PLACES
    | INSTANCES
    | ADDRESSES
    | VOLUMES
    | SNAPSHOTS
    | BUNDLES
    | {
        "DescribeRegions": reads(
            region_pb2.DescribeRegionsRequest(region_names=["us-east-1"], all_regions=True), region_name="us-east-1"
        ),
        "DescribeAvailabilityZones": reads(
            region_pb2.DescribeAvailabilityZonesRequest(
                zone_names=["us-east-1a"], zone_ids=["use1-az1"], all_availability_zones=True
            ),
            state="available",
        ),
        "DescribeInstanceTypes": reads(
            instance_type_pb2.DescribeInstanceTypesRequest(instance_types=["t2.micro"]), hypervisor="nitro"
        ),
        "CreateKeyPair": constantly(
            key_pair_pb2.CreateKeyPairRequest(
                key_name="k", key_type="ed25519", key_format="pem", tag_specifications=tagged("key-pair")
            )
        ),
        "ImportKeyPair": constantly(
            key_pair_pb2.ImportKeyPairRequest(
                key_name="k",
                tag_specifications=tagged("key-pair"),
                public_key_material=b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0b2Gp0bXl1zGz0b2Gp0bXl1zGz0b2Gp0bXl1zGz0b2",
            )
        ),
        "DescribeKeyPairs": reads(key_pair_pb2.DescribeKeyPairsRequest(include_public_key=True), key_name="*"),
        "DeleteKeyPair": constantly(key_pair_pb2.DeleteKeyPairRequest(key_name="k")),
        "RegisterImage": register,
        "DeregisterImage": of(image, image_pb2.DeregisterImageRequest(), "image_id"),
        "DescribeImages": reads(
            image_pb2.DescribeImagesRequest(
                executable_users=["self"], owners=["self"], include_deprecated=True, include_disabled=True
            ),
            is_public="false",
        ),
        "ModifyImageAttribute": of(
            image,
            image_pb2.ModifyImageAttributeRequest(
                attribute="launchPermission", operation_type="add", user_groups=["all"], user_ids=["123456789012"]
            ),
            "image_id",
        ),
        "RunInstances": run_instances,
        "DescribeInstances": reads(instance_pb2.DescribeInstancesRequest(), instance_state_name="*"),
        "RebootInstances": of(running, instance_pb2.RebootInstancesRequest(), "instance_ids"),
        "TerminateInstances": of(running, instance_pb2.TerminateInstancesRequest(), "instance_ids"),
        "GetConsoleOutput": of(running, instance_pb2.GetConsoleOutputRequest(latest=True), "instance_id"),
        "CreateTags": of(group, tag_pb2.CreateTagsRequest(tags=[tag_pb2.Tag(key="a", value="b")]), "resources"),
        "DeleteTags": of(group, tag_pb2.DeleteTagsRequest(tags=[tag_pb2.Tag(key="a", value="b")]), "resources"),
        "DescribeTags": reads(tag_pb2.DescribeTagsRequest(), key="*"),
    }
)


def test_every_action_is_here() -> None:
    assert set(REQUESTS) == {method.name for method in CONTRACTS["ec2"].methods}


@pytest.mark.parametrize(("action", "how"), sorted({(action, "whole") for action in REQUESTS} | NAMED.keys()))
async def test_no_member_that_is_set_stays_unread(stage: Stage, action: str, how: str) -> None:
    request = await (REQUESTS[action] if how == "whole" else NAMED[action, how])(stage)
    if action == "RebootInstances":
        await boot(stage, request.instance_ids[0])
    watched = recording(request)
    if action in REFUSED:
        with pytest.raises(Unsupported):
            await stage.run(action, watched)
    else:
        await stage.run(action, watched)
    assert unread(watched) == []


@pytest.mark.parametrize("action", sorted(set(REQUESTS) - REFUSED - WITHOUT_DRY_RUN))
async def test_a_dry_run_ends_as_one_and_changes_nothing(stage: Stage, action: str) -> None:
    request = await REQUESTS[action](stage)
    if action == "RebootInstances":
        await boot(stage, request.instance_ids[0])
    request.dry_run = True
    before = stage.cloud.store.revision
    with pytest.raises(DryRun):
        await stage.run(action, request)
    assert stage.cloud.store.revision == before


async def test_no_member_of_a_network_interface_stays_unread(stage: Stage) -> None:
    watched = recording(await run_on_an_interface(stage))
    reservation = await stage.run("RunInstances", watched)
    assert unread(watched) == []
    (shown,) = reservation.instances[0].network_interfaces
    assert shown.description == "primary"
    assert shown.private_ip_address.endswith(".78")
    assert not shown.HasField("association")
