"""Clients of a running cloud change and read one key at the same time: one order explains what all of them saw."""

from __future__ import annotations

import hashlib
import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from botocore.exceptions import ClientError

from tests.cloud_fixture import RunningCloud
from tests.linearizable import Kind, Operation, is_linearizable

_CLIENTS = 5
_OPERATIONS = 20
_BUCKET = "one-order"


def test_what_clients_saw_of_one_key_has_an_order(fake_cloud: RunningCloud) -> None:
    s3 = fake_cloud.client("s3")
    s3.create_bucket(Bucket=_BUCKET)
    clients = [fake_cloud.client("s3") for _ in range(_CLIENTS)]
    for key in ("first", "second"):
        with ThreadPoolExecutor(_CLIENTS) as pool:
            histories = list(pool.map(lambda n, k=key: _work(clients[n], k, n), range(_CLIENTS)))
        history = [operation for part in histories for operation in part]
        assert is_linearizable(history), sorted(history, key=lambda one: one.began)
        assert {one.kind for one in history} == set(Kind)
        s3.delete_object(Bucket=_BUCKET, Key=key)
    s3.delete_bucket(Bucket=_BUCKET)


def _work(s3: Any, key: str, client: int) -> list[Operation]:
    chance, history = random.Random(f"{key} {client}"), []
    for number in range(_OPERATIONS):
        began = time.monotonic()
        kind, value = _one(s3, key, f"{client} {number} ".encode(), chance)
        history.append(Operation(kind=kind, value=value, began=began, ended=time.monotonic()))
    return history


def _one(s3: Any, key: str, text: bytes, chance: random.Random) -> tuple[Kind, str | None]:
    match chance.randrange(6):
        case 0 | 1:
            # In the index, or a blob.
            body = text * chance.choice((1, 20_000))
            return Kind.PUT, s3.put_object(Bucket=_BUCKET, Key=key, Body=body)["ETag"]
        case 2:
            s3.delete_object(Bucket=_BUCKET, Key=key)
            return Kind.DELETE, None
        case 3:
            found = s3.list_objects_v2(Bucket=_BUCKET, Prefix=key).get("Contents", [])
            return Kind.READ, found[0]["ETag"] if found else None
    try:
        answer = s3.get_object(Bucket=_BUCKET, Key=key)
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchKey":
            raise
        return Kind.READ, None
    etag = f'"{hashlib.md5(answer["Body"].read()).hexdigest()}"'
    assert answer["ETag"] == etag
    return Kind.READ, etag
