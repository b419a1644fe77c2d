"""The Query protocols: what is refused, in whose words, and what an answer looks like to the byte."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from google.protobuf.message import Message

from common.errors import CloudError, NoCapacity, NotFound, Unauthenticated, Unavailable
from ec2_facade.protocol import QueryProtocol
from mallee.ec2.v1 import instance_pb2, key_pair_pb2, security_group_pb2, snapshot_pb2, tag_pb2, volume_pb2
from mallee.sts.v1 import caller_pb2

EC2, STS = QueryProtocol("ec2"), QueryProtocol("sts")
RUN = {"Action": "RunInstances", "Version": "2016-11-15", "ImageId": "ami-1", "MinCount": "1", "MaxCount": "2"}


def refusal(protocol: QueryProtocol, params: dict[str, str]) -> tuple[str, str]:
    with pytest.raises(CloudError) as caught:
        protocol.parse(params)
    return caught.value.code, caught.value.message


@pytest.mark.parametrize(
    ("extra", "code", "message"),
    [
        ({"Nonsense": "1"}, "UnknownParameter", "The parameter Nonsense is not recognized"),
        ({"Nonsense.1.Deep": "1"}, "UnknownParameter", "The parameter Nonsense.1.Deep is not recognized"),
        ({"Placement.Nonsense": "1"}, "UnknownParameter", "The parameter Placement.Nonsense is not recognized"),
        ({"MinCount.1": "1", "MinCount": ""}, "UnknownParameter", "The parameter MinCount.1 is not recognized"),
        ({"SecurityGroupId": "sg-1"}, "UnknownParameter", "The parameter SecurityGroupId is not recognized"),
        ({"SecurityGroupId.x": "sg-1"}, "UnknownParameter", "The parameter SecurityGroupId.x is not recognized"),
        ({"Placement": "here"}, "UnknownParameter", "The parameter Placement is not recognized"),
        ({"LicenseSpecification.1.LicenseConfigurationArn": "a"}, "UnsupportedOperation", "The parameter LicenseSpec"),
        ({"Placement.Affinity": "x"}, "UnsupportedOperation", "The value x of the parameter Placement.Affinity is"),
        ({"Placement.Tenancy": "host"}, "UnsupportedOperation", "The value host of the parameter Placement.Tenancy is"),
        ({"EbsOptimized": "true"}, "UnsupportedOperation", "The value true of the parameter EbsOptimized is not"),
        ({"MaxCount": "many"}, "InvalidParameterValue", "Value (many) for parameter MaxCount is invalid."),
        ({"MaxCount": "2147483648"}, "InvalidParameterValue", "Value (2147483648) for parameter MaxCount is invalid."),
        ({"DryRun": "perhaps"}, "InvalidParameterValue", "Value (perhaps) for parameter DryRun is invalid."),
        ({"Monitoring.Nonsense": "1"}, "UnknownParameter", "The parameter Monitoring.Nonsense is not recognized"),
        ({"Version": "2030-01-01"}, "NoSuchVersion", "The requested version (2030-01-01) of service AmazonEC2"),
        ({"Version": "yesterday"}, "NoSuchVersion", "The requested version (yesterday) of service AmazonEC2"),
        ({"Version": ""}, "MissingParameter", "The request must contain the parameter Version"),
        ({"Action": "FlyToTheMoon"}, "InvalidAction", "The action FlyToTheMoon is not valid for this web service."),
        ({"Action": "CreateFleet"}, "UnsupportedOperation", "The action CreateFleet is not supported by this cloud."),
        ({"Action": ""}, "MissingParameter", "The request must contain the parameter Action"),
    ],
)
def test_ec2_refuses_by_name_what_it_does_not_understand(extra: dict[str, str], code: str, message: str) -> None:
    found = refusal(EC2, RUN | extra)
    assert found[0] == code
    assert found[1].startswith(message)


def test_a_missing_parameter_is_named() -> None:
    code, message = refusal(EC2, {name: value for name, value in RUN.items() if name != "MinCount"})
    assert (code, message) == ("MissingParameter", "The request must contain the parameter MinCount")
    assert refusal(EC2, {"Action": "GetConsoleOutput", "Version": "2016-11-15"})[1].endswith(" InstanceId")


def test_an_action_on_no_instance_is_refused_in_ec2s_words() -> None:
    code, message = refusal(EC2, {"Action": "TerminateInstances", "Version": "2016-11-15"})
    assert (code, message) == ("InvalidParameterCombination", "No instances specified")


def test_a_name_of_many_parts_costs_no_more_than_its_length() -> None:
    assert refusal(EC2, RUN | {"A" + ".1" * 30_000: "x"})[0] == "UnknownParameter"


def test_defaults_that_clients_send_are_accepted() -> None:
    defaults = {"Placement.Tenancy": "default", "Placement.GroupName": "", "EbsOptimized": "False"}
    assert EC2.parse(RUN | defaults)[0].name == "RunInstances"


def test_older_versions_of_ec2_are_served_alike() -> None:
    operation, _ = EC2.parse(RUN | {"Version": "2014-06-15"})
    assert operation.name == "RunInstances"


def test_items_follow_their_numbers_and_gaps_close() -> None:
    groups = {"SecurityGroupId.10": "ten", "SecurityGroupId.2": "two", "SecurityGroupId.1": "one"}
    _, message = EC2.parse(RUN | groups)
    assert isinstance(message, instance_pb2.RunInstancesRequest)
    assert list(message.security_group_ids) == ["one", "two", "ten"]


def test_a_signature_in_the_query_is_no_parameter() -> None:
    signature = {"X-Amz-Signature": "x", "AWSAccessKeyId": "AK", "SignatureVersion": "2", "Timestamp": "now"}
    operation, _ = EC2.parse(RUN | signature)
    assert operation.name == "RunInstances"


def test_blobs_arrive_as_bytes() -> None:
    params = {"Action": "ImportKeyPair", "Version": "2016-11-15", "KeyName": "k"}
    _, message = EC2.parse(params | {"PublicKeyMaterial": "c3NoLXJzYQ=="})
    assert isinstance(message, key_pair_pb2.ImportKeyPairRequest)
    assert message.public_key_material == b"ssh-rsa"
    assert refusal(EC2, params | {"PublicKeyMaterial": "?"})[0] == "InvalidParameterValue"


def test_sts_names_version_and_action() -> None:
    identity = {"Action": "GetCallerIdentity", "Version": "2011-06-15"}
    assert STS.parse(identity)[0].name == "GetCallerIdentity"
    assert refusal(STS, identity | {"Version": ""}) == (
        "InvalidAction",
        "Could not find operation GetCallerIdentity for version NO_VERSION_SPECIFIED",
    )
    assert refusal(STS, identity | {"Action": "Nonsense"})[0] == "InvalidAction"
    assert refusal(STS, identity | {"Action": "AssumeRole"})[0] == "UnsupportedOperation"


def test_empty_lists_are_empty_elements_except_tags() -> None:
    operation = EC2.contract.operations["DescribeInstances"]
    answer = instance_pb2.DescribeInstancesResult()
    assert "<reservationSet/>" in EC2.render(operation, answer, "id").body.decode()
    answer.reservations.add().instances.add(instance_id="i-1")
    body = EC2.render(operation, answer, "id").body.decode()
    assert "<instanceId>i-1</instanceId>" in body
    assert "<blockDeviceMapping/>" in body
    assert "tagSet" not in body
    assert "imageId" not in body
    tags = EC2.contract.operations["DescribeTags"]
    assert "<tagSet/>" in EC2.render(tags, tag_pb2.DescribeTagsResult(), "id").body.decode()


@pytest.mark.parametrize(
    ("action", "made"),
    [
        ("CreateSnapshot", snapshot_pb2.Snapshot(snapshot_id="snap-1")),
        ("CreateVolume", volume_pb2.Volume(volume_id="vol-1")),
        ("RunInstances", instance_pb2.Reservation(instances=[instance_pb2.Instance(instance_id="i-1")])),
    ],
)
def test_what_was_just_made_shows_that_it_has_no_tags(action: str, made: Message) -> None:
    body = EC2.render(EC2.contract.operations[action], made, "id").body
    assert b"<tagSet/>" in body
    assert b"attachmentSet" not in body


def test_an_ec2_answer_to_the_byte() -> None:
    operation = EC2.contract.operations["GetConsoleOutput"]
    answer = instance_pb2.GetConsoleOutputResult(instance_id="i-<1>\x00")
    answer.timestamp.FromDatetime(datetime(2026, 1, 31, 12, 0, 0, 7000, UTC))
    response = EC2.render(operation, answer, "id-1")
    assert response.status == 200
    assert response.body.decode() == (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<GetConsoleOutputResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>id-1</requestId>'
        "<instanceId>i-&lt;1&gt;</instanceId><timestamp>2026-01-31T12:00:00.007Z</timestamp>"
        "</GetConsoleOutputResponse>"
    )


def test_an_action_without_output_says_true() -> None:
    operation = EC2.contract.operations["CreateTags"]
    assert b"<return>true</return>" in EC2.render(operation, tag_pb2.CreateTagsResponse(), "id").body
    delete = EC2.contract.operations["DeleteSecurityGroup"]
    answer = security_group_pb2.DeleteSecurityGroupResult(return_value=True)
    assert b"<return>true</return>" in EC2.render(delete, answer, "id").body


def test_sts_wraps_result_and_metadata() -> None:
    operation = STS.contract.operations["GetCallerIdentity"]
    answer = caller_pb2.GetCallerIdentityResponse(account="123456789012")
    assert STS.render(operation, answer, "id-1").body.decode() == (
        '<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>'
        "<Account>123456789012</Account></GetCallerIdentityResult><ResponseMetadata><RequestId>id-1</RequestId>"
        "</ResponseMetadata></GetCallerIdentityResponse>"
    )


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotFound("no", code="InvalidInstanceID.NotFound"), 400),
        (NoCapacity("full"), 500),
        (Unauthenticated("who"), 401),
        (Unavailable("later"), 503),
        (CloudError("bug"), 500),
        (CloudError("dry", code="DryRunOperation"), 412),
    ],
)
def test_ec2_errors_have_awss_status(error: CloudError, status: int) -> None:
    response = EC2.render_error(error, "id-1")
    assert response.status == status
    assert f"<Error><Code>{error.code}</Code><Message>{error.message}</Message></Error>" in response.body.decode()
    assert "<RequestID>id-1</RequestID></Response>" in response.body.decode()


def test_sts_errors_tell_whose_fault_it_is() -> None:
    denied = STS.render_error(Unauthenticated("no", code="InvalidClientTokenId"), "id-1")
    assert denied.status == 403
    assert b"<Type>Sender</Type><Code>InvalidClientTokenId</Code>" in denied.body
    bug = STS.render_error(CloudError("bug"), "id-1")
    assert bug.status == 500
    assert b"<Type>Receiver</Type><Code>InternalFailure</Code>" in bug.body
