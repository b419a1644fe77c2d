"""CreateTags, DeleteTags, DescribeTags: tags live in the record of the resource they are on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from common.errors import InvalidArgument, NoCapacity
from mallee.ec2.v1 import tag_pb2 as ec2
from services.clc.filters import FilterTable
from services.clc.instance.metadata_options import check_tag_keys
from services.clc.listing import max_results_of
from services.clc.lookup import INSTANCE
from services.clc.paging import page
from services.clc.store import until_committed
from services.clc.tag import rules
from services.clc.tag.carriers import Carrier, Drafts, all_carriers, find_carriers
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

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
        raise InvalidArgument("You must specify one or more tags to create")

    async def attempt() -> ec2.CreateTagsResponse:
        drafts = Drafts()
        for carrier in _carriers(cloud, call, request.resources):
            draft = drafts.of(carrier.stored)
            tags = carrier.tags(draft)
            merged = rules.merged(tags, given)
            if carrier.resource_type == INSTANCE.resource_type:
                check_tag_keys(draft.metadata_options, given)
            tags.clear()
            tags.update(merged)
        end_dry_run(request)
        await cloud.store.commit(drafts.changes())
        return ec2.CreateTagsResponse()

    return await until_committed(attempt)


@use_case("ec2.DeleteTags")
async def delete_tags(cloud: Cloud, call: Call, request: ec2.DeleteTagsRequest) -> ec2.DeleteTagsResponse:
    for tag in request.tags:
        rules.check_lengths(tag)

    async def attempt() -> ec2.DeleteTagsResponse:
        drafts = Drafts()
        for carrier in _carriers(cloud, call, request.resources):
            _take_off(carrier.tags(drafts.of(carrier.stored)), request.tags)
        end_dry_run(request)
        if changes := drafts.changes():
            await cloud.store.commit(changes)
        return ec2.DeleteTagsResponse()

    return await until_committed(attempt)


@use_case("ec2.DescribeTags")
async def describe_tags(cloud: Cloud, call: Call, request: ec2.DescribeTagsRequest) -> ec2.DescribeTagsResult:
    matches, limit = _FILTERS.matcher(request.filters), max_results_of(request, or_less=True)
    end_dry_run(request)
    everything = sorted(_all_tags(cloud, call), key=_key)
    shown, token = page((tag for tag in everything if matches(tag)), key=_key, max_results=limit, request=request)
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


def _carriers(cloud: Cloud, call: Call, ids: Sequence[str]) -> list[Carrier]:
    """Raises InvalidArgument (InvalidID) for an id of no known kind, NotFound as its own kind says it."""
    if not ids:
        raise InvalidArgument("The request must contain the parameter resourceIdSet", code="MissingParameter")
    if len(ids) > _MAX_RESOURCES:
        raise NoCapacity(f"At most {_MAX_RESOURCES} resources can be tagged at once", code="TagLimitExceeded")
    return find_carriers(cloud.store, call.account_id, ids)


def _all_tags(cloud: Cloud, call: Call) -> Iterator[ec2.TagDescription]:
    for carrier in all_carriers(cloud.store, call.account_id):
        for key, value in carrier.tags(carrier.stored.record).items():
            yield ec2.TagDescription(
                resource_id=carrier.resource_id, resource_type=carrier.resource_type, key=key, value=value
            )
