"""Clients of a cloud whose processes are being killed, which keep account of what they were promised.

Each has its own boto3 client and things of its own, so that what it was told is what must hold. A call without an
answer may have happened or not: an idempotent one is tried again until it is answered.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from tests.cloud_fixture import RunningCloud

T = TypeVar("T")

_MOST_INSTANCES = 2
# An answer as good as any: others have taken the room.
_FULL = "InsufficientInstanceCapacity"


class Refused(Exception):
    """It did not happen, and will not."""


@dataclass(slots=True, kw_only=True)
class Possible:
    """Values that something may have: the last acknowledged one, and those whose outcome nobody told."""

    values: list[str | None]

    def trying(self, value: str) -> None:
        self.values.append(value)

    def acknowledged(self, value: str) -> None:
        self.values = [value]


@dataclass(slots=True, kw_only=True)
class Client:
    """`work` runs until `stop` is set; what it did is read after that."""

    cloud: RunningCloud
    name: str
    image_id: str
    bucket: str
    dice: random.Random
    stop: threading.Event
    # Client token → number of instances; those whose call was answered, with their ids.
    tokens: dict[str, int] = field(default_factory=dict)
    launched: dict[str, list[str]] = field(default_factory=dict)
    alive: list[str] = field(default_factory=list)
    terminated: set[str] = field(default_factory=set)
    maybe_terminated: set[str] = field(default_factory=set)
    tags: dict[str, Possible] = field(default_factory=dict)
    objects: dict[str, Possible] = field(default_factory=dict)
    # Name → must it be there?
    groups: dict[str, bool] = field(default_factory=dict)
    key_pairs: dict[str, bool] = field(default_factory=dict)
    answered: int = 0
    unanswered: int = 0
    # Answers that no client should ever get.
    wrong: list[str] = field(default_factory=list)
    _count: int = 0
    _ec2: Any = None
    _s3: Any = None

    def work(self) -> None:
        self._ec2 = self.cloud.client("ec2", read_timeout=15)
        self._s3 = self.cloud.client("s3", read_timeout=15)
        often, sometimes = (self._launch, self._terminate, self._tag, self._put), (self._group, self._key_pair)
        deeds = (*often, *often, *sometimes)
        while not self.stop.is_set():
            self.dice.choice(deeds)()

    def _launch(self) -> None:
        if len(self.alive) >= _MOST_INSTANCES:
            return
        token, count = self._name(), self.dice.randint(1, 2)
        self.tokens[token] = count

        def call() -> Any:
            return self._ec2.run_instances(
                ImageId=self.image_id, InstanceType="t2.nano", MinCount=count, MaxCount=count, ClientToken=token
            )

        try:
            made = self._until_answered(call)
        except Refused:
            return
        if made is not None:
            self.launched[token] = [instance["InstanceId"] for instance in made["Instances"]]
            self.alive += self.launched[token]

    def _terminate(self) -> None:
        if not self.alive:
            return
        victim = self.dice.choice(self.alive)
        self.alive.remove(victim)
        self.maybe_terminated.add(victim)
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

    def _put(self) -> None:
        key, value = f"{self.name}-{self.dice.randint(1, 3)}", self._name()
        possible = self.objects.setdefault(key, Possible(values=[None]))
        possible.trying(value)
        if self._once(lambda: self._s3.put_object(Bucket=self.bucket, Key=key, Body=self.body(value))):
            possible.acknowledged(value)

    def _group(self) -> None:
        name = self._name()
        self.groups[name] = False
        if self._once(lambda: self._ec2.create_security_group(GroupName=name, Description="killed")):
            self.groups[name] = True

    def _key_pair(self) -> None:
        name = self._name()
        self.key_pairs[name] = False
        if self._once(lambda: self._ec2.create_key_pair(KeyName=name, KeyType="ed25519")):
            self.key_pairs[name] = True

    def _until_answered(self, call: Callable[[], T]) -> T | None:
        """None when time is up before. Raises Refused."""
        while not self.stop.is_set():
            if (answer := self._once(call)) is not None:
                return answer
            self.stop.wait(0.1)
        return None

    def _once(self, call: Callable[[], T]) -> T | None:
        """None without an answer: it may have happened."""
        try:
            answer = call()
        except ClientError as error:
            if error.response["Error"]["Code"] == _FULL:
                self.answered += 1
                raise Refused from error
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 503:
                self.wrong.append(str(error))
        except BotoCoreError:
            pass
        else:
            self.answered += 1
            return answer
        self.unanswered += 1
        return None

    def body(self, value: str) -> bytes:
        return value.encode() * 8000

    def _name(self) -> str:
        self._count += 1
        return f"{self.name}-{self._count}"
