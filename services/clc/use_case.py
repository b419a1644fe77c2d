"""What a use case is: an async function of the cloud, the call and AWS's request, registered under its action.

    @use_case("ec2.TerminateInstances")
    async def terminate_instances(cloud: Cloud, call: Call, request: ec2.TerminateInstancesRequest) -> …Result: …

The handlers are built from the contract's descriptors (service.py); no file lists them all.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from common.config import CloudConfig
from common.errors import WrongState
from mallee.common.v1.caller_pb2 import Caller
from services.clc.clock import Clock
from services.clc.store import Store

if TYPE_CHECKING:
    from services.clc.clusters import Clusters
    from services.clc.storage import Storage
    from services.clc.volume.attached import Attached
    from services.clc.vpc.addresses import AddressBook
    from services.clc.walrus import ImageStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """What use cases work with."""

    config: CloudConfig
    store: Store
    clock: Clock
    master_key: bytes
    clusters: Clusters
    addresses: AddressBook
    images: ImageStore
    storage: Storage
    attached: Attached


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Who asks, and when."""

    caller: Caller
    request_id: str
    now: float

    @property
    def account_id(self) -> str:
        return self.caller.account_id


UseCase = Callable[[Cloud, Call, Any], Awaitable[Any]]
USE_CASES: dict[str, UseCase] = {}

F = TypeVar("F", bound=UseCase)


def use_case(action: str) -> Callable[[F], F]:
    """`action` is `<service>.<Action>`."""

    def register(function: F) -> F:
        if action in USE_CASES:
            raise ValueError(f"{action} has two use cases")
        USE_CASES[action] = function
        return function

    return register


def load_use_cases() -> None:
    """Imports every noun's modules, which register themselves."""
    here = Path(__file__).parent
    for path in sorted(here.glob("*/*.py")):
        importlib.import_module(".".join(("services.clc", path.parent.name, path.stem)).removesuffix(".__init__"))


class DryRunnable(Protocol):
    dry_run: bool


class DryRun(WrongState):
    """No failure, but EC2 says it with one: 412 Precondition Failed."""

    default_code = "DryRunOperation"


def end_dry_run(request: DryRunnable) -> None:
    """Where everything is checked and nothing is done yet: a dry run ends here, as EC2's do, with an error."""
    if request.dry_run:
        raise DryRun("Request would have succeeded, but DryRun flag is set.")
