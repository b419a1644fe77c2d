"""CreateTags, DeleteTags, DescribeTags: tags live in the record of the resource they are on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from google.protobuf.message import Message

from common.errors import InvalidArgument, NoCapacity
from mallee.ec2.v1 import tag_pb2 as ec2
from services.clc.filters import FilterTable
from services.clc.lookup import NOUNS, Noun, own
from services.clc.paging import page
from services.clc.store import Changes, Stored, until_committed
from services.clc.tag import rules
from services.clc.use_case import Call, Cloud, end_dry_run, use_case
from services.clc.vpc.describe import max_results_of

_MAX_RESOURCES: Final = 1000

_FILTERS = FilterTable[ec2.TagDescription](
    "ec2.DescribeTags",
    {
        "key": lambda t: t.key,
        "resource-id": lambda t: t.resource_id,
        "resource-type": lambda t: t.resource_type,
        "value": lambda t: t.value,
    },
    tags=lambda t: {t.key: t.value},
)


@use_case("ec2.CreateTags")
async def create_tags(cloud: Cloud, call: Call, request: ec2.CreateTagsRequest) -> ec2.CreateTagsResponse:
    given = rules.checked(request.tags)
    if not given:
        raise InvalidArgument("The request must contain the parameter tagSet", code="MissingParameter")

    async def attempt() -> ec2.CreateTagsResponse:
        changes = Changes()
        for stored in _resources(cloud, call, request.resources):
            draft: Any = stored.draft()
            merged = rules.merged(draft.tags, given)
            draft.tags.clear()
            draft.tags.update(merged)
            changes.update(stored, draft)
        end_dry_run(request)
        await cloud.store.commit(changes)
        return ec2.CreateTagsResponse()

    return await until_committed(attempt)


@use_case("ec2.DeleteTags")
async def delete_tags(cloud: Cloud, call: Call, request: ec2.DeleteTagsRequest) -> ec2.DeleteTagsResponse:
    for tag in request.tags:
        rules.check_key(tag.key)

    async def attempt() -> ec2.DeleteTagsResponse:
        changes = Changes()
        for stored in _resources(cloud, call, request.resources):
            draft: Any = stored.draft()
            _take_off(draft.tags, request.tags)
            if draft != stored.record:
                changes.update(stored, draft)
        end_dry_run(request)
        if changes:
            await cloud.store.commit(changes)
        return ec2.DeleteTagsResponse()

    return await until_committed(attempt)


@use_case("ec2.DescribeTags")
async def describe_tags(cloud: Cloud, call: Call, request: ec2.DescribeTagsRequest) -> ec2.DescribeTagsResult:
    matches, limit = _FILTERS.matcher(request.filters), max_results_of(request)
    end_dry_run(request)
    everything = sorted(_all_tags(cloud, call), key=_key)
    shown, token = page(
        (tag for tag in everything if matches(tag)), key=_key, max_results=limit, token=request.next_token
    )
    return ec2.DescribeTagsResult(tags=shown, next_token=token)


def _key(tag: ec2.TagDescription) -> str:
    return f"{tag.resource_id}\0{tag.key}"


def _take_off(tags: Any, named: Sequence[ec2.Tag]) -> None:
    """A tag named with a value goes only if the value is its own; without any names, all go."""
    if not named:
        tags.clear()
    for tag in named:
        if tag.key in tags and (not tag.HasField("value") or tags[tag.key] == tag.value):
            del tags[tag.key]


def _resources(cloud: Cloud, call: Call, ids: Sequence[str]) -> list[Stored[Message]]:
    """Raises InvalidArgument (InvalidID) for an id of no known kind, NotFound as its own kind says it."""
    if not ids:
        raise InvalidArgument("The request must contain the parameter resourceIdSet", code="MissingParameter")
    if len(ids) > _MAX_RESOURCES:
        raise NoCapacity(f"At most {_MAX_RESOURCES} resources can be tagged at once", code="TagLimitExceeded")
    return [own(cloud.store, _noun_of(given), call.account_id, given) for given in dict.fromkeys(ids)]


def _noun_of(given: str) -> Noun[Message]:
    prefix = given.rpartition("-")[0]
    for noun in NOUNS:
        if prefix in noun.prefixes:
            return noun
    raise InvalidArgument(f"The ID '{given}' is not valid", code="InvalidID")


def _all_tags(cloud: Cloud, call: Call) -> Iterator[ec2.TagDescription]:
    for noun in NOUNS:
        for stored in cloud.store.owned(noun.record, call.account_id):
            record: Any = stored.record
            resource_id = stored.key.rpartition("/")[2]
            for key, value in record.tags.items():
                yield ec2.TagDescription(
                    resource_id=resource_id, resource_type=noun.resource_type, key=key, value=value
                )
