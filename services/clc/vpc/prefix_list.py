"""DescribePrefixLists: no service of this cloud has addresses of its own to list."""

from __future__ import annotations

from mallee.ec2.v1 import prefix_list_pb2 as ec2
from services.clc.filters import FilterTable
from services.clc.listing import max_results_of
from services.clc.lookup import PREFIX_LIST
from services.clc.paging import page
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

_FILTERS = FilterTable[ec2.PrefixList](
    "ec2.DescribePrefixLists",
    {"prefix-list-id": lambda p: p.prefix_list_id, "prefix-list-name": lambda p: p.prefix_list_name},
)


@use_case("ec2.DescribePrefixLists")
async def describe_prefix_lists(
    cloud: Cloud, call: Call, request: ec2.DescribePrefixListsRequest
) -> ec2.DescribePrefixListsResult:
    matches, limit = _FILTERS.matcher(request.filters), max_results_of(request)
    end_dry_run(request)
    for given in request.prefix_list_ids:
        PREFIX_LIST.check(given)
    if request.prefix_list_ids:
        raise PREFIX_LIST.missing(request.prefix_list_ids)
    there: list[ec2.PrefixList] = []
    shown, token = page(filter(matches, there), key=lambda p: p.prefix_list_id, max_results=limit, request=request)
    return ec2.DescribePrefixListsResult(prefix_lists=shown, next_token=token)
