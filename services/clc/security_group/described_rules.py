"""DescribeSecurityGroupRules, ModifySecurityGroupRules, UpdateSecurityGroupRuleDescriptions{In,E}gress."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from common.errors import InvalidArgument
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import security_group_pb2 as ec2
from services.clc.filters import FilterTable, is_pattern
from services.clc.listing import creation_key, max_results_of, select
from services.clc.lookup import SECURITY_GROUP, SECURITY_GROUP_RULE, own
from services.clc.paging import page, refuse_pages_of_named
from services.clc.security_group.groups import find_group
from services.clc.security_group.permissions import (
    absent,
    check_distinct,
    check_room,
    name_peers,
    rule_of_id,
    rule_view,
    wanted_rules,
)
from services.clc.security_group.rules import Rule, check_description, meaning
from services.clc.store import Changes, Stored, until_committed
from services.clc.tag.view import as_mapping
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

Group = Stored[record_pb2.SecurityGroupRecord]
Update = ec2.UpdateSecurityGroupRuleDescriptionsIngressRequest | ec2.UpdateSecurityGroupRuleDescriptionsEgressRequest

_FILTERS = FilterTable[ec2.SecurityGroupRule](
    "ec2.DescribeSecurityGroupRules",
    {"group-id": lambda r: r.group_id, "security-group-rule-id": lambda r: r.security_group_rule_id},
    tags=lambda r: as_mapping(r.tags),
)


@use_case("ec2.DescribeSecurityGroupRules")
async def describe_security_group_rules(
    cloud: Cloud, call: Call, request: ec2.DescribeSecurityGroupRulesRequest
) -> ec2.DescribeSecurityGroupRulesResult:
    matches, limit = _FILTERS.matcher(request.filters), max_results_of(request)
    refuse_pages_of_named(request, request.security_group_rule_ids, "securityGroupRuleIds")
    end_dry_run(request)
    groups = _groups_meant(request, select(cloud, call, SECURITY_GROUP, ()))
    wanted = set(request.security_group_rule_ids)
    for rule_id in wanted:
        SECURITY_GROUP_RULE.check(rule_id)
    if missing := sorted(wanted - {rule.rule_id for group in groups for rule in group.record.rules}):
        raise SECURITY_GROUP_RULE.missing(missing)
    rules = ((key, group, rule) for key, group, rule in _in_order(groups) if not wanted or rule.rule_id in wanted)
    views = ((key, rule_view(cloud, group, rule)) for key, group, rule in rules)
    shown, token = page(
        ((key, view) for key, view in views if matches(view)),
        key=lambda item: item[0],
        max_results=limit,
        request=request,
    )
    return ec2.DescribeSecurityGroupRulesResult(security_group_rules=[view for _, view in shown], next_token=token)


@use_case("ec2.ModifySecurityGroupRules")
async def modify_security_group_rules(
    cloud: Cloud, call: Call, request: ec2.ModifySecurityGroupRulesRequest
) -> ec2.ModifySecurityGroupRulesResult:
    if not request.security_group_rules:
        raise InvalidArgument("The request must contain the parameter SecurityGroupRule", code="MissingParameter")

    async def attempt() -> ec2.ModifySecurityGroupRulesResult:
        group = find_group(cloud.store, call.account_id, group_id=request.group_id)
        draft = group.draft()
        named: set[str] = set()
        for update in request.security_group_rules:
            rule = rule_of_id(draft, update.security_group_rule_id)
            if rule.rule_id in named:
                raise InvalidArgument(f"The security group rule ID '{rule.rule_id}' must not appear multiple times")
            named.add(rule.rule_id)
            new = _modified(cloud, call, group.record, rule, update.security_group_rule)
            new.rule_id = rule.rule_id
            new.tags.update(rule.tags)
            rule.CopyFrom(new)
        check_distinct(draft.rules)
        check_room(draft.rules)
        end_dry_run(request)
        changes = Changes()
        changes.update(group, draft)
        name_peers(cloud.store, changes, draft.group_id, (rule for rule in draft.rules if rule.rule_id in named))
        await cloud.store.commit(changes)
        return ec2.ModifySecurityGroupRulesResult(return_value=True)

    return await until_committed(attempt)


@use_case("ec2.UpdateSecurityGroupRuleDescriptionsIngress")
async def update_descriptions_ingress(
    cloud: Cloud, call: Call, request: ec2.UpdateSecurityGroupRuleDescriptionsIngressRequest
) -> ec2.UpdateSecurityGroupRuleDescriptionsIngressResult:
    await _update_descriptions(cloud, call, request, egress=False)
    return ec2.UpdateSecurityGroupRuleDescriptionsIngressResult(return_value=True)


@use_case("ec2.UpdateSecurityGroupRuleDescriptionsEgress")
async def update_descriptions_egress(
    cloud: Cloud, call: Call, request: ec2.UpdateSecurityGroupRuleDescriptionsEgressRequest
) -> ec2.UpdateSecurityGroupRuleDescriptionsEgressResult:
    await _update_descriptions(cloud, call, request, egress=True)
    return ec2.UpdateSecurityGroupRuleDescriptionsEgressResult(return_value=True)


async def _update_descriptions(cloud: Cloud, call: Call, request: Update, *, egress: bool) -> None:
    by_id, by_meaning = request.security_group_rule_descriptions, request.ip_permissions
    if bool(by_id) is bool(by_meaning):
        raise InvalidArgument(
            "Give either ipPermissions or securityGroupRuleDescriptions",
            code="InvalidParameterCombination" if by_id else "MissingParameter",
        )

    async def attempt() -> None:
        group = find_group(cloud.store, call.account_id, group_id=request.group_id, name=request.group_name)
        draft = group.draft()
        for given in by_id:
            check_description(given.description)
            rule_of_id(draft, given.security_group_rule_id, egress=egress).description = given.description
        if by_meaning:
            present = {meaning(rule): rule for rule in draft.rules}
            for rule in wanted_rules(cloud.store, call.account_id, group.record, by_meaning, egress=egress):
                if meaning(rule) not in present:
                    raise absent()
                present[meaning(rule)].description = rule.description
        end_dry_run(request)
        if draft != group.record:
            changes = Changes()
            changes.update(group, draft)
            await cloud.store.commit(changes)

    await until_committed(attempt)


def _modified(
    cloud: Cloud, call: Call, group: record_pb2.SecurityGroupRecord, old: Rule, wanted: ec2.SecurityGroupRuleRequest
) -> Rule:
    """The rule that a SecurityGroupRuleRequest, which names exactly one peer, describes."""
    permission = ec2.IpPermission(ip_protocol=wanted.ip_protocol)
    if wanted.HasField("from_port"):
        permission.from_port = wanted.from_port
    if wanted.HasField("to_port"):
        permission.to_port = wanted.to_port
    description = wanted.description or None
    if wanted.cidr_ipv4:
        permission.ip_ranges.add(cidr_ip=wanted.cidr_ipv4, description=description)
    if wanted.cidr_ipv6:
        permission.ipv6_ranges.add(cidr_ipv6=wanted.cidr_ipv6, description=description)
    if wanted.referenced_group_id:
        own(cloud.store, SECURITY_GROUP, call.account_id, wanted.referenced_group_id)
        permission.user_id_group_pairs.add(group_id=wanted.referenced_group_id, description=description)
    made = wanted_rules(cloud.store, call.account_id, group, [permission], egress=old.egress)
    if len(made) > 1:
        raise InvalidArgument(
            "Exactly one of CidrIpv4, CidrIpv6 and ReferencedGroupId may be given for a rule",
            code="InvalidParameterCombination",
        )
    return made[0]


def _groups_meant(request: ec2.DescribeSecurityGroupRulesRequest, groups: list[Group]) -> list[Group]:
    """Those that a filter can let through, where it names them; an id of a rule may be any group's."""
    named = [set(f.values) for f in request.filters if f.name == "group-id" and not any(map(is_pattern, f.values))]
    if request.security_group_rule_ids or not named:
        return groups
    return [group for group in groups if all(group.record.group_id in ids for ids in named)]


def _in_order(groups: Sequence[Group]) -> Iterator[tuple[str, record_pb2.SecurityGroupRecord, Rule]]:
    """Every rule with its place: groups by age, a group's rules by id."""
    for group in groups:
        for rule in sorted(group.record.rules, key=lambda r: r.rule_id):
            yield f"{creation_key(group)}/{rule.rule_id}", group.record, rule
