"""Buckets and browsers: CORS, websites, and forms of nobody in a bucket that is open to all."""

from __future__ import annotations

import http.client
import json
import os
from typing import Any
from urllib.parse import quote

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError
from urllib3.filepost import encode_multipart_formdata

from tests.cloud_fixture import RunningCloud

BUCKET = "web-of-tests"
SITE = f"{BUCKET}.s3-website-us-east-1.localhost"
RULE = {
    "ID": "one",
    "AllowedOrigins": ["https://*.example"],
    "AllowedMethods": ["GET", "PUT"],
    "AllowedHeaders": ["*"],
    "ExposeHeaders": ["ETag"],
    "MaxAgeSeconds": 100,
}


@pytest.fixture(scope="module")
def s3(fake_cloud: RunningCloud) -> Any:
    client = fake_cloud.client("s3")
    client.create_bucket(Bucket=BUCKET)
    client.put_public_access_block(
        Bucket=BUCKET,
        PublicAccessBlockConfiguration={"BlockPublicPolicy": False, "RestrictPublicBuckets": False},
    )
    arn = f"arn:aws:s3:::{BUCKET}"
    statements = [
        {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": f"{arn}/*"},
        {"Effect": "Allow", "Principal": "*", "Action": "s3:ListBucket", "Resource": arn},
        {"Effect": "Allow", "Principal": "*", "Action": "s3:PutObject", "Resource": f"{arn}/dropped/*"},
    ]
    client.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps({"Version": "2012-10-17", "Statement": statements}))
    return client


def ask(
    cloud: RunningCloud, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", cloud.config.facade.port, timeout=30)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def refused(call: Any, **arguments: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return str(caught.value.response["Error"]["Code"])


def test_a_bucket_lets_pages_of_others_use_it(fake_cloud: RunningCloud, s3: Any) -> None:
    assert refused(s3.get_bucket_cors, Bucket=BUCKET) == "NoSuchCORSConfiguration"
    s3.put_bucket_cors(Bucket=BUCKET, CORSConfiguration={"CORSRules": [RULE]})
    assert s3.get_bucket_cors(Bucket=BUCKET)["CORSRules"] == [RULE]
    s3.put_object(Bucket=BUCKET, Key="page", Body=b"x")
    asked = {"Origin": "https://a.example", "Access_Control_Request_Method": "PUT"}
    status, headers, _ = ask(fake_cloud, "OPTIONS", f"/{BUCKET}/page", None, **asked)
    assert (status, headers["access-control-allow-methods"]) == (200, "GET, PUT")
    status, headers, body = ask(fake_cloud, "GET", f"/{BUCKET}/page", None, Origin="https://a.example")
    assert (status, body, headers["access-control-expose-headers"]) == (200, b"x", "ETag")
    # The method that the page says to use counts, whatever it uses.
    assert "access-control-allow-origin" in ask(fake_cloud, "DELETE", f"/{BUCKET}/page", None, **asked)[1]
    bad = {"CORSRules": [RULE | {"AllowedMethods": ["PATCH"]}]}
    assert refused(s3.put_bucket_cors, Bucket=BUCKET, CORSConfiguration=bad) == "InvalidRequest"
    s3.delete_bucket_cors(Bucket=BUCKET)
    assert ask(fake_cloud, "OPTIONS", f"/{BUCKET}/page", None, **asked)[0] == 403


def test_a_bucket_is_a_website(fake_cloud: RunningCloud, s3: Any) -> None:
    assert refused(s3.get_bucket_website, Bucket=BUCKET) == "NoSuchWebsiteConfiguration"
    config = {
        "IndexDocument": {"Suffix": "index.html"},
        "ErrorDocument": {"Key": "error.html"},
        "RoutingRules": [
            {"Condition": {"KeyPrefixEquals": "old/"}, "Redirect": {"ReplaceKeyPrefixWith": "new/"}},
        ],
    }
    s3.put_bucket_website(Bucket=BUCKET, WebsiteConfiguration=config)
    found = s3.get_bucket_website(Bucket=BUCKET)
    del found["ResponseMetadata"]
    assert found == config
    for key in ("index.html", "dir/index.html", "error.html"):
        s3.put_object(Bucket=BUCKET, Key=key, Body=key.encode(), ContentType="text/html")
    for path, status, shown in (
        ("/", 200, b"index.html"),
        ("/dir/", 200, b"dir/index.html"),
        ("/none", 404, b"error.html"),
    ):
        answer = ask(fake_cloud, "GET", path, None, Host=SITE)
        assert (answer[0], answer[2], answer[1]["content-type"]) == (status, shown, "text/html")
    status, headers, _ = ask(fake_cloud, "GET", "/dir", None, Host=SITE)
    assert (status, headers["location"]) == (302, "/dir/")
    status, headers, _ = ask(fake_cloud, "GET", "/old/a", None, Host=SITE)
    assert (status, headers["location"]) == (301, f"http://{SITE}/new/a")
    s3.put_object(Bucket=BUCKET, Key="moved", WebsiteRedirectLocation="/dir/?a=1")
    status, headers, _ = ask(fake_cloud, "GET", "/moved", None, Host=SITE)
    assert (status, headers["location"]) == (301, "/dir/?a=1")
    s3.delete_bucket_website(Bucket=BUCKET)
    status, _, body = ask(fake_cloud, "GET", "/", None, Host=SITE)
    assert (status, b"<li>Code: NoSuchWebsiteConfiguration</li>" in body) == (404, True)


@pytest.mark.parametrize(
    "key", ["a//b", "/a", "../x/./y", "a%2Fb", "a+b c&d=e?f#g", "\u00fc\u4e2d" * 204, "~!*'();:@,$[]"]
)
def test_every_kind_of_address_finds_any_key(fake_cloud: RunningCloud, s3: Any, key: str) -> None:
    body = key.encode()
    s3.put_object(Bucket=BUCKET, Key=key, Body=body)
    s3.put_bucket_website(Bucket=BUCKET, WebsiteConfiguration={"IndexDocument": {"Suffix": "i"}})
    path = quote(key, safe="/")
    for host, target in (
        ("localhost", f"/{BUCKET}/{path}"),
        (f"{BUCKET}.localhost", f"/{path}"),
        (f"{BUCKET}.s3.us-east-1.localhost", f"/{path}"),
        (SITE, f"/{path}"),
    ):
        status, _, found = ask(fake_cloud, "GET", target, None, Host=host)
        assert (status, found) == (200, body), host


def test_a_client_without_credentials_does_what_all_may(fake_cloud: RunningCloud, s3: Any) -> None:
    nobody = boto3.client(
        "s3",
        endpoint_url=fake_cloud.endpoint_url,
        region_name="us-east-1",
        config=Config(signature_version=UNSIGNED, retries={"total_max_attempts": 1}),
    )
    body = os.urandom(3_000_000)
    nobody.put_object(Bucket=BUCKET, Key="dropped/n", Body=body)
    assert nobody.get_object(Bucket=BUCKET, Key="dropped/n")["Body"].read() == body
    assert [entry["Key"] for entry in nobody.list_objects_v2(Bucket=BUCKET, Prefix="dropped/n")["Contents"]]
    assert refused(nobody.put_object, Bucket=BUCKET, Key="n", Body=b"x") == "AccessDenied"
    assert refused(nobody.delete_object, Bucket=BUCKET, Key="dropped/n") == "AccessDenied"
    assert refused(nobody.put_bucket_cors, Bucket=BUCKET, CORSConfiguration={"CORSRules": [RULE]}) == "AccessDenied"
    assert refused(nobody.get_object, Bucket=BUCKET, Key="dropped/n", ResponseContentType="a/b") == "InvalidRequest"
    assert refused(nobody.create_bucket, Bucket="nobodys") == "AccessDenied"
    assert refused(nobody.list_buckets) == "AccessDenied"


def test_a_form_of_nobody_is_taken_where_all_may_write(fake_cloud: RunningCloud, s3: Any) -> None:
    for key, expected in (("dropped/${filename}", 204), ("elsewhere/${filename}", 403)):
        form, content_type = encode_multipart_formdata({"key": key, "file": ("f", b"bytes")})
        assert ask(fake_cloud, "POST", f"/{BUCKET}", form, Content_Type=content_type)[0] == expected
    assert s3.get_object(Bucket=BUCKET, Key="dropped/f")["Body"].read() == b"bytes"
