"""Each action on instances that run already, with every member set."""

from __future__ import annotations

from mallee.ec2.v1 import image_pb2, instance_pb2
from mallee.ec2.v1.vpc_pb2 import AttributeBooleanValue
from tests.service.clc.address_requests import booted
from tests.service.clc.making import Make, constantly, image, of, reads, running

# What no instance on an instance store can do: its own refusal is the answer, to a dry run too.
REFUSED = {"StartInstances", "StopInstances"}

INSTANCES: dict[str, Make] = {
    "DescribeInstanceStatus": reads(
        instance_pb2.DescribeInstanceStatusRequest(include_all_instances=True), instance_state_name="*"
    ),
    "DescribeInstanceAttribute": of(
        running, instance_pb2.DescribeInstanceAttributeRequest(attribute="userData"), "instance_id"
    ),
    "ModifyInstanceAttribute": of(
        running,
        instance_pb2.ModifyInstanceAttributeRequest(
            attribute="disableApiTermination", disable_api_termination=AttributeBooleanValue(value=True)
        ),
        "instance_id",
    ),
    "ResetInstanceAttribute": of(
        running, instance_pb2.ResetInstanceAttributeRequest(attribute="sourceDestCheck"), "instance_id"
    ),
    "ModifyInstanceMetadataOptions": of(
        running,
        instance_pb2.ModifyInstanceMetadataOptionsRequest(
            http_tokens="required",
            http_put_response_hop_limit=2,
            http_endpoint="disabled",
            http_protocol_ipv6="disabled",
            instance_metadata_tags="enabled",
        ),
        "instance_id",
    ),
    "ModifyInstanceMetadataDefaults": constantly(
        instance_pb2.ModifyInstanceMetadataDefaultsRequest(
            http_tokens="required",
            http_put_response_hop_limit=2,
            http_endpoint="no-preference",
            instance_metadata_tags="enabled",
        )
    ),
    "GetInstanceMetadataDefaults": constantly(instance_pb2.GetInstanceMetadataDefaultsRequest()),
    "MonitorInstances": of(running, instance_pb2.MonitorInstancesRequest(), "instance_ids"),
    "UnmonitorInstances": of(running, instance_pb2.UnmonitorInstancesRequest(), "instance_ids"),
    "StartInstances": of(running, instance_pb2.StartInstancesRequest(), "instance_ids"),
    "StopInstances": of(running, instance_pb2.StopInstancesRequest(), "instance_ids"),
    "GetConsoleScreenshot": of(booted, instance_pb2.GetConsoleScreenshotRequest(wake_up=True), "instance_id"),
    "GetPasswordData": of(running, instance_pb2.GetPasswordDataRequest(), "instance_id"),
    "DescribeImageAttribute": of(
        image, image_pb2.DescribeImageAttributeRequest(attribute="launchPermission"), "image_id"
    ),
    "ResetImageAttribute": of(image, image_pb2.ResetImageAttributeRequest(attribute="launchPermission"), "image_id"),
}
