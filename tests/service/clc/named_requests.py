"""The other ways of asking: resources by their ids, lists in place of single values. Each is right as it stands."""

from __future__ import annotations

from typing import Any, Final

from mallee.ec2.v1 import (
    address_pb2,
    dhcp_options_pb2,
    image_pb2,
    instance_pb2,
    internet_gateway_pb2,
    key_pair_pb2,
    network_acl_pb2,
    network_interface_pb2,
    route_table_pb2,
    security_group_pb2,
    subnet_pb2,
    tag_pb2,
    vpc_pb2,
)
from services.clc.vpc.parts import twin_id
from tests.service.clc.address_requests import address, booted
from tests.service.clc.bundle_requests import BUNDLES_NAMED
from tests.service.clc.making import Make, group, image, interface, of, running, tagged, vpc
from tests.service.clc.security_group_requests import authorize, permission
from tests.service.clc.snapshot_requests import (
    SNAPSHOTS_NAMED,
    export_task,
    import_image_task,
    import_snapshot_task,
    snapshot,
)
from tests.service.clc.stage import Stage
from tests.service.clc.volume_requests import NAMED_VOLUMES


async def key(stage: Stage) -> str:
    request = key_pair_pb2.CreateKeyPairRequest(key_name="named", key_type="ed25519")
    return str((await stage.run("CreateKeyPair", request)).key_pair_id)


async def subnet(stage: Stage) -> str:
    return str((await stage.run("DescribeSubnets", subnet_pb2.DescribeSubnetsRequest())).subnets[0].subnet_id)


async def rule(stage: Stage) -> str:
    made = await stage.run("AuthorizeSecurityGroupIngress", await authorize(stage))
    return str(made.security_group_rules[0].security_group_rule_id)


def part(prefix: str) -> Any:
    async def make(stage: Stage) -> str:
        return twin_id(prefix, await vpc(stage))

    return make


async def options(stage: Stage) -> str:
    shown = await stage.run("DescribeVpcs", vpc_pb2.DescribeVpcsRequest())
    return str(shown.vpcs[0].dhcp_options_id)


async def public(stage: Stage) -> str:
    return str((await stage.run("AllocateAddress", address_pb2.AllocateAddressRequest())).public_ip)


async def associate(stage: Stage) -> Any:
    return address_pb2.AssociateAddressRequest(public_ip=await public(stage), instance_id=await booted(stage))


async def associated(stage: Stage) -> str:
    request = await associate(stage)
    await stage.run("AssociateAddress", request)
    return str(request.public_ip)


async def authorize_by_ids(stage: Stage) -> Any:
    own = await group(stage)
    allowed = permission()
    allowed.user_id_group_pairs.add(group_id=own, vpc_id=await vpc(stage), description="each other")
    return security_group_pb2.AuthorizeSecurityGroupIngressRequest(group_id=own, ip_permissions=[allowed])


async def authorize_a_group(stage: Stage) -> Any:
    await group(stage)
    return security_group_pb2.AuthorizeSecurityGroupIngressRequest(
        group_name="web",
        source_security_group_name="default",
        source_security_group_owner_id=stage.callers[0].account_id,
    )


async def revoke_a_group(stage: Stage) -> Any:
    given = await authorize_a_group(stage)
    await stage.run("AuthorizeSecurityGroupIngress", given)
    return security_group_pb2.RevokeSecurityGroupIngressRequest(
        group_name="web",
        source_security_group_name="default",
        source_security_group_owner_id=stage.callers[0].account_id,
    )


async def revoke_by_ids(stage: Stage) -> Any:
    made = await stage.run("AuthorizeSecurityGroupIngress", await authorize(stage))
    rules = made.security_group_rules
    return security_group_pb2.RevokeSecurityGroupIngressRequest(
        group_id=rules[0].group_id, security_group_rule_ids=[rule.security_group_rule_id for rule in rules]
    )


async def describe_rules(stage: Stage) -> Any:
    made = await stage.run("AuthorizeSecurityGroupIngress", await authorize(stage))
    described = security_group_pb2.SecurityGroupRuleDescription(
        security_group_rule_id=made.security_group_rules[0].security_group_rule_id, description="changed"
    )
    return security_group_pb2.UpdateSecurityGroupRuleDescriptionsIngressRequest(
        group_id=made.security_group_rules[0].group_id, security_group_rule_descriptions=[described]
    )


async def run_on_an_interface(stage: Stage) -> Any:
    subnets = (await stage.run("DescribeSubnets", subnet_pb2.DescribeSubnetsRequest())).subnets
    return instance_pb2.RunInstancesRequest(
        image_id=await image(stage),
        min_count=1,
        max_count=1,
        tag_specifications=[*tagged("instance"), *tagged("network-interface")],
        network_interfaces=[
            instance_pb2.InstanceNetworkInterfaceSpecification(
                associate_public_ip_address=True,
                device_index=0,
                groups=[await group(stage)],
                private_ip_address=subnets[0].cidr_block.replace(".0/20", ".99"),
                subnet_id=subnets[0].subnet_id,
            )
        ],
    )


async def run_in_named_groups(stage: Stage) -> Any:
    await group(stage)
    return instance_pb2.RunInstancesRequest(
        image_id=await image(stage), min_count=1, max_count=1, security_groups=["web"]
    )


async def everything_tagged(stage: Stage) -> Any:
    instance = await running(stage)
    ids = [instance, stage.instance(instance).interface.interface_id, stage.instance(instance).image_id]
    ids += [await vpc(stage), await subnet(stage), await key(stage), await rule(stage), await address(stage)]
    groups = await stage.run("DescribeSecurityGroups", security_group_pb2.DescribeSecurityGroupsRequest())
    ids.append(groups.security_groups[-1].group_id)
    ids += [await part(prefix)(stage) for prefix in ("rtb", "igw", "acl")] + [await options(stage)]
    ids += [await make(stage) for make in (snapshot, import_snapshot_task, import_image_task, export_task)]
    return tag_pb2.CreateTagsRequest(resources=ids, tags=[tag_pb2.Tag(key="a", value="b")])


async def untagged(stage: Stage) -> Any:
    given = await everything_tagged(stage)
    return tag_pb2.DeleteTagsRequest(resources=given.resources, tags=given.tags)


async def other_groups(stage: Stage) -> Any:
    groups = [await group(stage)]
    return instance_pb2.ModifyInstanceAttributeRequest(instance_id=await running(stage), groups=groups)


def of_an_interface(**given: Any) -> Any:
    request = network_interface_pb2.ModifyNetworkInterfaceAttributeRequest(**given)
    return of(interface, request, "network_interface_id")


async def interfaces_groups(stage: Stage) -> Any:
    return await of_an_interface(groups=[await group(stage)])(stage)


async def its_attachment(stage: Stage) -> Any:
    record = stage.instance(await running(stage))
    return network_interface_pb2.ModifyNetworkInterfaceAttributeRequest(
        network_interface_id=record.interface.interface_id,
        attachment=network_interface_pb2.NetworkInterfaceAttachmentChanges(
            attachment_id=record.attachment_id, delete_on_termination=True
        ),
    )


async def shared(stage: Stage) -> Any:
    add = [image_pb2.LaunchPermission(user_id="123456789012")]
    changes = image_pb2.LaunchPermissionModifications(add=add)
    return image_pb2.ModifyImageAttributeRequest(image_id=await image(stage), launch_permission=changes)


async def described(stage: Stage) -> Any:
    description = image_pb2.AttributeValue(value="changed")
    return image_pb2.ModifyImageAttributeRequest(image_id=await image(stage), description=description)


async def group_of_a_vpc(stage: Stage) -> Any:
    return security_group_pb2.CreateSecurityGroupRequest(group_name="g", description="d", vpc_id=await vpc(stage))


# (action, how it is asked) → its request.
NAMED: Final[dict[tuple[str, str], Make]] = (
    SNAPSHOTS_NAMED
    | NAMED_VOLUMES
    | BUNDLES_NAMED
    | {
        ("AssociateAddress", "by public address"): associate,
        ("AuthorizeSecurityGroupIngress", "by ids"): authorize_by_ids,
        ("AuthorizeSecurityGroupIngress", "of a group"): authorize_a_group,
        ("CreateSecurityGroup", "in a VPC"): group_of_a_vpc,
        ("CreateTags", "on everything"): everything_tagged,
        ("DeleteTags", "of everything"): untagged,
        ("DescribeAddresses", "by id"): of(address, address_pb2.DescribeAddressesRequest(), "allocation_ids"),
        ("DescribeAddresses", "by address"): of(public, address_pb2.DescribeAddressesRequest(), "public_ips"),
        ("DescribeDhcpOptions", "by id"): of(
            options, dhcp_options_pb2.DescribeDhcpOptionsRequest(), "dhcp_options_ids"
        ),
        ("DescribeImages", "by id"): of(image, image_pb2.DescribeImagesRequest(), "image_ids"),
        ("DescribeInstances", "by id"): of(running, instance_pb2.DescribeInstancesRequest(), "instance_ids"),
        ("DescribeInstanceStatus", "by id"): of(running, instance_pb2.DescribeInstanceStatusRequest(), "instance_ids"),
        ("DescribeInternetGateways", "by id"): of(
            part("igw"), internet_gateway_pb2.DescribeInternetGatewaysRequest(), "internet_gateway_ids"
        ),
        ("DescribeKeyPairs", "by id"): of(key, key_pair_pb2.DescribeKeyPairsRequest(), "key_pair_ids"),
        ("DescribeNetworkAcls", "by id"): of(
            part("acl"), network_acl_pb2.DescribeNetworkAclsRequest(), "network_acl_ids"
        ),
        ("DescribeNetworkInterfaces", "by id"): of(
            interface, network_interface_pb2.DescribeNetworkInterfacesRequest(), "network_interface_ids"
        ),
        ("DescribeRouteTables", "by id"): of(
            part("rtb"), route_table_pb2.DescribeRouteTablesRequest(), "route_table_ids"
        ),
        ("DescribeSecurityGroupRules", "by id"): of(
            rule, security_group_pb2.DescribeSecurityGroupRulesRequest(), "security_group_rule_ids"
        ),
        ("DescribeSecurityGroups", "by id"): of(group, security_group_pb2.DescribeSecurityGroupsRequest(), "group_ids"),
        ("DescribeSubnets", "by id"): of(subnet, subnet_pb2.DescribeSubnetsRequest(), "subnet_ids"),
        ("DescribeVpcs", "by id"): of(vpc, vpc_pb2.DescribeVpcsRequest(), "vpc_ids"),
        ("DisassociateAddress", "by public address"): of(
            associated, address_pb2.DisassociateAddressRequest(), "public_ip"
        ),
        ("ModifyImageAttribute", "as a structure"): shared,
        ("ModifyImageAttribute", "description"): described,
        ("ModifyInstanceAttribute", "groups"): other_groups,
        ("ModifyNetworkInterfaceAttribute", "attachment"): its_attachment,
        ("ModifyNetworkInterfaceAttribute", "description"): of_an_interface(
            description=image_pb2.AttributeValue(value="web")
        ),
        ("ModifyNetworkInterfaceAttribute", "groups"): interfaces_groups,
        ("ReleaseAddress", "by public address"): of(public, address_pb2.ReleaseAddressRequest(), "public_ip"),
        ("RevokeSecurityGroupIngress", "by ids"): revoke_by_ids,
        ("RevokeSecurityGroupIngress", "of a group"): revoke_a_group,
        ("RunInstances", "in named groups"): run_in_named_groups,
        ("RunInstances", "on an interface"): run_on_an_interface,
        ("UpdateSecurityGroupRuleDescriptionsIngress", "by ids"): describe_rules,
    }
)
