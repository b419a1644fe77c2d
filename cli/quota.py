"""`mallee walrus quota` and `mallee walrus usage`: who may put how much into the object store, and who has."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from typing import Annotated, Any, Final

import typer

from cli.client import Client
from cli.options import Home, site
from cli.output import Json, out, plain_errors, print_json, print_table
from common.errors import InvalidArgument, NotFound
from common.rpc.channel import cloud_errors, connect
from mallee.clc.v1 import service_pb2 as clc
from mallee.walrus.v1 import upkeep_pb2
from mallee.walrus.v1.upkeep_pb2_grpc import UpkeepServiceStub

_UNITS: Final = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50}


def quota(
    home: Home,
    account: Annotated[str, typer.Argument(help="Its name or id; none with --bucket.")] = "",
    bucket: Annotated[str, typer.Option(help="Of one bucket, not of all that the account has.")] = "",
    size: Annotated[str, typer.Option("--bytes", help="As 500M or 2T; not given: no limit.")] = "",
    objects: Annotated[
        int | None, typer.Option(min=0, help="Versions and delete markers count; not given: no limit.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Limits what an account or a bucket may hold; without limits it takes them away. What stands there stays."""
    with plain_errors():
        if bool(account) == bool(bucket):
            raise InvalidArgument("name an account, or a bucket with --bucket")
        client = Client.of(site(home))
        request = upkeep_pb2.PutQuotaRequest(bytes=bytes_of(size) if size else None, objects=objects)
        if bucket:
            request.bucket = bucket
        else:
            request.account_id = _account_id(client, account)
        asyncio.run(_put(client, request))
    shown = {"Bytes": request.bytes if size else None, "Objects": objects}
    if as_json:
        print_json({"Bucket": bucket} | shown if bucket else {"AccountId": request.account_id} | shown)
    else:
        limits = [f"{request.bytes} bytes"] if size else []
        limits += [f"{objects} objects"] if objects is not None else []
        out.print(
            f"{bucket or account} may hold {' and '.join(limits) or 'as much as there is room for'}.", markup=False
        )


def usage(
    home: Home,
    account: Annotated[str, typer.Argument(help="Name or id: shows its buckets.")] = "",
    as_json: Json = False,
) -> None:
    """Shows what accounts, or the buckets of one, hold and may hold."""
    with plain_errors():
        client = Client.of(site(home))
        account_id = _account_id(client, account) if account else ""
        shown = asyncio.run(_usage(client, account_id))
    if as_json:
        print_json(shown)
        return
    rows = [
        (
            one["Bucket"] or one["AccountId"],
            str(one["Objects"]),
            "" if one["QuotaObjects"] is None else str(one["QuotaObjects"]),
            str(one["Bytes"] + one["PartBytes"]),
            "" if one["QuotaBytes"] is None else str(one["QuotaBytes"]),
        )
        for one in shown
    ]
    print_table(("Bucket" if account else "Account", "Objects", "of", "Bytes", "of"), rows)


def bytes_of(text: str) -> int:
    """Of 123, 500M or 2TiB. Raises InvalidArgument."""
    found = re.fullmatch(r"([0-9]+)([KMGTP]?)(?:i?B)?", text)
    if found is None:
        raise InvalidArgument(f"{text!r} is no size: expected one like 123, 500M or 2T")
    return int(found[1]) << _UNITS[found[2]]


def _account_id(client: Client, wanted: str) -> str:
    accounts = client.ask(lambda cloud: cloud.ListAccounts(clc.ListAccountsRequest())).accounts
    found = next((one.account_id for one in accounts if wanted in (one.name, one.account_id)), None)
    if found is None:
        raise NotFound(f"there is no account {wanted!r}")
    return found


async def _put(client: Client, request: upkeep_pb2.PutQuotaRequest) -> None:
    # An account's own process first: the others ask it as soon as they know of the quota.
    home = client.config.walrus.shards.of(request.account_id) if request.account_id else ""
    for member in sorted(client.walruses(request.bucket), key=lambda member: member.id != home):
        async with connect(member.address, client.identity, member.id) as channel:
            await UpkeepServiceStub(channel).PutQuota(request)


async def _usage(client: Client, account_id: str) -> list[dict[str, Any]]:
    shown = []
    for member in client.walruses():
        async with connect(member.address, client.identity, member.id) as channel:
            with cloud_errors():
                answers = UpkeepServiceStub(channel).DescribeUsage(
                    upkeep_pb2.DescribeUsageRequest(account_id=account_id)
                )
                shown += [_held(answer) async for answer in answers]
    return sorted(_together(shown), key=lambda one: (one["AccountId"], one["Bucket"]))


def _together(shown: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """What an account has in several stores, as one. Its quota is the same in all of them."""
    sums: dict[tuple[str, str], dict[str, Any]] = {}
    for one in shown:
        known = sums.setdefault((one["AccountId"], one["Bucket"]), one)
        if known is not one:
            known |= {name: known[name] + one[name] for name in ("Objects", "Bytes", "PartBytes")}
    return sums.values()


def _held(one: upkeep_pb2.DescribeUsageResponse) -> dict[str, Any]:
    return {
        "AccountId": one.account_id,
        "Bucket": one.bucket,
        "Objects": one.objects,
        "Bytes": one.bytes,
        "PartBytes": one.part_bytes,
        "QuotaBytes": one.quota_bytes if one.HasField("quota_bytes") else None,
        "QuotaObjects": one.quota_objects if one.HasField("quota_objects") else None,
    }
