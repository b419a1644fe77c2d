"""CreateKeyPair, ImportKeyPair, DescribeKeyPairs, DeleteKeyPair."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from common.errors import AlreadyExists, InvalidArgument
from common.ids import KeyPairId
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import key_pair_pb2 as ec2
from services.clc.clock import timestamp
from services.clc.filters import FilterTable
from services.clc.key_pair import material
from services.clc.lookup import KEY_PAIR
from services.clc.store import Changes, Store, Stored, sorted_by_creation, until_committed
from services.clc.tag import rules as tags
from services.clc.tag.view import as_mapping, shown
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

_MAX_NAME = 255
_FILTERS = FilterTable[ec2.KeyPairInfo](
    "ec2.DescribeKeyPairs",
    {
        "key-pair-id": lambda k: k.key_pair_id,
        "key-name": lambda k: k.key_name,
        "fingerprint": lambda k: k.key_fingerprint,
    },
    tags=lambda k: as_mapping(k.tags),
)


@use_case("ec2.CreateKeyPair")
async def create_key_pair(cloud: Cloud, call: Call, request: ec2.CreateKeyPairRequest) -> ec2.KeyPair:
    _check_name(request.key_name)
    given_tags = tags.from_specifications(request.tag_specifications, allowed=["key-pair"])["key-pair"]
    key_format = material.check_format(request.key_format or "pem")
    key_type = material.check_type(request.key_type or "rsa")
    _check_free(cloud.store, call.account_id, request.key_name)
    end_dry_run(request)
    key = await asyncio.to_thread(material.create, key_type, key_format=key_format, name=request.key_name)
    record = await _store(cloud, call, request.key_name, key.public, given_tags)
    return ec2.KeyPair(
        key_pair_id=record.key_pair_id,
        key_name=record.name,
        key_fingerprint=record.fingerprint,
        key_material=key.private,
        tags=shown(record.tags),
    )


@use_case("ec2.ImportKeyPair")
async def import_key_pair(cloud: Cloud, call: Call, request: ec2.ImportKeyPairRequest) -> ec2.ImportKeyPairResult:
    _check_name(request.key_name)
    given_tags = tags.from_specifications(request.tag_specifications, allowed=["key-pair"])["key-pair"]
    if not request.public_key_material:
        raise InvalidArgument("The request must contain the parameter PublicKeyMaterial", code="MissingParameter")
    public = material.read_public(request.public_key_material)
    _check_free(cloud.store, call.account_id, request.key_name)
    end_dry_run(request)
    record = await _store(cloud, call, request.key_name, public, given_tags)
    return ec2.ImportKeyPairResult(
        key_pair_id=record.key_pair_id,
        key_name=record.name,
        key_fingerprint=record.fingerprint,
        tags=shown(record.tags),
    )


@use_case("ec2.DescribeKeyPairs")
async def describe_key_pairs(
    cloud: Cloud, call: Call, request: ec2.DescribeKeyPairsRequest
) -> ec2.DescribeKeyPairsResult:
    matches = _FILTERS.matcher(request.filters)
    if request.key_pair_ids and request.key_names:
        raise InvalidArgument(
            "The parameter 'keyPairId' may not be used in combination with 'keyName'",
            code="InvalidParameterCombination",
        )
    end_dry_run(request)
    found: Iterable[Stored[record_pb2.KeyPairRecord]]
    if request.key_pair_ids:
        found = _of_ids(cloud.store, call.account_id, request.key_pair_ids)
    elif request.key_names:
        if not all(name.strip() for name in request.key_names):
            raise InvalidArgument("Invalid value '' for keyPairNames. It should not be blank")
        found = named(cloud.store, call.account_id, request.key_names)
    else:
        found = cloud.store.owned(record_pb2.KeyPairRecord, call.account_id)
    views = [_view(key.record, with_public_key=request.include_public_key) for key in sorted_by_creation(found)]
    return ec2.DescribeKeyPairsResult(key_pairs=[view for view in views if matches(view)])


@use_case("ec2.DeleteKeyPair")
async def delete_key_pair(cloud: Cloud, call: Call, request: ec2.DeleteKeyPairRequest) -> ec2.DeleteKeyPairResult:
    if not request.key_pair_id and not request.key_name:
        raise InvalidArgument("The request must contain the parameter keyName or keyPairId", code="MissingParameter")
    if request.key_pair_id and request.key_name:
        raise InvalidArgument(
            "The parameter keyName cannot be used with the parameter keyPairId", code="InvalidParameterCombination"
        )
    if request.key_pair_id:
        KEY_PAIR.check(request.key_pair_id)
    else:
        _check_name(request.key_name)
    end_dry_run(request)

    async def attempt() -> ec2.DeleteKeyPairResult:
        store = cloud.store
        key_id = request.key_pair_id or store.holder(_claim(call.account_id, request.key_name)) or ""
        found = store.get(record_pb2.KeyPairRecord, key_id)
        # One that is not there is deleted already, as EC2 has it.
        if found is None or found.record.account_id != call.account_id:
            return ec2.DeleteKeyPairResult(return_value=True)
        changes = Changes()
        changes.delete(found)
        changes.release(_claim(call.account_id, found.record.name))
        await store.commit(changes)
        return ec2.DeleteKeyPairResult(return_value=True, key_pair_id=key_id)

    return await until_committed(attempt)


def named(store: Store, account_id: str, names: Iterable[str]) -> list[Stored[record_pb2.KeyPairRecord]]:
    """Raises NotFound for the first name that the account has no key pair of."""
    found = []
    for name in dict.fromkeys(names):
        key = store.get(record_pb2.KeyPairRecord, store.holder(_claim(account_id, name)) or "")
        if key is None:
            raise KEY_PAIR.missing([name])
        found.append(key)
    return found


def _of_ids(store: Store, account_id: str, ids: Iterable[str]) -> list[Stored[record_pb2.KeyPairRecord]]:
    """EC2 calls an id that the account has no key pair of an invalid value, whatever it looks like."""
    found = []
    for given in dict.fromkeys(ids):
        key = store.get(record_pb2.KeyPairRecord, given) if KEY_PAIR.fits(given) else None
        if key is None or key.record.account_id != account_id:
            raise InvalidArgument(f"Invalid value '{given}' for keyPairId.")
        found.append(key)
    return found


async def _store(
    cloud: Cloud, call: Call, name: str, public: material.PublicKey, given_tags: dict[str, str]
) -> record_pb2.KeyPairRecord:
    record = record_pb2.KeyPairRecord(
        key_pair_id=KeyPairId.new(),
        account_id=call.account_id,
        name=name,
        key_type=public.key_type,
        fingerprint=public.fingerprint,
        public_key=public.openssh,
        created=timestamp(call.now),
        tags=given_tags,
    )

    async def attempt() -> record_pb2.KeyPairRecord:
        _check_free(cloud.store, call.account_id, name)
        changes = Changes()
        changes.create(record)
        changes.claim(_claim(call.account_id, name), record.key_pair_id)
        await cloud.store.commit(changes)
        return record

    return await until_committed(attempt)


def _check_name(name: str) -> None:
    if not name:
        raise InvalidArgument("The request must contain the parameter KeyName", code="MissingParameter")
    if len(name) > _MAX_NAME or not name.isascii() or not name.isprintable():
        raise InvalidArgument(f"Value ({name}) for parameter KeyName is invalid: at most {_MAX_NAME} ASCII characters.")
    if name.strip() != name:
        raise InvalidArgument(f"Invalid value '{name}' for keyName. It should be trimmed")


def _check_free(store: Store, account_id: str, name: str) -> None:
    if store.holder(_claim(account_id, name)):
        raise AlreadyExists(f"The keypair '{name}' already exists.", code="InvalidKeyPair.Duplicate")


def _claim(account_id: str, name: str) -> str:
    return f"key-name/{account_id}/{name}"


def _view(key: record_pb2.KeyPairRecord, *, with_public_key: bool) -> ec2.KeyPairInfo:
    return ec2.KeyPairInfo(
        key_pair_id=key.key_pair_id,
        key_type=key.key_type,
        key_name=key.name,
        key_fingerprint=key.fingerprint,
        create_time=key.created,
        public_key=f"{key.public_key} {key.name}\n" if with_public_key else None,
        tags=shown(key.tags),
    )
