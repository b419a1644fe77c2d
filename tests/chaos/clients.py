"""Clients of a cloud that is hurt meanwhile, which keep account of what they were promised.

Each has its own boto3 client and things of its own, so that what it was told is what must hold. A call without an
answer may have happened or not: an idempotent one is tried again until it is answered.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.calls import Possible, Refused
from tests.chaos.volumes import VolumeOwner

PORTS = (2001, 2002, 2003)


@dataclass(slots=True, kw_only=True)
class Address:
    """An elastic address: what it is called by its tag, and which instance may have it."""

    name: str
    allocation_id: str = ""
    public_ip: str = ""
    holder: Possible = field(default_factory=lambda: Possible(values=[None]))
    # Must it be there? None: nobody told.
    there: bool | None = None


@dataclass(slots=True, kw_only=True)
class Client(VolumeOwner):
    """`work` runs until `stop` is set, and again if it is called again; what it did is read in between."""

    image_id: str
    bucket: str
    most_instances: int = 2
    # Client token → number of instances; those whose call was answered, with their ids.
    tokens: dict[str, int] = field(default_factory=dict)
    launched: dict[str, list[str]] = field(default_factory=dict)
    terminated: set[str] = field(default_factory=set)
    maybe_terminated: set[str] = field(default_factory=set)
    tags: dict[str, Possible] = field(default_factory=dict)
    # Hop limits of metadata tokens.
    hops: dict[str, Possible] = field(default_factory=dict)
    objects: dict[str, Possible] = field(default_factory=dict)
    # Name → must it be there?
    groups: dict[str, bool] = field(default_factory=dict)
    key_pairs: dict[str, bool] = field(default_factory=dict)
    # The group that its instances are in, and which of its ports are open.
    group_id: str = ""
    ports: dict[int, Possible] = field(default_factory=dict)
    addresses: list[Address] = field(default_factory=list)
    _s3: Any = None

    def work(self) -> None:
        self._ec2 = self._ec2 or self.cloud.client("ec2", read_timeout=15)
        self._s3 = self._s3 or self.cloud.client("s3", read_timeout=15)
        often = (self._launch, self._tag, self._put, self._port, self._associate, self._limit_hops)
        sometimes = (self._terminate, self._group, self._key_pair, self._allocate, self._let_go)
        deeds = (*often, *often, *sometimes, *self.volume_deeds)
        while not self.stop.is_set():
            with contextlib.suppress(Refused):
                self._make_own_group() if not self.group_id else self.dice.choice(deeds)()

    def forget_instances(self) -> int:
        """All of them are terminated, and the cloud forgets them too, an hour later; how many they were."""
        count = sum(map(len, self.launched.values()))
        for account in (self.tokens, self.launched, self.terminated, self.maybe_terminated, self.tags, self.hops):
            account.clear()
        return count

    def mine(self, instance: Any) -> bool:
        return instance.get("ClientToken") in self.tokens

    # Instances and their tags.

    def _launch(self) -> None:
        room = self.most_instances - len(self.alive)
        if room <= 0:
            return
        token, count = self._name(), self.dice.randint(1, room)
        self.tokens[token] = count
        made = self._until_answered(
            lambda: self._ec2.run_instances(
                ImageId=self.image_id,
                InstanceType="t2.nano",
                MinCount=count,
                MaxCount=count,
                ClientToken=token,
                SecurityGroupIds=[self.group_id],
            )
        )
        if made is not None:
            self.launched[token] = [instance["InstanceId"] for instance in made["Instances"]]
            self.alive += self.launched[token]

    def _terminate(self) -> None:
        if not self.alive:
            return
        victim = self.dice.choice(self.alive)
        self.alive.remove(victim)
        self.maybe_terminated.add(victim)
        for address in self.addresses:
            if victim in address.holder.values:
                address.holder.trying(None)
        self.left_by(victim)
        if self._until_answered(lambda: self._ec2.terminate_instances(InstanceIds=[victim])):
            self.terminated.add(victim)

    def _tag(self) -> None:
        if not self.alive:
            return
        target, value = self.dice.choice(self.alive), self._name()
        possible = self.tags.setdefault(target, Possible(values=[None]))
        possible.trying(value)
        tags = [{"Key": "value", "Value": value}]
        if self._once(lambda: self._ec2.create_tags(Resources=[target], Tags=tags)):
            possible.acknowledged(value)

    def _limit_hops(self) -> None:
        if not self.alive:
            return
        target, value = self.dice.choice(self.alive), self.dice.randint(1, 64)
        possible = self.hops.setdefault(target, Possible(values=["1"]))
        possible.trying(str(value))
        given = {"InstanceId": target, "HttpPutResponseHopLimit": value}
        # One whose launch failed is gone by itself.
        change = self._ec2.modify_instance_metadata_options
        if self._once(lambda: change(**given), refusals={"IncorrectInstanceState"}):
            possible.acknowledged(str(value))

    # Objects, groups, key pairs.

    def _put(self) -> None:
        key, value = f"{self.name}-{self.dice.randint(1, 3)}", self._name()
        possible = self.objects.setdefault(key, Possible(values=[None]))
        possible.trying(value)
        if self._once(lambda: self._s3.put_object(Bucket=self.bucket, Key=key, Body=self.body(value))):
            possible.acknowledged(value)

    def _group(self) -> None:
        name = self._name()
        self.groups[name] = False
        if self._once(lambda: self._ec2.create_security_group(GroupName=name, Description="chaos")):
            self.groups[name] = True

    def _key_pair(self) -> None:
        name = self._name()
        self.key_pairs[name] = False
        if self._once(lambda: self._ec2.create_key_pair(KeyName=name, KeyType="ed25519")):
            self.key_pairs[name] = True

    def _make_own_group(self) -> None:
        name = self._name()
        self.groups[name] = False
        if made := self._once(lambda: self._ec2.create_security_group(GroupName=name, Description="chaos")):
            self.groups[name], self.group_id = True, made["GroupId"]

    def _port(self) -> None:
        """Opens it, or closes it if it is sure to be open."""
        port = self.dice.choice(PORTS)
        possible = self.ports.setdefault(port, Possible(values=[None]))
        value = None if possible.values == ["open"] else "open"
        already = frozenset() if possible.certain else frozenset({"InvalidPermission.Duplicate"})
        possible.trying(value)
        change = self._ec2.authorize_security_group_ingress if value else self._ec2.revoke_security_group_ingress
        rule = {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "CidrIp": "198.18.0.0/15"}
        if self._once(lambda: change(GroupId=self.group_id, **rule), done=already):
            possible.acknowledged(value)

    # Addresses.

    @property
    def _address(self) -> Address | None:
        """The one at hand."""
        return next((address for address in reversed(self.addresses) if address.there), None)

    def _allocate(self) -> None:
        if self._address is not None:
            return
        address = Address(name=self._name())
        self.addresses.append(address)
        tags = [{"ResourceType": "elastic-ip", "Tags": [{"Key": "Name", "Value": address.name}]}]
        if made := self._once(lambda: self._ec2.allocate_address(Domain="vpc", TagSpecifications=tags)):
            address.allocation_id, address.public_ip, address.there = made["AllocationId"], made["PublicIp"], True

    def _associate(self) -> None:
        """Also from one instance to another."""
        address = self._address
        if address is None or not self.alive:
            return
        target = self.dice.choice(self.alive)
        address.holder.trying(target)
        given = {"AllocationId": address.allocation_id, "InstanceId": target, "AllowReassociation": True}
        # It does not run yet, or not any more.
        if self._until_answered(lambda: self._ec2.associate_address(**given), refusals={"InvalidInstanceID"}):
            address.holder.acknowledged(target)

    def _let_go(self) -> None:
        """Off its instance, or given back if it is sure to be on none."""
        address = self._address
        if address is None:
            return
        if address.holder.values == [None]:
            address.there = None
            given = {"AllocationId": address.allocation_id}
            if self._until_answered(lambda: self._ec2.release_address(**given), done={"InvalidAllocationID.NotFound"}):
                address.there = False
            return
        address.holder.trying(None)
        given = {"PublicIp": address.public_ip}
        if self._until_answered(
            lambda: self._ec2.disassociate_address(**given), done={"InvalidAssociationID.NotFound"}
        ):
            address.holder.acknowledged(None)

    def body(self, value: str) -> bytes:
        return value.encode() * 8000
