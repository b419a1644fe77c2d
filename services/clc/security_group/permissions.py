"""AuthorizeSecurityGroupIngress and RevokeSecurityGroupIngress: all the rules of a call, or none."""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import AlreadyExists, InvalidArgument, NoCapacity, NotFound
from common.ids import SecurityGroupRuleId
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import security_group_pb2 as ec2
from services.clc.lookup import SECURITY_GROUP
from services.clc.security_group.groups import find_group, group_use
from services.clc.security_group.rules import MAX_RULES, Rule, rules_of, same, words
from services.clc.store import Changes, Store, Stored, until_committed
from services.clc.tag import rules as tags
from services.clc.tag.view import shown
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

Request = ec2.AuthorizeSecurityGroupIngressRequest | ec2.RevokeSecurityGroupIngressRequest


@use_case("ec2.AuthorizeSecurityGroupIngress")
async def authorize_ingress(
    cloud: Cloud, call: Call, request: ec2.AuthorizeSecurityGroupIngressRequest
) -> ec2.AuthorizeSecurityGroupIngressResult:
    given_tags = tags.from_specifications(request.tag_specifications, allowed=["security-group-rule"])

    async def attempt() -> ec2.AuthorizeSecurityGroupIngressResult:
        group = find_group(cloud.store, call.account_id, group_id=request.group_id, name=request.group_name)
        new = _rules(cloud.store, call.account_id, group.record, request)
        for rule in new:
            if any(same(rule, present) for present in group.record.rules):
                raise AlreadyExists(
                    f'the specified rule "{words(rule)}" already exists', code="InvalidPermission.Duplicate"
                )
            rule.rule_id = SecurityGroupRuleId.new()
            rule.tags.update(given_tags["security-group-rule"])
        draft = group.draft()
        draft.rules.extend(new)
        if sum(not rule.egress for rule in draft.rules) > MAX_RULES:
            raise NoCapacity(
                "The maximum number of rules per security group has been reached.",
                code="RulesPerSecurityGroupLimitExceeded",
            )
        end_dry_run(request)
        changes = Changes()
        changes.update(group, draft)
        if any(rule.group_id for rule in new):
            changes.bump(group_use(draft.vpc_id))
        await cloud.store.commit(changes)
        return ec2.AuthorizeSecurityGroupIngressResult(
            return_value=True, security_group_rules=[rule_view(cloud, draft, rule) for rule in new]
        )

    return await until_committed(attempt)


@use_case("ec2.RevokeSecurityGroupIngress")
async def revoke_ingress(
    cloud: Cloud, call: Call, request: ec2.RevokeSecurityGroupIngressRequest
) -> ec2.RevokeSecurityGroupIngressResult:
    async def attempt() -> ec2.RevokeSecurityGroupIngressResult:
        group = find_group(cloud.store, call.account_id, group_id=request.group_id, name=request.group_name)
        gone = _named_rules(cloud.store, call.account_id, group.record, request)
        end_dry_run(request)
        draft = group.draft()
        del draft.rules[:]
        draft.rules.extend(rule for rule in group.record.rules if rule not in gone)
        changes = Changes()
        changes.update(group, draft)
        await cloud.store.commit(changes)
        return ec2.RevokeSecurityGroupIngressResult(
            return_value=True, revoked_security_group_rules=[_revoked_view(draft, rule) for rule in gone]
        )

    return await until_committed(attempt)


def _named_rules(
    store: Store,
    account_id: str,
    group: record_pb2.SecurityGroupRecord,
    request: ec2.RevokeSecurityGroupIngressRequest,
) -> list[Rule]:
    """The group's rules that a revocation names, by id or by what they allow. Raises NotFound if one is not there."""
    present = [rule for rule in group.rules if not rule.egress]
    if request.security_group_rule_ids:
        by_id = {rule.rule_id: rule for rule in present}
        for rule_id in request.security_group_rule_ids:
            if not SecurityGroupRuleId.matches(rule_id):
                raise InvalidArgument(f'Invalid id: "{rule_id}"', code="InvalidSecurityGroupRuleId.Malformed")
            if rule_id not in by_id:
                raise NotFound(
                    f"The security group rule ID '{rule_id}' does not exist", code="InvalidSecurityGroupRuleId.NotFound"
                )
        return [by_id[rule_id] for rule_id in dict.fromkeys(request.security_group_rule_ids)]
    gone = []
    for wanted in _rules(store, account_id, group, request):
        match = next((rule for rule in present if same(rule, wanted)), None)
        if match is None:
            raise NotFound(
                "The specified rule does not exist in this security group.", code="InvalidPermission.NotFound"
            )
        gone.append(match)
    return gone


def _rules(store: Store, account_id: str, group: record_pb2.SecurityGroupRecord, request: Request) -> list[Rule]:
    def find(pair: ec2.UserIdGroupPair) -> tuple[str, str]:
        return _referenced(store, account_id, group, pair)

    permissions = [*request.ip_permissions, *_flat_permission(request)]
    if not permissions:
        raise InvalidArgument("The request must contain the parameter ipPermissions", code="MissingParameter")
    return rules_of(permissions, egress=False, find_group=find)


def _flat_permission(request: Request) -> Sequence[ec2.IpPermission]:
    """The one rule that the older parameters beside IpPermissions describe."""
    source = request.source_security_group_name
    if not (request.ip_protocol or request.cidr_ip or source):
        return ()
    permission = ec2.IpPermission(ip_protocol=request.ip_protocol or ("-1" if source else ""))
    if request.HasField("from_port"):
        permission.from_port = request.from_port
    if request.HasField("to_port"):
        permission.to_port = request.to_port
    if request.cidr_ip:
        permission.ip_ranges.add(cidr_ip=request.cidr_ip)
    if source:
        permission.user_id_group_pairs.add(group_name=source, user_id=request.source_security_group_owner_id or None)
    return (permission,)


def _referenced(
    store: Store, account_id: str, group: record_pb2.SecurityGroupRecord, pair: ec2.UserIdGroupPair
) -> tuple[str, str]:
    """Another account's group does not exist here: there is no peering."""
    if pair.user_id and pair.user_id != account_id:
        raise SECURITY_GROUP.missing([pair.group_id or pair.group_name])
    found: Stored[record_pb2.SecurityGroupRecord] = find_group(
        store, account_id, group_id=pair.group_id, name=pair.group_name
    )
    if found.record.vpc_id != group.vpc_id or pair.vpc_id not in ("", group.vpc_id):
        raise InvalidArgument(
            f"You have specified two resources that belong to different networks: {group.group_id} and"
            f" {found.record.group_id}",
            code="InvalidGroup.NotFound",
        )
    return found.record.group_id, found.record.account_id


def rule_view(cloud: Cloud, group: record_pb2.SecurityGroupRecord, rule: Rule) -> ec2.SecurityGroupRule:
    arn = f"arn:aws:ec2:{cloud.config.region}:{group.account_id}:security-group-rule/{rule.rule_id}"
    view = ec2.SecurityGroupRule(
        security_group_rule_id=rule.rule_id,
        security_group_rule_arn=arn,
        group_id=group.group_id,
        group_owner_id=group.account_id,
        is_egress=rule.egress,
        ip_protocol=rule.protocol,
        from_port=rule.from_port,
        to_port=rule.to_port,
        cidr_ipv4=rule.cidr_ipv4 or None,
        cidr_ipv6=rule.cidr_ipv6 or None,
        description=rule.description or None,
        tags=shown(rule.tags),
    )
    if rule.group_id:
        view.referenced_group_info.CopyFrom(
            ec2.ReferencedSecurityGroup(group_id=rule.group_id, user_id=rule.group_account_id, vpc_id=group.vpc_id)
        )
    return view


def _revoked_view(group: record_pb2.SecurityGroupRecord, rule: Rule) -> ec2.RevokedSecurityGroupRule:
    return ec2.RevokedSecurityGroupRule(
        security_group_rule_id=rule.rule_id,
        group_id=group.group_id,
        is_egress=rule.egress,
        ip_protocol=rule.protocol,
        from_port=rule.from_port,
        to_port=rule.to_port,
        cidr_ipv4=rule.cidr_ipv4 or None,
        cidr_ipv6=rule.cidr_ipv6 or None,
        referenced_group_id=rule.group_id or None,
        description=rule.description or None,
    )
