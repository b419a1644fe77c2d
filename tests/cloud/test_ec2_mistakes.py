"""Requests that are right but for a member or two: whatever is wrong with them is told as a client's mistake."""

from __future__ import annotations

import http.client
import random
from typing import Any
from urllib.parse import urlencode

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.cloud_fixture import RunningCloud

WRONG = [
    *("", " ", "x", "0", "-1", "5", "9999999999", "9" * 5000, "1.5", "nan", "true", "perhaps", "ü", "²", "😀", "\x00"),
    *("\ufffe", "\n", "a" * 300, "a" * 70_000, "../../x", "%00", "<a>&", "====", "AAAA", "\\", "*" * 50, "::/0"),
    *("fe80::1%eth0/64", "1.2.3.4/0.0.0.0", "i-", "i-0123456789abcdef0", "sg-ffffffffffffffff", "key-1"),
    *("subnet-0123456789abcdef0", "ami-0123456789abcdef0", "sgr-0123456789abcdef0", "2011-01-01T00:00:00Z"),
]
PERMISSION = {
    "IpPermissions.1.IpProtocol": "tcp",
    "IpPermissions.1.FromPort": "1",
    "IpPermissions.1.ToPort": "65535",
    "IpPermissions.1.IpRanges.1.CidrIp": "10.0.0.0/8",
}


class Sender:
    def __init__(self, cloud: RunningCloud) -> None:
        keys = cloud.account("mistaken")
        self._url = cloud.endpoint_url + "/"
        self._credentials = Credentials(keys.access_key_id, keys.secret_access_key)
        self._connection = http.client.HTTPConnection("127.0.0.1", cloud.config.facade.port, timeout=60)

    def __call__(self, action: str, parameters: dict[str, str]) -> tuple[int, str]:
        """(status, error code or nothing)"""
        body = urlencode({"Action": action, "Version": "2016-11-15"} | parameters).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        request = AWSRequest(method="POST", url=self._url, data=body, headers=headers)
        SigV4Auth(self._credentials, "ec2", "us-east-1").add_auth(request)
        self._connection.request("POST", "/", body, dict(request.headers))
        answer = self._connection.getresponse()
        text = answer.read().decode()
        return answer.status, text.partition("<Code>")[2].partition("<")[0]


@pytest.fixture(scope="module")
def right(fake_cloud: RunningCloud) -> list[tuple[str, dict[str, str]]]:
    """Requests that would succeed."""
    ec2: Any = fake_cloud.client("ec2", "mistaken")
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    group = ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
    run = {"ImageId": fake_cloud.image_id, "MinCount": "1", "MaxCount": "1", "DryRun": "true"}
    more = {
        "InstanceType": "t2.nano",
        "SubnetId": subnet,
        "SecurityGroupId.1": group,
        "PrivateIpAddress": "172.31.5.5",
        "UserData": "AAAA",
        "ClientToken": "t",
        "Placement.AvailabilityZone": "us-east-1a",
        "Monitoring.Enabled": "true",
        "MetadataOptions.HttpPutResponseHopLimit": "3",
        "TagSpecification.1.ResourceType": "instance",
        "TagSpecification.1.Tag.1.Key": "k",
    }
    interface = {
        "NetworkInterface.1.DeviceIndex": "0",
        "NetworkInterface.1.SubnetId": subnet,
        "NetworkInterface.1.SecurityGroupId.1": group,
        "NetworkInterface.1.PrivateIpAddress": "172.31.5.6",
        "NetworkInterface.1.AssociatePublicIpAddress": "true",
    }
    tag = {"ResourceId.1": group, "Tag.1.Key": "a", "Tag.1.Value": "b"}
    return [
        ("RunInstances", run | more),
        ("RunInstances", run | interface),
        ("AuthorizeSecurityGroupIngress", {"GroupId": group, "DryRun": "true"} | PERMISSION),
        ("RevokeSecurityGroupIngress", {"GroupId": group, "DryRun": "true"} | PERMISSION),
        ("CreateTags", tag),
        ("DeleteTags", tag),
        ("CreateSecurityGroup", {"GroupName": "n", "GroupDescription": "d", "DryRun": "true"}),
        ("ImportKeyPair", {"KeyName": "y", "PublicKeyMaterial": "c3NoLXJzYSBBQUFB"}),
        ("RegisterImage", {"Name": "nnn", "ImageLocation": "bucket/key", "Architecture": "x86_64"}),
        ("DescribeInstances", {"Filter.1.Name": "launch-time", "Filter.1.Value.1": "2011*", "MaxResults": "5"}),
        ("DescribeImages", {"Filter.1.Name": "name", "Owner.1": "self", "ExecutableBy.1": "self", "NextToken": "x"}),
        ("DescribeTags", {"Filter.1.Name": "tag:a", "Filter.1.Value.1": "b", "NextToken": "x", "MaxResults": "5"}),
        ("GetConsoleOutput", {"InstanceId": "i-0123456789abcdef0", "Latest": "true"}),
        ("ModifyImageAttribute", {"ImageId": fake_cloud.image_id, "LaunchPermission.Add.1.UserId": "123456789012"}),
    ]


@pytest.mark.parametrize("seed", range(4))
def test_a_mistake_is_never_a_server_error(fake_cloud: RunningCloud, right: Any, seed: int) -> None:
    send, chance = Sender(fake_cloud), random.Random(seed)
    for _ in range(250):
        action, base = chance.choice(right)
        parameters = dict(base)
        for name in chance.sample([name for name in base if name != "DryRun"], chance.choice([1, 2])):
            parameters[name] = chance.choice(WRONG)
        status, code = send(action, parameters)
        shown = action, {name: value[:60] for name, value in parameters.items()}, status, code
        assert status < 500, shown
        assert status == 200 or code, shown
