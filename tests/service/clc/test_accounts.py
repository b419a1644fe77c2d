"""The operator's account stays the operator's, and goes only with the cloud; an account is named when it is deleted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from common.errors import AlreadyExists, CloudError, InvalidArgument, NotFound, WrongState
from mallee.clc.v1 import record_pb2
from mallee.clc.v1 import service_pb2 as clc
from services.clc.account.administration import AdministrationService, find_account
from services.clc.account.create import create_account
from services.clc.account.delete import finish_deletion
from services.clc.account.operators import CLAIM, operator_id
from services.clc.instance.host import zone_of_host
from services.clc.store import Changes
from services.clc.use_case import Call
from tests.service.clc.stage import Stage

ALICE, BOB = 0, 1


def administration(stage: Stage) -> AdministrationService:
    nobody: Any = None
    return AdministrationService(stage.cloud, membership=nobody, leaders=nobody)


async def delete(stage: Stage, account: str) -> None:
    await administration(stage).DeleteAccount(clc.DeleteAccountRequest(account=account, force=True), None)


async def default_credentials(stage: Stage) -> str:
    answer = await administration(stage).GetCredentials(clc.GetCredentialsRequest(), None)
    return answer.account.account_id


def ids(stage: Stage) -> list[str]:
    return [caller.account_id for caller in stage.callers]


def going(stage: Stage) -> set[str]:
    return {a.record.name for a in stage.cloud.store.all(record_pb2.AccountRecord) if a.record.deleting}


async def claim_for(stage: Stage, account_id: str | None) -> None:
    """None: as in a cloud that is older than the claim."""
    changes = Changes()
    changes.release(CLAIM)
    await stage.cloud.store.commit(changes)
    if account_id is not None:
        changes = Changes()
        changes.claim(CLAIM, account_id)
        await stage.cloud.store.commit(changes)


def may_name_hosts(stage: Stage, caller: int) -> bool:
    call = Call(caller=stage.callers[caller], request_id="r-1", now=stage.now)
    try:
        return zone_of_host(stage.cloud, call, "nc-us-east-1a-1", wanted_zone="") == "us-east-1a"
    except NotFound:
        return False


async def test_nobody_is_deleted_where_nobody_is_named(stage: Stage) -> None:
    await claim_for(stage, ids(stage)[BOB])
    with pytest.raises(InvalidArgument):
        await delete(stage, "")
    assert not going(stage)
    assert await default_credentials(stage) == ids(stage)[BOB]


@pytest.mark.parametrize("claimed", [True, False])
async def test_the_operators_account_is_not_deleted(stage: Stage, claimed: bool) -> None:
    if not claimed:
        await claim_for(stage, None)
    for named in ("alice", ids(stage)[ALICE]):
        with pytest.raises(WrongState, match=r"account alice is the operator's"):
            await delete(stage, named)
    assert not going(stage)
    await delete(stage, "bob")
    assert await finish_deletion(stage.cloud, ids(stage)[BOB]) is None
    with pytest.raises(NotFound):
        find_account(stage.cloud.store, "bob")
    assert await default_credentials(stage) == ids(stage)[ALICE]


async def test_the_operators_account_is_the_one_on_record_and_not_the_oldest(stage: Stage) -> None:
    assert stage.cloud.store.holder(CLAIM) == ids(stage)[ALICE]
    assert (may_name_hosts(stage, ALICE), may_name_hosts(stage, BOB)) == (True, False)
    await claim_for(stage, ids(stage)[BOB])
    assert (may_name_hosts(stage, ALICE), may_name_hosts(stage, BOB)) == (False, True)
    await delete(stage, "alice")
    assert await finish_deletion(stage.cloud, ids(stage)[ALICE]) is None
    assert operator_id(stage.cloud.store) == ids(stage)[BOB]


@pytest.mark.parametrize("name", ["alice", "carol"])
async def test_an_older_clouds_first_account_is_the_operators_and_put_on_record(stage: Stage, name: str) -> None:
    """By the next account that is asked for, also if it is there: as `mallee up` does."""
    await claim_for(stage, None)
    assert (may_name_hosts(stage, ALICE), may_name_hosts(stage, BOB)) == (True, False)
    assert await default_credentials(stage) == ids(stage)[ALICE]
    try:
        await create_account(stage.cloud, name)
    except AlreadyExists:
        assert name == "alice"
    assert stage.cloud.store.holder(CLAIM) == ids(stage)[ALICE]


@pytest.mark.parametrize("names", [["carol"], ["carol", "dave"]])
async def test_of_accounts_made_first_at_once_one_is_the_operators(stage: Stage, names: list[str]) -> None:
    changes = Changes()
    changes.release(CLAIM)
    for account in list(stage.cloud.store.all(record_pb2.AccountRecord)):
        changes.delete(account)
    await stage.cloud.store.commit(changes)
    assert operator_id(stage.cloud.store) is None
    with pytest.raises(NotFound, match="no account yet"):
        await default_credentials(stage)
    made = await asyncio.gather(*(create_account(stage.cloud, name) for name in names))
    assert stage.cloud.store.holder(CLAIM) in {account.account_id for account, _, _ in made}


async def test_no_account_is_called_as_anothers_id(stage: Stage) -> None:
    for name in (ids(stage)[ALICE], "000000000000"):
        with pytest.raises(InvalidArgument, match="12 digits"):
            await create_account(stage.cloud, name)
    for name in ("1" * 11, "1" * 13, "1" * 12 + "a"):
        account, _, _ = await create_account(stage.cloud, name)
        assert find_account(stage.cloud.store, name).record.account_id == account.account_id


async def test_where_a_name_is_anothers_id_the_id_counts(stage: Stage) -> None:
    alice, bob = ids(stage)
    changes = Changes()
    changes.claim(f"account-name/{bob}", alice)
    await stage.cloud.store.commit(changes)
    assert find_account(stage.cloud.store, bob).record.account_id == bob
    with pytest.raises(CloudError) as caught:
        find_account(stage.cloud.store, "nobody")
    assert caught.value.code == "NoSuchEntity"
