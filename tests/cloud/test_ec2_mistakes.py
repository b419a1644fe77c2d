"""Nonsense of every shape, signed and sent as any client would: a client's mistake, told in EC2's words, no effect.

What is sent is drawn from botocore's model of each action's parameters, by a seed that is always the same.
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode
from xml.etree import ElementTree

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.model import ListShape, Shape, StructureShape
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ec2_facade.protocol import Contract
from tests.cloud_fixture import RunningCloud
from tests.service.clc.documented_codes import DOCUMENTED
from tests.service.clc.mistakes import wire_name

OPERATIONS = Contract("ec2").operations
READS = ("Describe", "Get")
WRONG = [
    *("", " ", "x", "0", "-1", "5", "9999999999", "9" * 5000, "1.5", "nan", "true", "perhaps", "ü", "²", "😀", "\x00"),
    *("\ufffe", "\n", "a" * 300, "a" * 70_000, "../../x", "%00", "<a>&", "====", "AAAA", "\\", "*" * 50, "::/0"),
    *("fe80::1%eth0/64", "1.2.3.4/0.0.0.0", "i-", "i-0123456789abcdef0", "sg-ffffffffffffffff", "key-1", "all", "self"),
    *("subnet-0123456789abcdef0", "ami-0123456789abcdef0", "sgr-0123456789abcdef0", "2011-01-01T00:00:00Z", "default"),
]
KINDS = [
    "ami",
    "aki",
    "i",
    "eni",
    "sg",
    "sgr",
    "key",
    "vpc",
    "subnet",
    "eipalloc",
    "eipassoc",
    "ip",
    "account",
    "vol",
    "snap",
]
# Some of these are only told where a request has no other mistake.
CODES = DOCUMENTED | {
    "IncorrectInstanceState",
    "IncorrectState",
    "InvalidGroup.Duplicate",
    "InvalidGroup.InUse",
    "InvalidIPAddress.InUse",
    "InvalidInstanceID",
    "InvalidKeyPair.Duplicate",
    "InvalidParameter",
    "InvalidPermission.Duplicate",
    "OperationNotPermitted",
}
# The largest form that is taken is 512 KiB; each of these is 9 bytes of it.
LARGEST = "漢" * 58_000


class Sender:
    def __init__(self, cloud: RunningCloud) -> None:
        keys = cloud.account("mistaken")
        self._url = cloud.endpoint_url + "/"
        self._credentials = Credentials(keys.access_key_id, keys.secret_access_key)
        self._connection = http.client.HTTPConnection("127.0.0.1", cloud.config.facade.port, timeout=60)

    def __call__(self, action: str, parameters: dict[str, str]) -> tuple[int, str]:
        """(status, error code or nothing)"""
        status, body = self.send(action, parameters)
        root = ElementTree.fromstring(body)
        return status, root.findtext("./Errors/Error/Code", "")

    def send(self, action: str, parameters: dict[str, str]) -> tuple[int, str]:
        body = urlencode({"Action": action, "Version": "2016-11-15"} | parameters).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        request = AWSRequest(method="POST", url=self._url, data=body, headers=headers)
        SigV4Auth(self._credentials, "ec2", "us-east-1").add_auth(request)
        self._connection.request("POST", "/", body, dict(request.headers))
        answer = self._connection.getresponse()
        return answer.status, answer.read().decode()

    def everything(self) -> dict[str, str]:
        """All that the account has, as it is shown."""
        reads = [action for action in OPERATIONS if action.startswith("Describe") and action not in PARTIAL]
        shown = {action: self.send(action, {}) for action in reads}
        assert {status for status, _ in shown.values()} == {200}
        return {action: re.sub("<requestId>.*?</requestId>", "", body) for action, (_, body) in shown.items()}


# Reads that need a parameter, or show no state of the account's.
PARTIAL = frozenset(
    {
        "DescribeAddressesAttribute",
        "DescribeImageAttribute",
        "DescribeInstanceAttribute",
        "DescribeInstanceTypes",
        "DescribeNetworkInterfaceAttribute",
        "DescribeSnapshotAttribute",
        "DescribeVolumeAttribute",
        "DescribeVpcAttribute",
    }
)


@pytest.fixture(scope="module")
def known(fake_cloud: RunningCloud) -> Iterator[dict[str, str]]:
    """Ids of what the account has, and of the same things that another has: `i`, `other i` …"""
    image, mine = fake_cloud.image_id, fake_cloud.account("mistaken")
    admin: Any = fake_cloud.client("ec2")
    admin.modify_image_attribute(ImageId=image, LaunchPermission={"Add": [{"UserId": mine.account_id}]})
    found = {"ami": image, "aki": admin.describe_images(ImageIds=[image])["Images"][0].get("KernelId", image)}
    clients = {"": fake_cloud.client("ec2", "mistaken"), "other ": admin}
    for prefix, ec2 in clients.items():
        ip = {"IpProtocol": "tcp", "FromPort": 1, "ToPort": 2, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}
        group = ec2.create_security_group(GroupName="mistaken", Description="d")["GroupId"]
        rules = ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[ip])["SecurityGroupRules"]
        address = ec2.allocate_address()
        subnet = ec2.describe_subnets()["Subnets"][0]
        key = ec2.create_key_pair(KeyName="mistaken", KeyType="ed25519")
        launched = ec2.run_instances(ImageId=image, InstanceType="t2.nano", MinCount=1, MaxCount=1)["Instances"][0]
        ec2.get_waiter("instance_running").wait(
            InstanceIds=[launched["InstanceId"]], WaiterConfig={"Delay": 1, "MaxAttempts": 60}
        )
        volume = ec2.create_volume(Size=1, AvailabilityZone=subnet["AvailabilityZone"])["VolumeId"]
        ec2.get_waiter("volume_available").wait(VolumeIds=[volume], WaiterConfig={"Delay": 1, "MaxAttempts": 60})
        snapshot = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
        ec2.get_waiter("snapshot_completed").wait(SnapshotIds=[snapshot], WaiterConfig={"Delay": 1, "MaxAttempts": 60})
        joined = ec2.associate_address(AllocationId=address["AllocationId"], InstanceId=launched["InstanceId"])
        found |= {
            f"{prefix}i": launched["InstanceId"],
            f"{prefix}eni": launched["NetworkInterfaces"][0]["NetworkInterfaceId"],
            f"{prefix}sg": group,
            f"{prefix}sgr": rules[0]["SecurityGroupRuleId"],
            f"{prefix}key": key["KeyPairId"],
            f"{prefix}vpc": subnet["VpcId"],
            f"{prefix}subnet": subnet["SubnetId"],
            f"{prefix}eipalloc": address["AllocationId"],
            f"{prefix}eipassoc": joined["AssociationId"],
            f"{prefix}ip": address["PublicIp"],
            f"{prefix}vol": volume,
            f"{prefix}snap": snapshot,
            f"{prefix}account": subnet["OwnerId"],
        }
    yield found
    for prefix, ec2 in clients.items():
        ec2.terminate_instances(InstanceIds=[found[f"{prefix}i"]])
        ec2.get_waiter("instance_terminated").wait(
            InstanceIds=[found[f"{prefix}i"]], WaiterConfig={"Delay": 1, "MaxAttempts": 60}
        )
        ec2.release_address(AllocationId=found[f"{prefix}eipalloc"])
        ec2.delete_security_group(GroupId=found[f"{prefix}sg"])
        ec2.delete_snapshot(SnapshotId=found[f"{prefix}snap"])
        ec2.delete_volume(VolumeId=found[f"{prefix}vol"])
        ec2.delete_key_pair(KeyPairId=found[f"{prefix}key"])
    admin.modify_image_attribute(ImageId=image, LaunchPermission={"Remove": [{"UserId": mine.account_id}]})


def values(shape: Shape) -> st.SearchStrategy[str]:
    """Right ones among wrong ones; `{i}` stands for an id that is known when it is sent."""
    right = st.sampled_from([f"{{{whose}{kind}}}" for kind in KINDS for whose in ("", "other ")])
    if enum := getattr(shape, "enum", ()):
        right = st.sampled_from(list(enum))
    elif shape.type_name in ("integer", "long"):
        right = st.sampled_from(["1", "2", "22", "1000"])
    elif shape.type_name == "boolean":
        right = st.sampled_from(["true", "false"])
    return st.one_of(right, right, st.sampled_from(WRONG), st.text(max_size=20))


@st.composite
def parameters(draw: st.DrawFn, shape: Shape | None, name: str = "", depth: int = 0) -> dict[str, str]:
    """Of any shape: at times a list where a value should be, and the like."""
    bent = draw(st.integers(0, 39)) == 0
    if isinstance(shape, ListShape) and not bent:
        indices = draw(
            st.lists(st.sampled_from(["1", "2", "3", "1001", "0", "x"]), min_size=1, max_size=2, unique=True)
        )
        found: dict[str, str] = {}
        for index in indices:
            found |= draw(parameters(shape.member, f"{name}.{index}", depth + 1))
        return found
    if isinstance(shape, StructureShape) and not bent:
        members = sorted(shape.members.items())
        chosen = draw(st.lists(st.sampled_from(members), max_size=4, unique_by=lambda m: m[0])) if members else []
        needed = [member for member in members if member[0] in shape.required_members and draw(st.integers(0, 9))]
        found = {}
        for member, inner in {m[0]: m for m in (*needed, *chosen)}.values():
            if depth < 4:
                wire = wire_name(member, inner)
                found |= draw(parameters(inner, f"{name}.{wire}" if name else wire, depth + 1))
        return found
    assert shape is not None
    return {f"{name}.1" if bent else name: draw(values(shape))}


@st.composite
def requests(draw: st.DrawFn) -> list[tuple[str, dict[str, str]]]:
    """One of every action. What would be done is refused as a dry run; what only reads may well succeed."""
    found = []
    for action, operation in sorted(OPERATIONS.items()):
        drawn = draw(parameters(operation.model.input_shape))
        found.append((action, drawn if action.startswith(READS) else drawn | {"DryRun": "true"}))
    return found


def test_nonsense_is_answered_in_ec2s_words_and_changes_nothing(
    fake_cloud: RunningCloud, known: dict[str, str]
) -> None:
    send = Sender(fake_cloud)
    before = send.everything()

    @settings(
        max_examples=25,
        derandomize=True,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(requests())
    def nonsense(batch: list[tuple[str, dict[str, str]]]) -> None:
        for action, drawn in batch:
            sent = {name: _put(value, known) for name, value in drawn.items()}
            status, code = send(action, sent)
            shown = action, {name: value[:60] for name, value in sent.items()}, status, code
            if status == 200:
                assert action.startswith(READS), shown
            else:
                assert status < 500, shown
                assert code in CODES, shown
        assert send.everything() == before

    nonsense()


def _put(value: str, known: dict[str, str]) -> str:
    return known.get(value[1:-1], value) if value.startswith("{") else value


@pytest.mark.parametrize("action", sorted(OPERATIONS))
def test_the_largest_value_is_refused_by_its_name(fake_cloud: RunningCloud, action: str) -> None:
    send, shape = Sender(fake_cloud), OPERATIONS[action].model.input_shape
    assert isinstance(shape, StructureShape)
    for name, member in shape.members.items():
        path, leaf = wire_name(name, member), member
        if isinstance(member, ListShape):
            path, leaf = f"{path}.1", member.member
        if leaf.type_name == "string":
            status, code = send(action, {path: LARGEST})
            assert (status, code in CODES) == (400, True), (path, status, code)


@pytest.mark.parametrize(
    ("action", "member", "prefix", "code"),
    [
        ("DescribeInstances", "InstanceId", "i-", "InvalidInstanceID.NotFound"),
        ("TerminateInstances", "InstanceId", "i-", "InvalidInstanceID.NotFound"),
        ("DescribeSecurityGroups", "GroupId", "sg-", "InvalidGroup.NotFound"),
        ("DescribeRouteTables", "RouteTableId", "rtb-", "InvalidRouteTableID.NotFound"),
        ("DeleteTags", "ResourceId", "sgr-", "TagLimitExceeded"),
        ("DescribeKeyPairs", "KeyName", "", "InvalidKeyPair.NotFound"),
    ],
)
def test_the_longest_list_is_answered(
    fake_cloud: RunningCloud, action: str, member: str, prefix: str, code: str
) -> None:
    listed = {f"{member}.{number}": f"{prefix}{number:017x}" for number in range(1, 10_001)}
    assert Sender(fake_cloud)(action, listed) == (400, code)
