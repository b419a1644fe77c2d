"""The rules of an instance's metadata options, and what its node is told of them. Pure.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-options.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from common.errors import InvalidArgument, Unsupported
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import instance_pb2 as ec2
from mallee.nc.v1 import instance_pb2 as nc

Options = record_pb2.MetadataOptionsRecord
Given = (
    ec2.InstanceMetadataOptionsRequest
    | ec2.ModifyInstanceMetadataOptionsRequest
    | ec2.ModifyInstanceMetadataDefaultsRequest
)

MOST_HOPS: Final = 64
_NO_PREFERENCE: Final = "no-preference"
_HOPS: Final = "http_put_response_hop_limit"
# Field of the requests and of the record → AWS's name for it, and its values.
_CHOICES: Final = {
    "http_tokens": ("HttpTokens", ("optional", "required")),
    "http_endpoint": ("HttpEndpoint", ("enabled", "disabled")),
    "instance_metadata_tags": ("InstanceMetadataTags", ("enabled", "disabled")),
}
_DEFAULTS: Final = Options(
    http_tokens="optional",
    http_endpoint="enabled",
    http_put_response_hop_limit=1,
    instance_metadata_tags="disabled",
)
# Tags are paths of the metadata service, so a key may not look like anything else there.
_TAG_KEY: Final = re.compile(r"[0-9a-zA-Z\-_+=,.@:]{1,255}")
_RESERVED_KEYS: Final = frozenset({".", "..", "_index"})


def of_launch(given: ec2.InstanceMetadataOptionsRequest, account_defaults: Options) -> Options:
    """Raises InvalidArgument, Unsupported."""
    options = Options()
    options.CopyFrom(_DEFAULTS)
    # What has no preference is empty there, and an empty member changes nothing here.
    options.MergeFrom(account_defaults)
    take_over(options, given)
    _check_ipv6(given.http_protocol_ipv6)
    return options


def change(options: Options, given: ec2.ModifyInstanceMetadataOptionsRequest) -> None:
    """The members given; the others stay. Raises InvalidArgument, Unsupported."""
    before = options.SerializeToString()
    if not any(given.HasField(field) for field in (*_CHOICES, _HOPS, "http_protocol_ipv6")):  # type: ignore[arg-type]
        raise InvalidArgument("The request must contain at least one metadata option", code="MissingParameter")
    take_over(options, given)
    _check_ipv6(given.http_protocol_ipv6)
    if options.SerializeToString() != before:
        options.unapplied = True


def take_over(options: Options, given: Given, *, or_no_preference: bool = False) -> None:
    """With `or_no_preference` a member may also be emptied. Raises InvalidArgument."""
    for field, (name, choices) in _CHOICES.items():
        if not given.HasField(field):  # type: ignore[arg-type]
            continue
        value = getattr(given, field)
        if value in choices:
            setattr(options, field, value)
        elif or_no_preference and value == _NO_PREFERENCE:
            options.ClearField(field)  # type: ignore[arg-type]
        else:
            raise InvalidArgument(
                f"A value of '{value}' is not valid for {name}. Specify either '{choices[0]}' or '{choices[1]}' and try"
                " again."
            )
    if given.HasField(_HOPS):
        hops = given.http_put_response_hop_limit
        if 1 <= hops <= MOST_HOPS:
            options.http_put_response_hop_limit = hops
        elif or_no_preference and hops == -1:
            options.ClearField(_HOPS)
        else:
            raise InvalidArgument(
                f"A value of '{hops}' is not valid for HttpPutResponseHopLimit. Specify a value between '1' and"
                f" '{MOST_HOPS}' and try again."
            )


def check_tag_keys(options: Options, keys: Iterable[str]) -> None:
    """Of an instance whose guest may read its tags. Raises InvalidArgument."""
    if options.instance_metadata_tags != "enabled":
        return
    for key in keys:
        if not _TAG_KEY.fullmatch(key) or key in _RESERVED_KEYS:
            raise InvalidArgument(
                f"'{key}' is not a valid tag key. Tag keys must match pattern ([0-9a-zA-Z\\\\-_+=,.@:]{{1,255}}), and"
                " must not be a reserved name ('.', '..', '_index')"
            )


def shown(record: record_pb2.InstanceRecord) -> ec2.InstanceMetadataOptionsResponse:
    """`pending` until its node answers by them."""
    options = record.metadata_options
    starts = record.state == record_pb2.INSTANCE_STATE_PENDING
    return ec2.InstanceMetadataOptionsResponse(
        state="pending" if starts or options.unapplied else "applied",
        http_tokens=options.http_tokens,
        http_endpoint=options.http_endpoint,
        http_put_response_hop_limit=options.http_put_response_hop_limit,
        http_protocol_ipv6="disabled",
        instance_metadata_tags=options.instance_metadata_tags,
    )


def told(record: record_pb2.InstanceRecord) -> nc.InstanceMetadata:
    """What the node of the instance answers by."""
    options = record.metadata_options
    return nc.InstanceMetadata(
        options=nc.MetadataOptions(
            tokens_required=options.http_tokens == "required",
            endpoint_disabled=options.http_endpoint == "disabled",
            hop_limit=options.http_put_response_hop_limit,
        ),
        tags=record.tags if options.instance_metadata_tags == "enabled" else {},
    )


def _check_ipv6(given: str) -> None:
    if given not in ("", "disabled"):
        raise Unsupported("HttpProtocolIpv6 'enabled' is not supported.")
