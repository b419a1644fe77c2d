"""How many vCPUs an account may use, where its operator set a limit. (EC2 User Guide, "Amazon EC2 instance quotas".)"""

from __future__ import annotations

from common.errors import NoCapacity
from mallee.clc.v1 import record_pb2
from services.clc.instance import rules
from services.clc.store import Changes
from services.clc.use_case import Cloud


def vcpus_claim(account_id: str) -> str:
    """Bumped by each launch."""
    return f"vcpus/{account_id}"


def within_limit(cloud: Cloud, changes: Changes, account_id: str, *, vcpus: int, least: int, most: int) -> int:
    """How many instances of `vcpus` each may be launched. `changes` come to nothing if another launch was faster.

    Raises NoCapacity (VcpuLimitExceeded) below `least`.
    """
    limit = cloud.config.clc.vcpus_per_account
    if not limit:
        return most
    launches = vcpus_claim(account_id)
    changes.unchanged(launches, cloud.store.bumped(launches))
    changes.bump(launches)
    used = sum(
        instance.record.shape.vcpus
        for instance in cloud.store.owned(record_pb2.InstanceRecord, account_id)
        if instance.record.state in (rules.PENDING, rules.RUNNING)
    )
    fit = max(0, limit - used) // vcpus
    if fit < least:
        raise NoCapacity(
            f"You have requested more vCPU capacity than your current vCPU limit of {limit} allows for the instance"
            " bucket that the specified instance type belongs to. Ask the operator of this cloud for more.",
            code="VcpuLimitExceeded",
        )
    return min(most, fit)
