"""Which accounts there are, for what names others than its own: bucket policies and ACLs. The CLC knows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from common.errors import Unavailable
from common.policy.document import Policy
from common.policy.principal import invalid_principal, is_identity
from common.rpc.channel import cloud_errors
from common.rpc.peers import Peers
from mallee.clc.v1.service_pb2 import ListAccountsRequest
from mallee.clc.v1.service_pb2_grpc import AdministrationServiceStub
from services.walrus import acl, errors
from services.walrus.drivers.base import Bucket


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    ids: frozenset[str]
    canonical_ids: frozenset[str]


# Raises Unavailable. None: there is nobody to ask.
Ask = Callable[[], Awaitable[Accounts]] | None


def asked_of(clc: Peers) -> Ask:
    async def ask() -> Accounts:
        try:
            with cloud_errors():
                found = (await clc.stub(AdministrationServiceStub).ListAccounts(ListAccountsRequest())).accounts
        except Unavailable as error:
            raise Unavailable(error.message, code="ServiceUnavailable") from error
        return Accounts(
            ids=frozenset(one.account_id for one in found),
            canonical_ids=frozenset(one.canonical_user_id for one in found),
        )

    return ask


async def check_principals(ask: Ask, policy: Policy, bucket: Bucket) -> None:
    """That all whom a bucket's policy names are there. An account's root is the only identity that it has.

    Raises InvalidArgument (MalformedPolicy).
    """
    ids = {one for statement in policy.statements for one in statement.principals.accounts} - {bucket.account_id}
    names = {one for statement in policy.statements for one in statement.principals.names} - {bucket.owner_id}
    identities = set(filter(is_identity, names))
    if ask is None or not (ids or identities):
        return
    known = await ask()
    for account_id in sorted(ids - known.ids):
        raise invalid_principal({"AWS": f"arn:aws:iam::{account_id}:root"})
    for name in sorted(identities - known.canonical_ids):
        raise invalid_principal({"AWS" if name.startswith(("arn:", "A")) else "CanonicalUser": name})


async def check_grantees(ask: Ask, request: Any, owner_id: str) -> None:
    """That all whom a request's ACL names are there, if others than the owner. Raises InvalidArgument."""
    others = acl.named(request) - {owner_id}
    if ask is None or not others:
        return
    known = await ask()
    for unknown in sorted(others - known.canonical_ids):
        raise errors.invalid_argument("Invalid id", name="CanonicalUser/ID", value=unknown)
