"""Presigned URLs, virtual hosts and signatures of S3."""

from __future__ import annotations

import http.client
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.auth import S3SigV4QueryAuth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from tests.cloud_fixture import RunningCloud

BUCKET = "presigned-of-tests"


@pytest.fixture(scope="module")
def s3(fake_cloud: RunningCloud) -> Any:
    client = fake_cloud.client("s3", signature_version="s3v4")
    client.create_bucket(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key="a key/ü+%2F", Body=b"secret")
    return client


def fetch(
    url: str, method: str = "GET", body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, http.client.HTTPResponse, bytes]:
    parts = urlsplit(url)
    assert parts.hostname
    connection = http.client.HTTPConnection("127.0.0.1", parts.port or 80, timeout=30)
    given = {"Host": parts.netloc} | (headers or {})
    connection.request(method, f"{parts.path}?{parts.query}" if parts.query else parts.path, body, given)
    answer = connection.getresponse()
    return answer.status, answer, answer.read()


def link(s3: Any, action: str = "get_object", key: str = "a key/ü+%2F", seconds: int = 60, **more: Any) -> str:
    return str(s3.generate_presigned_url(action, Params={"Bucket": BUCKET, "Key": key} | more, ExpiresIn=seconds))


@pytest.mark.parametrize("version", ["s3v4", "s3"])
def test_a_link_opens_an_object_for_anybody(fake_cloud: RunningCloud, s3: Any, version: str) -> None:
    client = fake_cloud.client("s3", signature_version=version)
    status, _, body = fetch(link(client))
    assert (status, body) == (200, b"secret"), body
    status, answer, body = fetch(link(client, ResponseContentType="text/x"))
    assert answer.getheader("Content-Type") == "text/x"
    status, _, body = fetch(link(client), headers={"Range": "bytes=0-1"})
    assert (status, body) == (206, b"se")


def test_a_link_takes_an_object(s3: Any) -> None:
    url = link(s3, "put_object", "put", ContentType="text/x")
    status, _, body = fetch(url, "PUT", b"given", {"Content-Type": "text/x"})
    assert status == 200, body
    assert s3.get_object(Bucket=BUCKET, Key="put")["Body"].read() == b"given"
    status, _, body = fetch(url, "PUT", b"given", {"Content-Type": "text/other"})
    assert status == 403
    assert b"<Code>SignatureDoesNotMatch</Code>" in body


@pytest.mark.parametrize("version", ["s3v4", "s3"])
def test_links_carry_an_upload_in_parts_and_its_end(fake_cloud: RunningCloud, s3: Any, version: str) -> None:
    client, key = fake_cloud.client("s3", signature_version=version), f"parts of {version}"

    def follow(action: str, method: str, body: bytes | None = None, **more: Any) -> tuple[dict[str, str], str]:
        status, answer, text = fetch(link(client, action, key, **more), method, body)
        assert status in (200, 204), text
        return {name.lower(): value for name, value in answer.getheaders()}, text.decode()

    begun = follow("create_multipart_upload", "POST")[1]
    upload = begun.partition("<UploadId>")[2].partition("<")[0]
    etags = [
        follow("upload_part", "PUT", body, UploadId=upload, PartNumber=number)[0]["etag"]
        for number, body in ((1, b"x" * (5 << 20)), (2, b"end"))
    ]
    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>" for number, etag in enumerate(etags, 1)
    )
    document = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
    follow("complete_multipart_upload", "POST", document, UploadId=upload)
    assert s3.head_object(Bucket=BUCKET, Key=key)["ContentLength"] == (5 << 20) + 3
    given_up = follow("create_multipart_upload", "POST")[1].partition("<UploadId>")[2].partition("<")[0]
    follow("abort_multipart_upload", "DELETE", UploadId=given_up)
    follow("delete_object", "DELETE")
    assert fetch(link(client, "head_object", key), "HEAD")[0] == 404


@pytest.mark.parametrize("version", ["s3v4", "s3"])
def test_a_bucket_stands_in_the_host_name(fake_cloud: RunningCloud, s3: Any, version: str) -> None:
    port = fake_cloud.config.facade.port
    keys = fake_cloud.account()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://localhost:{port}",
        aws_access_key_id=keys.access_key_id,
        aws_secret_access_key=keys.secret_access_key,
        region_name="us-east-1",
        config=Config(signature_version=version, s3={"addressing_style": "virtual"}),
    )
    url = link(client)
    assert url.startswith(f"http://{BUCKET}.localhost:{port}/")
    assert fetch(url)[2] == b"secret"
    status, _, body = fetch(link(client, "put_object", "virtual"), "PUT", b"v")
    assert status == 200, body
    listing = client.generate_presigned_url("list_objects_v2", Params={"Bucket": BUCKET, "Prefix": "vir"})
    assert b"<Key>virtual</Key>" in fetch(listing)[2]


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        (lambda url: url.replace("secret", "x").replace("a%20key", "b%20key"), 403, b"SignatureDoesNotMatch"),
        (lambda url: url + "&extra=1", 403, b"SignatureDoesNotMatch"),
        (lambda url: url[:-1] + ("0" if url[-1] != "0" else "1"), 403, b"SignatureDoesNotMatch"),
        (
            lambda url: url.replace("X-Amz-Expires=60", "X-Amz-Expires=604801"),
            400,
            b"AuthorizationQueryParametersError",
        ),
        (lambda url: url.replace("X-Amz-Expires=60", "X-Amz-Expires=0"), 400, b"AuthorizationQueryParametersError"),
        (lambda url: url.replace("X-Amz-Expires=60", "X-Amz-Expires=x"), 400, b"AuthorizationQueryParametersError"),
        (lambda url: url.replace("&X-Amz-Expires=60", ""), 400, b"AuthorizationQueryParametersError"),
        (lambda url: url.replace("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1"), 400, b"AuthorizationQueryParametersError"),
        (lambda url: url.replace("us-east-1", "eu-west-1"), 400, b"AuthorizationQueryParametersError"),
        (lambda url: url.split("?")[0], 403, b"AccessDenied"),
    ],
)
def test_a_link_that_was_changed_is_refused(s3: Any, change: Any, status: int, code: bytes) -> None:
    found, answer, body = fetch(change(link(s3)))
    assert (found, code in body) == (status, True), body
    assert b"secret" not in body
    assert answer.getheader("x-amz-request-id", "").encode() in body


def test_a_link_ends(s3: Any, fake_cloud: RunningCloud) -> None:
    keys = fake_cloud.account()
    request = AWSRequest(method="GET", url=f"{fake_cloud.endpoint_url}/{BUCKET}/put")
    auth = S3SigV4QueryAuth(Credentials(keys.access_key_id, keys.secret_access_key), "s3", "us-east-1", expires=60)
    auth.add_auth(request)
    url = str(request.url)
    old = url.replace(url.partition("X-Amz-Date=")[2][:8], "20200101")
    status, _, body = fetch(old)
    assert status == 403
    assert b"<Code>AccessDenied</Code><Message>Request has expired</Message>" in body


@pytest.mark.parametrize("service", ["ec2", "sts"])
def test_query_services_take_the_get_form(fake_cloud: RunningCloud, service: str) -> None:
    action, version = {
        "ec2": ("DescribeRegions", "2016-11-15"),
        "sts": ("GetCallerIdentity", "2011-06-15"),
    }[service]
    keys = fake_cloud.account()
    request = AWSRequest(method="GET", url=f"{fake_cloud.endpoint_url}/?Action={action}&Version={version}")
    SigV4Auth(Credentials(keys.access_key_id, keys.secret_access_key), service, "us-east-1").add_auth(request)
    status, answer, body = fetch(str(request.url), headers=dict(request.headers))
    assert status == 200
    assert f"{action}Response".encode() in body
    assert answer.getheader("x-amzn-RequestId", "").encode() in body
