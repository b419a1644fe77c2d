"""DescribeRegions and DescribeAvailabilityZones: from the configuration, as it is the same for everybody."""

from __future__ import annotations

from collections.abc import Iterable

from common.errors import InvalidArgument
from mallee.ec2.v1 import region_pb2 as ec2
from services.clc.filters import FilterTable
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

_REGION_FILTERS = FilterTable[ec2.Region](
    "ec2.DescribeRegions",
    {
        "endpoint": lambda r: r.endpoint,
        "region-name": lambda r: r.region_name,
        "opt-in-status": lambda r: r.opt_in_status,
    },
)
_ZONE_FILTERS = FilterTable[ec2.AvailabilityZone](
    "ec2.DescribeAvailabilityZones",
    {
        "group-long-name": lambda z: z.group_long_name,
        "group-name": lambda z: z.group_name,
        "message": lambda z: [m.message for m in z.messages],
        "opt-in-status": lambda z: z.opt_in_status,
        "region-name": lambda z: z.region_name,
        "state": lambda z: z.state,
        "zone-id": lambda z: z.zone_id,
        "zone-name": lambda z: z.zone_name,
        "zone-type": lambda z: z.zone_type,
    },
    absent=("parent-zone-id", "parent-zone-name"),
)


@use_case("ec2.DescribeRegions")
async def describe_regions(cloud: Cloud, call: Call, request: ec2.DescribeRegionsRequest) -> ec2.DescribeRegionsResult:
    matches = _REGION_FILTERS.matcher(request.filters)
    # There is one region, and it needs no opt-in: all regions are the enabled ones.
    _ = request.all_regions
    end_dry_run(request)
    name = cloud.config.region
    _check_names(request.region_names, [name], "region")
    # As on AWS without a scheme. Clients that connect to what they are told stay in this cloud; the port is not 443.
    endpoint = cloud.config.facade_address
    region = ec2.Region(region_name=name, endpoint=endpoint, opt_in_status="opt-in-not-required")
    return ec2.DescribeRegionsResult(regions=[region] if matches(region) else [])


@use_case("ec2.DescribeAvailabilityZones")
async def describe_availability_zones(
    cloud: Cloud, call: Call, request: ec2.DescribeAvailabilityZonesRequest
) -> ec2.DescribeAvailabilityZonesResult:
    matches = _ZONE_FILTERS.matcher(request.filters)
    _ = request.all_availability_zones
    end_dry_run(request)
    zones = [_zone(cloud, index) for index in range(len(cloud.config.zones))]
    _check_names(request.zone_names, [z.zone_name for z in zones], "availability zone")
    _check_names(request.zone_ids, [z.zone_id for z in zones], "availability zone id")
    return ec2.DescribeAvailabilityZonesResult(
        availability_zones=[
            zone
            for zone in zones
            if matches(zone)
            and (not request.zone_names or zone.zone_name in request.zone_names)
            and (not request.zone_ids or zone.zone_id in request.zone_ids)
        ]
    )


def zone_id(cloud: Cloud, zone: str) -> str:
    """use1-az1 for the first zone of us-east-1 …: AWS's short form of the region and the zone's place."""
    words = cloud.config.region.split("-")
    index = [z.name for z in cloud.config.zones].index(zone) if any(z.name == zone for z in cloud.config.zones) else 0
    middle = "".join(_SHORT.get(word, word[:1]) for word in words[1:-1])
    return f"{words[0]}{middle}{words[-1]}-az{index + 1}"


_SHORT = {"northeast": "ne", "northwest": "nw", "southeast": "se", "southwest": "sw", "gov": "g"}


def _zone(cloud: Cloud, index: int) -> ec2.AvailabilityZone:
    name, region = cloud.config.zones[index].name, cloud.config.region
    reachable = any(cluster.zone == name and cluster.connected for cluster in cloud.clusters)
    return ec2.AvailabilityZone(
        zone_name=name,
        zone_id=zone_id(cloud, name),
        region_name=region,
        group_name=f"{region}-zg-1",
        network_border_group=region,
        zone_type="availability-zone",
        opt_in_status="opt-in-not-required",
        state="available" if reachable else "impaired",
        messages=[] if reachable else [ec2.AvailabilityZoneMessage(message="No cluster controller leads this zone.")],
    )


def _check_names(given: Iterable[str], known: list[str], words: str) -> None:
    wrong = [name for name in given if name not in known]
    if wrong:
        raise InvalidArgument(f"Invalid {words}: [{', '.join(wrong)}]")
