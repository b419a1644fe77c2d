"""How a client of a cloud that is hurt calls it, and what an answer, or none, tells.

A call without an answer may have happened or not: an idempotent one is tried again until it is answered.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from tests.cloud_fixture import RunningCloud

# Answers as good as any: others have taken the room, a disk is full, or a client has as much as it may.
_FULL = frozenset(
    {
        "InsufficientInstanceCapacity", "InsufficientCapacity", "InsufficientAddressCapacity",
        "InsufficientVolumeCapacity", "AddressLimitExceeded", "SecurityGroupLimitExceeded", "VcpuLimitExceeded",
    }
)  # fmt: skip


class Refused(Exception):
    """It did not happen, and will not."""


@dataclass(slots=True, kw_only=True)
class Possible:
    """Values that something may have: the last acknowledged one, and those whose outcome nobody told."""

    values: list[str | None]

    def trying(self, value: str | None) -> None:
        self.values.append(value)

    def acknowledged(self, value: str | None) -> None:
        self.values = [value]

    @property
    def certain(self) -> bool:
        return len(self.values) == 1


@dataclass(slots=True, kw_only=True)
class Caller:
    cloud: RunningCloud
    name: str
    dice: random.Random
    stop: threading.Event
    alive: list[str] = field(default_factory=list)
    answered: int = 0
    unanswered: int = 0
    refused: int = 0
    # Answers that no client should ever get.
    wrong: list[str] = field(default_factory=list)
    _count: int = 0
    _ec2: Any = None

    def _until_answered(
        self, call: Callable[[], Any], *, done: Set[str] = frozenset(), refusals: Set[str] = frozenset()
    ) -> Any:
        """None when time is up before. Raises Refused."""
        while not self.stop.is_set():
            if (answer := self._once(call, done=done, refusals=refusals)) is not None:
                return answer
            self.stop.wait(0.1)
        return None

    def _once(self, call: Callable[[], Any], *, done: Set[str] = frozenset(), refusals: Set[str] = frozenset()) -> Any:
        """None without an answer: it may have happened. `done`: error codes that say that it has happened already."""
        try:
            answer = call()
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in done:
                self.answered += 1
                return True
            if code in _FULL or code in refusals:
                self.refused += 1
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

    def _name(self) -> str:
        self._count += 1
        return f"{self.name}-{self._count}"
