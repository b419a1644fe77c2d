"""DescribeInstanceTypeOfferings: every zone offers every type of the configuration."""

from __future__ import annotations

from common.errors import InvalidArgument
from mallee.ec2.v1 import instance_type_pb2 as ec2
from services.clc.filters import FilterTable
from services.clc.listing import max_results_of
from services.clc.paging import page
from services.clc.region.describe import zone_id
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

_FILTERS = FilterTable[ec2.InstanceTypeOffering](
    "ec2.DescribeInstanceTypeOfferings",
    {"instance-type": lambda o: o.instance_type, "location": lambda o: o.location},
)


@use_case("ec2.DescribeInstanceTypeOfferings")
async def describe_instance_type_offerings(
    cloud: Cloud, call: Call, request: ec2.DescribeInstanceTypeOfferingsRequest
) -> ec2.DescribeInstanceTypeOfferingsResult:
    matches, limit = _FILTERS.matcher(request.filters), max_results_of(request)
    kind = request.location_type or "region"
    locations = _locations(cloud, kind)
    end_dry_run(request)
    offerings = (
        ec2.InstanceTypeOffering(instance_type=name, location_type=kind, location=location)
        for name in sorted(t.name for t in cloud.config.instance_types)
        for location in locations
    )
    shown, token = page(
        filter(matches, offerings),
        key=lambda o: f"{o.instance_type}\0{o.location}",
        max_results=limit,
        request=request,
    )
    return ec2.DescribeInstanceTypeOfferingsResult(instance_type_offerings=shown, next_token=token)


def _locations(cloud: Cloud, kind: str) -> list[str]:
    zones = sorted(zone.name for zone in cloud.config.zones)
    match kind:
        case "region":
            return [cloud.config.region]
        case "availability-zone":
            return zones
        case "availability-zone-id":
            return sorted(zone_id(cloud, zone) for zone in zones)
        case "outpost":
            return []
    raise InvalidArgument(
        f"Value ({kind}) for parameter locationType is invalid: region, availability-zone, availability-zone-id"
    )
