"""What EC2's own clients and tests know by heart: its exact words for a mistake, and small habits of its answers."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from services.clc.clock import timestamp
from tests.service.clc.asking import answer
from tests.service.clc.snapshot_requests import snapshot_record, store, volume_record
from tests.service.clc.stage import Stage


async def asked(stage: Stage, action: str, **parameters: str) -> ElementTree.Element:
    """The answer without its namespace; a name's two underscores are a dot."""
    given = {name.replace("__", "."): value for name, value in parameters.items()}
    return ElementTree.fromstring(re.sub(b' xmlns="[^"]*"', b"", (await answer(stage, action, given)).body))


@pytest.mark.parametrize(
    ("action", "parameters", "code", "words"),
    [
        ("DescribeInstances", {"InstanceId.1": "i-xyz"}, "InvalidInstanceID.Malformed", 'Invalid id: "i-xyz"'),
        (
            "DescribeInstances",
            {"InstanceId.1": "web"},
            "InvalidInstanceID.Malformed",
            'Invalid id: "web" (expecting "i-...")',
        ),
        (
            "DescribeSecurityGroups",
            {"GroupId.1": "default"},
            "InvalidGroupId.Malformed",
            'Invalid id: "default" (expecting "sg-...")',
        ),
        (
            "CreateTags",
            {"ResourceId.1": "ami-blah", "Tag.1.Key": "a", "Tag.1.Value": ""},
            "InvalidID",
            "The ID 'ami-blah' is not valid",
        ),
        (
            "DeleteTags",
            {"ResourceId.1": "sgr-blah", "Tag.1.Key": "a"},
            "InvalidID",
            "The ID 'sgr-blah' is not valid",
        ),
        (
            "RunInstances",
            {"ImageId": "ami-1", "MinCount": "1", "MaxCount": "1", "Placement.Tenancy": "mine"},
            "InvalidParameterValue",
            "Value (mine) for parameter Placement.Tenancy is invalid. Expecting one of: default, dedicated, host.",
        ),
        (
            "DescribeRouteTables",
            {"MaxResults": "101"},
            "InvalidParameterValue",
            "Value ( 101 ) for parameter maxResults is invalid. Expecting a value less than 100.",
        ),
        (
            "CreateSecurityGroup",
            {"GroupName": "web", "GroupDescription": "<b>"},
            "InvalidParameterValue",
            "Value (<b>) for parameter GroupDescription is invalid. Valid names and descriptions are strings less than"
            " 256 characters from the following set: a-zA-Z0-9. _-:/()#,@[]+=&;{}!$*",
        ),
        ("StopInstances", {}, "InvalidParameterCombination", "No instances specified"),
        (
            "CreateTags",
            {"ResourceId.1": "vol-0123456789abcdef0", "Tag.1.Key": "a"},
            "InvalidParameterValue",
            "Tag value cannot be null. Use empty string instead.",
        ),
        (
            "DescribeImageAttribute",
            {"ImageId": "ami-0123456789abcdef0", "Attribute": "nonsense"},
            "InvalidRequest",
            "The request received was invalid.",
        ),
        (
            "ResetImageAttribute",
            {"ImageId": "ami-0123456789abcdef0", "Attribute": "description"},
            "InvalidRequest",
            "The request received was invalid.",
        ),
        *(
            ("ModifyImageAttribute", {"ImageId": "ami-0123456789abcdef0"} | given, code, words)
            for given, code, words in (
                ({}, "InvalidParameterCombination", "No attributes specified."),
                ({"Attribute": "nonsense"}, "InvalidParameterCombination", "No attributes specified."),
                ({"Attribute": "kernel"}, "InvalidParameter", "Parameter kernel is invalid. It cannot be modified."),
                (
                    {"Attribute": "description"},
                    "MissingParameter",
                    "The request must contain the parameter description",
                ),
                (
                    {"Attribute": "launchPermission"},
                    "InvalidParameterCombination",
                    "No operation specified for launchPermission attribute.",
                ),
            )
        ),
        (
            "ModifyInstanceAttribute",
            {"InstanceId": "i-0123456789abcdef0", "Attribute": "disableApiTermination"},
            "MissingParameter",
            "The request must contain the parameter value",
        ),
        (
            "RebootInstances",
            {"InstanceId.1": "i-0"},
            "InvalidInstanceID.NotFound",
            "The instance ID 'i-0' does not exist",
        ),
        (
            "CreateKeyPair",
            {"KeyName": " a"},
            "InvalidParameterValue",
            "Invalid value ' a' for keyName. It should be trimmed",
        ),
        (
            "CreateSnapshot",
            {"VolumeId": "nonsense"},
            "InvalidParameterValue",
            "Value (nonsense) for parameter volumeId is invalid. Expected: 'vol-...'.",
        ),
        *(
            (f"{verb}SnapshotAttribute", {"SnapshotId": "snap-0123456789abcdef0"} | given, code, words)
            for verb, given, code, words in (
                ("Describe", {"Attribute": "nonsense"}, "InvalidRequest", "The request received was invalid."),
                ("Reset", {"Attribute": "productCodes"}, "InvalidRequest", "The request received was invalid."),
                ("Modify", {}, "InvalidParameterCombination", "No attributes specified."),
                (
                    "Modify",
                    {"Attribute": "createVolumePermission", "UserId.1": "123456789012"},
                    "InvalidParameterCombination",
                    "No operation specified for createVolumePermission attribute.",
                ),
                (
                    "Modify",
                    {
                        "CreateVolumePermission.Add.1.Group": "all",
                        "CreateVolumePermission.Remove.1.UserId": "123456789012",
                    },
                    "InvalidParameterCombination",
                    "One and only one operation type may be specified for createVolumePermissions",
                ),
            )
        ),
        (
            "ModifyInstanceAttribute",
            {"InstanceId": "i-0123456789abcdef0", "Attribute": "nonsense"},
            "InvalidParameterValue",
            "Value (nonsense) for parameter attribute is invalid. Unknown attribute.",
        ),
    ],
)
async def test_a_mistake_is_told_in_ec2s_words(
    stage: Stage, action: str, parameters: dict[str, str], code: str, words: str
) -> None:
    told = await asked(stage, action, **parameters)
    assert (told.findtext(".//Error/Code"), told.findtext(".//Error/Message")) == (code, words)


@pytest.mark.parametrize("action", ["DescribeTags", "DescribeVolumes", "DescribeSnapshots", "DescribeVolumeStatus"])
async def test_more_than_a_page_holds_may_be_asked_for(stage: Stage, action: str) -> None:
    assert (await asked(stage, action, MaxResults="1001")).find(".//Error") is None


async def test_named_groups_go_with_no_named_subnet(stage: Stage, image_id: str) -> None:
    subnet = (await asked(stage, "DescribeSubnets")).findtext(".//subnetId", "")
    launch = {"ImageId": image_id, "MinCount": "1", "MaxCount": "1", "SecurityGroup.1": "default", "SubnetId": subnet}
    told = await asked(stage, "RunInstances", **launch)
    assert told.findtext(".//Code") == "InvalidParameterCombination"
    assert told.findtext(".//Message") == "The parameter groupName cannot be used with the parameter subnet"


async def test_a_pending_instance_says_so_as_its_reason_and_its_times_are_whole_seconds(
    stage: Stage, image_id: str
) -> None:
    made = await asked(stage, "RunInstances", ImageId=image_id, MinCount="1", MaxCount="1")
    assert made.findtext(".//stateReason/code") == made.findtext(".//stateReason/message") == "pending"
    launched = made.findtext(".//launchTime", "")
    assert launched.endswith(".000Z")
    assert made.findtext(".//attachTime") == launched
    for action, name, found in (
        ("DescribeInstances", "launch-time", ".//instanceId"),
        ("DescribeNetworkInterfaces", "attachment.attach-time", ".//instanceId"),
    ):
        shown = await asked(stage, action, Filter__1__Name=name, Filter__1__Value__1=launched)
        assert made.findtext(".//instanceId") in [element.text for element in shown.iterfind(found)]


@pytest.mark.parametrize(
    ("action", "name", "time", "found"),
    [
        ("DescribeVolumes", "create-time", ".//createTime", ".//volumeId"),
        ("DescribeSnapshots", "start-time", ".//startTime", ".//snapshotId"),
    ],
)
async def test_what_is_told_with_its_milliseconds_is_found_by_them(
    stage: Stage, action: str, name: str, time: str, found: str
) -> None:
    created = timestamp(stage.now + 0.123)
    await store(stage, volume_record(stage, created=created), snapshot_record(stage, started=created))
    (told,) = (await asked(stage, action)).iterfind(time)
    assert str(told.text).endswith(".123Z")
    shown = await asked(stage, action, Filter__1__Name=name, Filter__1__Value__1=str(told.text))
    assert shown.find(found) is not None


async def test_the_end_of_a_groups_name_loses_its_spaces(stage: Stage) -> None:
    made = await asked(stage, "CreateSecurityGroup", GroupName="trimmed  ", GroupDescription="of spaces")
    shown = await asked(stage, "DescribeSecurityGroups", GroupId__1=made.findtext(".//groupId", ""))
    assert shown.findtext(".//groupName") == "trimmed"
    again = await asked(stage, "CreateSecurityGroup", GroupName="trimmed", GroupDescription="of spaces")
    assert again.findtext(".//Code") == "InvalidGroup.Duplicate"


async def test_types_of_a_burstable_name_have_their_cpus_all_the_time(stage: Stage, image_id: str) -> None:
    made = {}
    for kind in ("t2.micro", "m5.large"):
        launch = await asked(stage, "RunInstances", ImageId=image_id, MinCount="1", MaxCount="1", InstanceType=kind)
        made[kind] = launch.findtext(".//instanceId", "")
        told = await asked(stage, "DescribeInstanceTypes", InstanceType__1=kind)
        assert told.findtext(".//burstablePerformanceSupported") == str(kind == "t2.micro").lower()
    for more in ({}, {"InstanceId.1": made["t2.micro"]}):
        shown = await asked(stage, "DescribeInstanceCreditSpecifications", **more)
        assert [e.text for e in shown.iterfind(".//instanceId")] == [made["t2.micro"]]
        assert shown.findtext(".//cpuCredits") == "unlimited"
    refused = await asked(stage, "DescribeInstanceCreditSpecifications", InstanceId__1=made["m5.large"])
    assert refused.findtext(".//Code") == "UnsupportedOperation"
    launch_of_m5 = {"ImageId": image_id, "MinCount": "1", "MaxCount": "1", "InstanceType": "m5.large"}
    refused = await asked(stage, "RunInstances", **launch_of_m5, CreditSpecification__CpuCredits="unlimited")
    assert refused.findtext(".//Code") == "InvalidParameterCombination"
