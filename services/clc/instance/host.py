"""Placement.HostId: the one node that a launch is to go to, by the name that `mallee nodes` shows.

For the account that was made with the cloud, which is its operator's. To others a node is what somebody else's
Dedicated Host is on AWS: not there.
"""

from __future__ import annotations

from common.errors import InvalidArgument, NotFound
from services.clc.account.operators import operator_id
from services.clc.use_case import Call, Cloud


def zone_of_host(cloud: Cloud, call: Call, host_id: str, *, wanted_zone: str) -> str:
    """Raises NotFound, and InvalidArgument if it is not in the zone that is wanted (empty: any)."""
    zone = cloud.clusters.zone_of(host_id)
    if zone is None or operator_id(cloud.store) != call.account_id:
        raise NotFound(f"The specified Dedicated Host ID '{host_id}' does not exist.", code="InvalidHostID.NotFound")
    if wanted_zone not in ("", zone):
        raise InvalidArgument(
            f"The host {host_id} is in {zone}, not in {wanted_zone}", code="InvalidParameterCombination"
        )
    return zone
