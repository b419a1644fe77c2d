"""AdministrationService: accounts, credentials and the state of the cloud, for the operator."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from common.errors import InvalidArgument, NotFound
from common.etcd.election import Leaders
from common.etcd.membership import Membership
from mallee.clc.v1 import record_pb2, service_pb2, service_pb2_grpc
from services.clc.account import secrets
from services.clc.account.certificates import add_certificate
from services.clc.account.create import create_account
from services.clc.account.delete import delete_account
from services.clc.account.operators import operator_id
from services.clc.instance import rules
from services.clc.store import Store, Stored, sorted_by_creation
from services.clc.use_case import Cloud

_ROLES: Final = ("clc", "walrus", "facade", "cc", "sc", "nc")


class AdministrationService(service_pb2_grpc.AdministrationServiceServicer):
    def __init__(self, cloud: Cloud, membership: Membership, leaders: Leaders) -> None:
        self._cloud = cloud
        self._membership = membership
        self._leaders = leaders

    async def CreateAccount(
        self, request: service_pb2.CreateAccountRequest, context: Any
    ) -> service_pb2.CreateAccountResponse:
        account, key_id, secret = await create_account(self._cloud, request.name)
        return service_pb2.CreateAccountResponse(
            account=_shown(self._cloud.store, account), access_key_id=key_id, secret_access_key=secret
        )

    async def ListAccounts(
        self, request: service_pb2.ListAccountsRequest, context: Any
    ) -> service_pb2.ListAccountsResponse:
        store = self._cloud.store
        accounts = sorted_by_creation(store.all(record_pb2.AccountRecord))
        return service_pb2.ListAccountsResponse(accounts=[_shown(store, a.record) for a in accounts])

    async def DeleteAccount(
        self, request: service_pb2.DeleteAccountRequest, context: Any
    ) -> service_pb2.DeleteAccountResponse:
        await delete_account(self._cloud, find_account(self._cloud.store, request.account), force=request.force)
        return service_pb2.DeleteAccountResponse()

    async def GetCredentials(
        self, request: service_pb2.GetCredentialsRequest, context: Any
    ) -> service_pb2.GetCredentialsResponse:
        store = self._cloud.store
        account = find_account(store, request.account or _operator(store)).record
        key = store.get(record_pb2.AccessKeyRecord, account.first_access_key_id)
        if key is None:
            raise NotFound(f"account {account.name} has no access key")
        return service_pb2.GetCredentialsResponse(
            account=_shown(store, account),
            access_key_id=key.record.access_key_id,
            secret_access_key=secrets.unseal(
                self._cloud.master_key, key.record.access_key_id, key.record.sealed_secret
            ),
        )

    async def AddSigningCertificate(
        self, request: service_pb2.AddSigningCertificateRequest, context: Any
    ) -> service_pb2.AddSigningCertificateResponse:
        store = self._cloud.store
        account_id = find_account(store, request.account or _operator(store)).record.account_id
        await add_certificate(self._cloud, account_id, request.certificate_pem)
        return service_pb2.AddSigningCertificateResponse(account=_shown(store, find_account(store, account_id).record))

    async def DescribeCloud(
        self, request: service_pb2.DescribeCloudRequest, context: Any
    ) -> service_pb2.DescribeCloudResponse:
        cloud = self._cloud
        states = Counter(rules.SHOWN[i.record.state][0] for i in cloud.store.all(record_pb2.InstanceRecord))
        total, free = cloud.addresses.public_total_and_free()
        elections = ["clc", *(f"cc/{zone.name}" for zone in cloud.config.zones)]
        return service_pb2.DescribeCloudResponse(
            members=[member for role in _ROLES for member in self._membership.members(role)],
            leaders=filter(None, map(self._leaders.leader, elections)),
            zones=[
                service_pb2.ZoneStatus(
                    zone=cluster.zone, connected=cluster.connected, nodes=list(cluster.nodes.values())
                )
                for cluster in cloud.clusters
            ],
            instances_by_state=states,
            public_addresses_total=total,
            public_addresses_free=free,
        )


def find_account(store: Store, named: str) -> Stored[record_pb2.AccountRecord]:
    """By id, or by name. Raises InvalidArgument if neither is given, NotFound."""
    if not named:
        raise InvalidArgument("say which account: its name or its id")
    account = store.get(record_pb2.AccountRecord, named) or store.get(
        record_pb2.AccountRecord, store.holder(f"account-name/{named}") or ""
    )
    if account is None:
        raise NotFound(f"there is no account {named!r}", code="NoSuchEntity")
    return account


def _operator(store: Store) -> str:
    account_id = operator_id(store)
    if account_id is None:
        raise NotFound("there is no account yet", code="NoSuchEntity")
    return account_id


def _shown(store: Store, account: record_pb2.AccountRecord) -> service_pb2.Account:
    return service_pb2.Account(
        account_id=account.account_id,
        name=account.name,
        canonical_user_id=account.canonical_user_id,
        created=account.created,
        access_key_ids=sorted(
            key.record.access_key_id for key in store.owned(record_pb2.AccessKeyRecord, account.account_id)
        ),
    )
