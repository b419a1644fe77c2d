"""What travels on the connection itself: ids, dates, bodies of errors, 100-continue, keep-alive."""

from __future__ import annotations

import http.client
import re
import socket
import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode

import botocore.auth
import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.cloud_fixture import RunningCloud

EC2 = "2016-11-15"
BUCKET = "wire-of-tests"
FULL = "full-of-tests"


class Client:
    """One connection; every request on it is signed anew."""

    def __init__(self, cloud: RunningCloud) -> None:
        keys = cloud.account()
        self.cloud = cloud
        self.credentials = Credentials(keys.access_key_id, keys.secret_access_key)
        self.connection = http.client.HTTPConnection("127.0.0.1", cloud.config.facade.port, timeout=30)

    def head(self, service: str, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> dict[str, str]:
        request = AWSRequest(method=method, url=self.cloud.endpoint_url + path, data=body, headers=headers)
        auth = S3SigV4Auth if service == "s3" else SigV4Auth
        auth(self.credentials, service, "us-east-1").add_auth(request)
        return dict(request.headers)

    def __call__(
        self,
        service: str,
        method: str = "GET",
        path: str = "/",
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[http.client.HTTPResponse, bytes]:
        signed = self.head(service, method, path, body, headers or {})
        self.connection.request(method, path, body, signed)
        answer = self.connection.getresponse()
        return answer, answer.read()

    def query(self, service: str, **parameters: Any) -> tuple[http.client.HTTPResponse, bytes]:
        body = urlencode(parameters).encode()
        return self(service, "POST", "/", body, {"Content-Type": "application/x-www-form-urlencoded"})


@pytest.fixture
def client(fake_cloud: RunningCloud) -> Client:
    return Client(fake_cloud)


def in_log(cloud: RunningCloud, request_id: str) -> bool:
    """Of one of the facades."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if any(request_id in cloud.log(member) for member in cloud.config.facade.members):
            return True
    return False


def test_one_request_id_stands_in_header_body_and_logs(client: Client, fake_cloud: RunningCloud) -> None:
    for service, parameters in (
        ("ec2", {"Action": "DescribeRegions", "Version": EC2}),
        ("ec2", {"Action": "DescribeRegions", "Version": EC2, "RegionName.1": "nowhere"}),
        ("ec2", {"Action": "Nonsense", "Version": EC2}),
        ("sts", {"Action": "GetCallerIdentity", "Version": "2011-06-15"}),
        ("sts", {"Action": "Nonsense", "Version": "2011-06-15"}),
    ):
        answer, body = client.query(service, **parameters)
        request_id = answer.getheader("x-amzn-RequestId")
        assert request_id
        assert re.search(f"<[rR]equestI[dD]>{request_id}</[rR]equestI[dD]>", body.decode())
        assert in_log(fake_cloud, request_id)
    answer, body = client("s3", path="/no-such-bucket-of-tests")
    request_id = answer.getheader("x-amz-request-id")
    assert request_id
    assert f"<RequestId>{request_id}</RequestId>" in body.decode()
    assert answer.getheader("x-amz-id-2")
    assert in_log(fake_cloud, request_id)


def test_every_answer_has_a_server_and_a_date(client: Client) -> None:
    for service, server in (("ec2", "AmazonEC2"), ("s3", "AmazonS3")):
        answer, _ = client(service)
        assert answer.getheader("Server") == server
        assert abs(parsedate_to_datetime(answer.getheader("Date") or "").timestamp() - time.time()) < 60


@pytest.mark.parametrize(
    ("service", "parameters", "status", "code"),
    [
        ("ec2", {"Action": "Nonsense", "Version": EC2}, 400, "InvalidAction"),
        ("ec2", {"Action": "DescribeFpgaImages", "Version": EC2}, 400, "UnsupportedOperation"),
        ("ec2", {"Version": EC2}, 400, "MissingParameter"),
        ("ec2", {"Action": "DescribeRegions"}, 400, "MissingParameter"),
        ("ec2", {"Action": "DescribeRegions", "Version": "1999-01-01"}, 400, "NoSuchVersion"),
        ("ec2", {"Action": "DescribeRegions", "Version": EC2, "Nonsense": "1"}, 400, "UnknownParameter"),
        ("ec2", {"Action": "DescribeRegions", "Version": EC2, "DryRun": "perhaps"}, 400, "InvalidParameterValue"),
        ("ec2", {"Action": "DescribeRegions", "Version": EC2, "Filter.x.Name": "a"}, 400, "UnknownParameter"),
        ("ec2", {"Action": "DescribeRegions", "Version": EC2, "RegionName": "a"}, 400, "UnknownParameter"),
        ("ec2", {"Action": "RunInstances", "Version": EC2, "MinCount": "x", "MaxCount": "1"}, 400, None),
        ("ec2", {"Action": "RunInstances", "Version": EC2, "MinCount": "9" * 30, "MaxCount": "1"}, 400, None),
        ("ec2", {"Action": "RunInstances", "Version": EC2}, 400, "MissingParameter"),
        ("sts", {"Action": "Nonsense", "Version": "2011-06-15"}, 400, "InvalidAction"),
        ("sts", {"Version": "2011-06-15"}, 400, "MissingAction"),
    ],
)
def test_malformed_queries(client: Client, service: str, parameters: Any, status: int, code: str | None) -> None:
    answer, body = client.query(service, **parameters)
    assert answer.status == status, body
    assert f"<Code>{code or 'InvalidParameterValue'}</Code>" in body.decode()


def test_user_data_that_is_no_base64_is_refused(client: Client, fake_cloud: RunningCloud) -> None:
    for data in ("ü", "not base64", "A", "===="):
        launch = {"ImageId": fake_cloud.image_id, "InstanceType": "t2.nano", "MinCount": 1, "MaxCount": 1}
        answer, body = client.query("ec2", Action="RunInstances", Version=EC2, UserData=data, **launch)
        assert answer.status == 400
        assert b"<Code>InvalidUserData.Malformed</Code>" in body


def test_an_error_of_head_has_no_body(client: Client) -> None:
    for path in ("/no-such-bucket-of-tests", "/no-such-bucket-of-tests/key"):
        answer, body = client("s3", "HEAD", path)
        assert (answer.status, body) == (404, b"")
        assert answer.getheader("x-amz-request-id")


def test_a_connection_lives_through_errors(client: Client) -> None:
    client("s3", "PUT", f"/{BUCKET}")
    sock = client.connection.sock
    for _ in range(3):
        assert client("s3", "GET", "/no-such-bucket-of-tests")[0].status == 404
        assert client("s3", "HEAD", f"/{BUCKET}/absent")[0].status == 404
        assert client("s3", "PUT", f"/{BUCKET}/k", b"x")[0].status == 200
        assert client("s3", "PUT", "/no-such-bucket-of-tests/k", b"x")[0].status == 404
        assert client("s3", "DELETE", f"/{BUCKET}/k")[0].status == 204
        assert client("s3", "GET", f"/{BUCKET}/absent", headers={"If-None-Match": "*"})[0].status == 404
        assert client.query("ec2", Action="Nonsense", Version=EC2)[0].status == 400
    assert client.connection.sock is sock


def test_a_body_is_invited_only_when_it_is_wanted(client: Client) -> None:
    client("s3", "PUT", f"/{BUCKET}")
    client("s3", "PUT", f"/{FULL}")
    client.cloud.json("walrus", "quota", "--bucket", FULL, "--bytes", "4")
    wanted = {BUCKET: b"HTTP/1.1 100 ", FULL: b"HTTP/1.1 403 ", "no-such-bucket-of-tests": b"HTTP/1.1 404 "}
    for bucket, expected in wanted.items():
        path = f"/{bucket}/continued"
        headers = client.head("s3", "PUT", path, b"hello", {"Expect": "100-continue", "Content-Length": "5"})
        lines = [f"PUT {path} HTTP/1.1", f"Host: 127.0.0.1:{client.connection.port}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        with socket.create_connection(("127.0.0.1", client.connection.port), timeout=30) as sock:
            sock.sendall("\r\n".join([*lines, "", ""]).encode())
            assert sock.recv(1024).startswith(expected)
            if bucket == BUCKET:
                sock.sendall(b"hello")
                assert sock.recv(1024).startswith(b"HTTP/1.1 200 ")
    answer, body = client("s3", "PUT", f"/{FULL}/k", bytes(1 << 20))
    assert (answer.status, b"<Code>QuotaExceeded</Code>" in body) == (403, True)
    assert client("s3", "DELETE", f"/{FULL}")[0].status == 204


def test_a_header_of_s3_that_was_not_signed_is_refused(client: Client) -> None:
    client("s3", "PUT", f"/{BUCKET}")
    signed = client.head("s3", "PUT", f"/{BUCKET}/meta", b"x", {})
    client.connection.request("PUT", f"/{BUCKET}/meta", b"x", signed | {"x-amz-meta-word": "slipped in"})
    answer = client.connection.getresponse()
    assert (answer.status, b"AccessDenied" in answer.read()) == (403, True)


def test_metadata_beyond_ascii_comes_back_as_it_was_sent(client: Client) -> None:
    client("s3", "PUT", f"/{BUCKET}")
    word = "gr\u00fcn"
    signed = client.head("s3", "PUT", f"/{BUCKET}/meta", b"x", {"x-amz-meta-word": word})
    client.connection.request("PUT", f"/{BUCKET}/meta", b"x", signed | {"x-amz-meta-word": word.encode()})
    answer = client.connection.getresponse()
    assert answer.status == 200, answer.read()
    answer.read()
    answer, _ = client("s3", "HEAD", f"/{BUCKET}/meta")
    # As S3 writes it: https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingMetadata.html
    assert answer.getheader("x-amz-meta-word") == "=?UTF-8?B?Z3LDvG4=?="


@pytest.mark.parametrize("skew_s", [-3600, 3600])
@pytest.mark.parametrize(
    ("service", "status", "code"), [("ec2", 400, "RequestExpired"), ("s3", 403, "RequestTimeTooSkewed")]
)
def test_a_clock_that_is_wrong_is_told(
    client: Client, monkeypatch: pytest.MonkeyPatch, skew_s: int, service: str, status: int, code: str
) -> None:
    def skewed(**_: Any) -> Any:
        return datetime.now(UTC) + timedelta(seconds=skew_s)

    monkeypatch.setattr(botocore.auth, "get_current_datetime", skewed)
    path = "/?Action=DescribeRegions&Version=" + EC2 if service == "ec2" else "/"
    answer, body = client(service, path=path)
    assert (answer.status, f"<Code>{code}</Code>" in body.decode()) == (status, True), body
