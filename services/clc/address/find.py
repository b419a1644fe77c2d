"""An account's elastic addresses, by allocation id or by the address itself."""

from __future__ import annotations

import ipaddress

from common.errors import InvalidArgument, NotFound, Unauthenticated
from mallee.clc.v1 import record_pb2
from services.clc.lookup import ADDRESS, own
from services.clc.store import Store, Stored
from services.clc.vpc.addresses import public_claim

Address = Stored[record_pb2.AddressRecord]


def find_address(store: Store, account_id: str, *, allocation_id: str, public_ip: str) -> Address:
    """Exactly one of the two names it. Raises NotFound (InvalidAllocationID.NotFound), or as below."""
    if allocation_id and public_ip:
        raise InvalidArgument(
            "You may specify public IP or allocation id, but not both in the same call",
            code="InvalidParameterCombination",
        )
    if allocation_id:
        return own(store, ADDRESS, account_id, allocation_id)
    if not public_ip:
        raise InvalidArgument("Either public IP or allocation id must be specified", code="MissingParameter")
    return by_public_ip_to_use(store, account_id, public_ip)


def by_public_ip_to_use(store: Store, account_id: str, public_ip: str) -> Address:
    """Raises Unauthenticated (AuthFailure) for one that is not the account's, as EC2 has it where it is not only read.

    (API reference, "Error codes", AuthFailure.)
    """
    try:
        return by_public_ip(store, account_id, public_ip)
    except NotFound:
        raise Unauthenticated(f"The address '{public_ip}' does not belong to you.", code="AuthFailure") from None


def by_public_ip(store: Store, account_id: str, public_ip: str) -> Address:
    try:
        ipaddress.IPv4Address(public_ip)
    except ValueError:
        raise InvalidArgument(f"Invalid IP address: {public_ip}") from None
    found = store.get(record_pb2.AddressRecord, store.holder(public_claim(public_ip)) or "")
    if found is None or found.record.account_id != account_id:
        raise NotFound(f"Address '{public_ip}' not found.", code="InvalidAddress.NotFound")
    return found


def check_border_group(given: str, region: str) -> None:
    if given not in ("", region):
        raise InvalidArgument(f"Value ({given}) for parameter networkBorderGroup is invalid: {region}")
