"""What clients were promised, held against what the API shows once nobody hurts the cloud any more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tests.chaos.clients import Client
from tests.chaos.volumes import broken_promises_of_volumes, unsettled_volumes
from tests.cloud_fixture import RunningCloud

FINAL = ("running", "terminated")


def instances(ec2: Any) -> dict[str, Any]:
    pages = ec2.get_paginator("describe_instances").paginate()
    return {i["InstanceId"]: i for page in pages for r in page["Reservations"] for i in r["Instances"]}


def unsettled(ec2: Any) -> list[str]:
    """Instances that are in no final state, or whose node does not answer by their metadata options yet; volumes that
    are on their way."""
    return unsettled_volumes(ec2) + [
        key
        for key, i in instances(ec2).items()
        if i["State"]["Name"] not in FINAL
        or (i["State"]["Name"], i["MetadataOptions"]["State"]) == ("running", "pending")
    ]


def broken_promises(cloud: RunningCloud, clients: Sequence[Client]) -> list[str]:
    """One line for each."""
    ec2 = cloud.client("ec2")
    described = instances(ec2)
    found = [f"{client.name} was told: {words}" for client in clients for words in client.wrong]
    for client in clients:
        found += _of_instances(client, described)
        found += _of_names(ec2, client)
        found += _of_ports(ec2, client)
        found += _of_addresses(ec2, client, described)
        found += _of_objects(cloud, client)
        found += broken_promises_of_volumes(ec2, client, described)
    return found


def _of_instances(client: Client, described: dict[str, Any]) -> Iterator[str]:
    by_token: dict[str, set[str]] = {}
    for instance_id, instance in described.items():
        by_token.setdefault(instance.get("ClientToken", ""), set()).add(instance_id)
    for token, count in client.tokens.items():
        found = by_token.get(token, set())
        if token in client.launched and found != set(client.launched[token]):
            yield f"launch {token} was answered with {client.launched[token]} and has {sorted(found)}"
        if token not in client.launched and len(found) not in (0, count):
            yield f"launch {token} asked for {count} and has {sorted(found)}"
    for instance_id in (i for ids in client.launched.values() for i in ids):
        yield from _of_instance(client, described.get(instance_id), instance_id)


def _of_instance(client: Client, instance: Any, instance_id: str) -> Iterator[str]:
    if instance is None:
        yield f"{instance_id} is not known"
        return
    state, reason = instance["State"]["Name"], instance.get("StateReason", {}).get("Code", "")
    if instance_id in client.terminated:
        if state != "terminated" or reason != "Client.UserInitiatedShutdown":
            yield f"{instance_id} was terminated, and is {state} {reason}"
    elif instance_id not in client.maybe_terminated and state != "running":
        yield f"{instance_id} is to run, and is {state}: {instance.get('StateReason')}"
    if instance_id in client.tags:
        value = next((tag["Value"] for tag in instance.get("Tags", ()) if tag["Key"] == "value"), None)
        if value not in client.tags[instance_id].values:
            yield f"the tag of {instance_id} is {value}, not one of {client.tags[instance_id].values}"
    if instance_id in client.hops:
        hops = str(instance["MetadataOptions"]["HttpPutResponseHopLimit"])
        if hops not in client.hops[instance_id].values:
            yield f"the hop limit of {instance_id} is {hops}, not one of {client.hops[instance_id].values}"


def _of_names(ec2: Any, client: Client) -> Iterator[str]:
    pages = ec2.get_paginator("describe_security_groups").paginate()
    groups = {group["GroupName"] for page in pages for group in page["SecurityGroups"]}
    key_pairs = {pair["KeyName"] for pair in ec2.describe_key_pairs()["KeyPairs"]}
    for kind, names, there in (("group", client.groups, groups), ("key pair", client.key_pairs, key_pairs)):
        yield from (f"{kind} {name} is not there" for name, sure in names.items() if sure and name not in there)


def _of_ports(ec2: Any, client: Client) -> Iterator[str]:
    if not client.group_id:
        return
    [group] = ec2.describe_security_groups(GroupIds=[client.group_id])["SecurityGroups"]
    opened = {permission.get("FromPort") for permission in group["IpPermissions"]}
    for port, possible in client.ports.items():
        if ("open" if port in opened else None) not in possible.values:
            yield f"port {port} of {client.group_id} is not {possible.values}"


def _of_addresses(ec2: Any, client: Client, described: dict[str, Any]) -> Iterator[str]:
    there = {address["AllocationId"]: address for address in ec2.describe_addresses()["Addresses"]}
    for address in client.addresses:
        found = there.get(address.allocation_id)
        if address.there is not None and address.there != (found is not None):
            yield f"address {address.name} {address.allocation_id} is {'there' if found else 'not there'}"
        if address.there and found:
            may_hold = [
                None if holder and described[holder]["State"]["Name"] == "terminated" else holder
                for holder in address.holder.values
            ]
            if (holder := found.get("InstanceId")) not in may_hold:
                yield f"address {address.public_ip} is on {holder}, not one of {may_hold}"
            if holder and described[holder].get("PublicIpAddress") != address.public_ip:
                yield f"{holder} has address {address.public_ip} and does not show it"


def _of_objects(cloud: RunningCloud, client: Client) -> Iterator[str]:
    s3 = cloud.client("s3")
    listed = {entry["Key"] for entry in s3.list_objects_v2(Bucket=client.bucket).get("Contents", ())}
    for key, possible in client.objects.items():
        bodies = {None if value is None else client.body(value) for value in possible.values}
        found = s3.get_object(Bucket=client.bucket, Key=key)["Body"].read() if key in listed else None
        if found not in bodies:
            yield f"object {key} is {found and found[:20]!r}, not one of {possible.values}"
