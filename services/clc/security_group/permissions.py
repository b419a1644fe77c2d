"""AuthorizeSecurityGroup{In,E}gress and RevokeSecurityGroup{In,E}gress: all the rules of a call, or none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from common.errors import AlreadyExists, InvalidArgument, NoCapacity, NotFound
from common.ids import SecurityGroupRuleId
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import security_group_pb2 as ec2
from services.clc.lookup import SECURITY_GROUP, SECURITY_GROUP_RULE, own
from services.clc.security_group.groups import find_group, name_groups
from services.clc.security_group.rules import MAX_RULES, Rule, meaning, permissions_of, rules_of, words
from services.clc.store import Changes, Store, until_committed
from services.clc.tag import rules as tags
from services.clc.tag.view import shown
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

Authorization = ec2.AuthorizeSecurityGroupIngressRequest | ec2.AuthorizeSecurityGroupEgressRequest
Revocation = ec2.RevokeSecurityGroupIngressRequest | ec2.RevokeSecurityGroupEgressRequest
Permissions = Sequence[ec2.IpPermission]


@use_case("ec2.AuthorizeSecurityGroupIngress")
async def authorize_ingress(
    cloud: Cloud, call: Call, request: ec2.AuthorizeSecurityGroupIngressRequest
) -> ec2.AuthorizeSecurityGroupIngressResult:
    permissions = [*request.ip_permissions, *_flat_permission(request)]
    made = await _authorize(cloud, call, request, permissions, name=request.group_name, egress=False)
    return ec2.AuthorizeSecurityGroupIngressResult(return_value=True, security_group_rules=made)


@use_case("ec2.AuthorizeSecurityGroupEgress")
async def authorize_egress(
    cloud: Cloud, call: Call, request: ec2.AuthorizeSecurityGroupEgressRequest
) -> ec2.AuthorizeSecurityGroupEgressResult:
    made = await _authorize(cloud, call, request, request.ip_permissions, name="", egress=True)
    return ec2.AuthorizeSecurityGroupEgressResult(return_value=True, security_group_rules=made)


@use_case("ec2.RevokeSecurityGroupIngress")
async def revoke_ingress(
    cloud: Cloud, call: Call, request: ec2.RevokeSecurityGroupIngressRequest
) -> ec2.RevokeSecurityGroupIngressResult:
    permissions = [*request.ip_permissions, *_flat_permission(request)]
    gone, unknown = await _revoke(cloud, call, request, permissions, name=request.group_name, egress=False)
    return ec2.RevokeSecurityGroupIngressResult(
        return_value=True, revoked_security_group_rules=gone, unknown_ip_permissions=unknown
    )


@use_case("ec2.RevokeSecurityGroupEgress")
async def revoke_egress(
    cloud: Cloud, call: Call, request: ec2.RevokeSecurityGroupEgressRequest
) -> ec2.RevokeSecurityGroupEgressResult:
    gone, unknown = await _revoke(cloud, call, request, request.ip_permissions, name="", egress=True)
    return ec2.RevokeSecurityGroupEgressResult(
        return_value=True, revoked_security_group_rules=gone, unknown_ip_permissions=unknown
    )


async def _authorize(
    cloud: Cloud, call: Call, request: Authorization, permissions: Permissions, *, name: str, egress: bool
) -> list[ec2.SecurityGroupRule]:
    given_tags = tags.from_specifications(request.tag_specifications, allowed=["security-group-rule"])

    async def attempt() -> list[ec2.SecurityGroupRule]:
        group = find_group(cloud.store, call.account_id, group_id=request.group_id, name=name)
        new = wanted_rules(cloud.store, call.account_id, group.record, permissions, egress=egress)
        for rule in new:
            rule.rule_id = SecurityGroupRuleId.new()
            rule.tags.update(given_tags["security-group-rule"])
        draft = group.draft()
        draft.rules.extend(new)
        check_distinct(draft.rules)
        check_room(draft.rules)
        end_dry_run(request)
        changes = Changes()
        changes.update(group, draft)
        name_peers(cloud.store, changes, draft.group_id, new)
        await cloud.store.commit(changes)
        return [rule_view(cloud, draft, rule) for rule in new]

    return await until_committed(attempt)


async def _revoke(
    cloud: Cloud, call: Call, request: Revocation, permissions: Permissions, *, name: str, egress: bool
) -> tuple[list[ec2.RevokedSecurityGroupRule], list[ec2.IpPermission]]:
    """What is revoked, and what was asked for and is not there."""
    ids = list(dict.fromkeys(request.security_group_rule_ids))
    if ids and permissions:
        raise InvalidArgument(
            "The parameter ipPermissions cannot be used with the parameter securityGroupRuleIds",
            code="InvalidParameterCombination",
        )

    async def attempt() -> tuple[list[ec2.RevokedSecurityGroupRule], list[ec2.IpPermission]]:
        group = find_group(cloud.store, call.account_id, group_id=request.group_id, name=name)
        unknown: list[Rule] = []
        if ids:
            gone = [rule_of_id(group.record, rule_id, egress=egress) for rule_id in ids]
        else:
            wanted = wanted_rules(cloud.store, call.account_id, group.record, permissions, egress=egress)
            present = {meaning(rule): rule for rule in group.record.rules}
            gone = [present[what] for what in map(meaning, wanted) if what in present]
            unknown = [given for given in wanted if meaning(given) not in present]
            _check_forgiven(cloud.store, group.record, unknown)
        end_dry_run(request)
        draft = group.draft()
        del draft.rules[:]
        draft.rules.extend(rule for rule in group.record.rules if rule not in gone)
        if gone:
            changes = Changes()
            changes.update(group, draft)
            await cloud.store.commit(changes)
        return [_revoked_view(draft, rule) for rule in gone], permissions_of(unknown, egress=egress)

    return await until_committed(attempt)


def _check_forgiven(store: Store, group: record_pb2.SecurityGroupRecord, unknown: Sequence[Rule]) -> None:
    """In a default VPC, revoking what is not there is no error: it is listed in the answer. Elsewhere it is NotFound.

    (API reference, RevokeSecurityGroupIngress.)
    """
    vpc = store.get(record_pb2.VpcRecord, group.vpc_id)
    if unknown and not (vpc is not None and vpc.record.is_default):
        raise absent()


def wanted_rules(
    store: Store, account_id: str, group: record_pb2.SecurityGroupRecord, permissions: Permissions, *, egress: bool
) -> list[Rule]:
    """What the permissions say, as rules without ids. Raises InvalidArgument, NotFound in EC2's words."""

    def find(pair: ec2.UserIdGroupPair) -> tuple[str, str]:
        return _referenced(store, account_id, group, pair)

    if not permissions:
        raise InvalidArgument("The request must contain the parameter ipPermissions", code="MissingParameter")
    return rules_of(permissions, egress=egress, find_group=find)


def rule_of_id(group: record_pb2.SecurityGroupRecord, rule_id: str, *, egress: bool | None = None) -> Rule:
    """The group's own, of that direction if one is given. Raises NotFound (InvalidSecurityGroupRuleId.NotFound)."""
    SECURITY_GROUP_RULE.check(rule_id)
    for rule in group.rules:
        if rule.rule_id == rule_id and egress in (None, rule.egress):
            return rule
    raise SECURITY_GROUP_RULE.missing([rule_id])


def name_peers(store: Store, changes: Changes, group_id: str, rules: Iterable[Rule]) -> None:
    """What rules of that group refer to. Raises NotFound for one that has just gone."""
    peers = {rule.group_id: store.get(record_pb2.SecurityGroupRecord, rule.group_id) for rule in rules if rule.group_id}
    peers.pop(group_id, None)
    if gone := [peer_id for peer_id, peer in peers.items() if peer is None]:
        raise SECURITY_GROUP.missing(gone)
    name_groups(changes, filter(None, peers.values()))


def absent() -> NotFound:
    return NotFound("The specified rule does not exist in this security group.", code="InvalidPermission.NotFound")


def check_distinct(rules: Sequence[Rule]) -> None:
    """Raises AlreadyExists (InvalidPermission.Duplicate) if two allow the same."""
    seen = set()
    for rule in rules:
        if meaning(rule) in seen:
            raise AlreadyExists(
                f'the specified rule "{words(rule)}" already exists', code="InvalidPermission.Duplicate"
            )
        seen.add(meaning(rule))


def check_room(rules: Sequence[Rule]) -> None:
    """Each direction has room for so many rules of IPv4, and as many of IPv6; one that names a group is of both.

    (VPC User Guide, "Amazon VPC quotas".) Raises NoCapacity (RulesPerSecurityGroupLimitExceeded).
    """
    taken = Counter(
        (rule.egress, version)
        for rule in rules
        for version, peer in ((4, rule.cidr_ipv4), (6, rule.cidr_ipv6))
        if peer or rule.group_id
    )
    if any(count > MAX_RULES for count in taken.values()):
        raise NoCapacity(
            "The maximum number of rules per security group has been reached.",
            code="RulesPerSecurityGroupLimitExceeded",
        )


def _flat_permission(
    request: ec2.AuthorizeSecurityGroupIngressRequest | ec2.RevokeSecurityGroupIngressRequest,
) -> Permissions:
    """What the older parameters beside IpPermissions describe: one rule, or all that a group's members may send.

    (API reference, AuthorizeSecurityGroupIngress: SourceSecurityGroupName.)
    """
    source = request.source_security_group_name
    ports = {name: getattr(request, name) for name in ("from_port", "to_port") if request.HasField(name)}
    if source and (request.ip_protocol or request.cidr_ip or ports):
        raise InvalidArgument(
            "The parameter sourceSecurityGroupName cannot be used with the parameters cidrIp, ipProtocol, fromPort and"
            " toPort",
            code="InvalidParameterCombination",
        )
    if source:
        pair = ec2.UserIdGroupPair(group_name=source, user_id=request.source_security_group_owner_id or None)
        return [
            ec2.IpPermission(ip_protocol=protocol, from_port=low, to_port=high, user_id_group_pairs=[pair])
            for protocol, low, high in (("tcp", 0, 65535), ("udp", 0, 65535), ("icmp", -1, -1))
        ]
    if request.source_security_group_owner_id:
        raise InvalidArgument("The request must contain the parameter sourceSecurityGroupName", code="MissingParameter")
    if not (request.ip_protocol or request.cidr_ip or ports):
        return ()
    ranges = [ec2.IpRange(cidr_ip=request.cidr_ip)] if request.cidr_ip else []
    return [ec2.IpPermission(ip_protocol=request.ip_protocol, ip_ranges=ranges, **ports)]


def _referenced(
    store: Store, account_id: str, group: record_pb2.SecurityGroupRecord, pair: ec2.UserIdGroupPair
) -> tuple[str, str]:
    """Another account's group does not exist here: there is no peering."""
    if pair.user_id and pair.user_id != account_id:
        raise SECURITY_GROUP.missing([pair.group_id or pair.group_name])
    if pair.group_id:
        found = own(store, SECURITY_GROUP, account_id, pair.group_id)
        if pair.group_name not in ("", found.record.name):
            raise SECURITY_GROUP.missing([pair.group_name])
    else:
        found = find_group(store, account_id, name=pair.group_name)
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
