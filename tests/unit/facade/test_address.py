"""Which service, bucket and key a request means."""

from __future__ import annotations

from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ec2_facade.errors import Refused
from ec2_facade.s3.address import read_address, read_query, url_of
from ec2_facade.services import Endpoint, Hosts, find_service
from ec2_facade.wire import WireRequest, split_target
from tests.unit.facade.signing import ENDPOINT, sign_headers

_HOSTS = Hosts(("localhost", "s3.localhost", "objects.example"), ("named.example",))


def request(target: str = "/", *, host: str = "10.0.0.1:8773", method: str = "GET", **headers: str) -> WireRequest:
    path, query = split_target(target)
    return WireRequest(
        method=method, raw_path=path, raw_query=query, headers=(("host", host), *headers.items()), source_ip=""
    )


@pytest.mark.parametrize(
    ("target", "host", "bucket", "key"),
    [
        ("/", "10.0.0.1", None, None),
        ("/b", "10.0.0.1", "b", None),
        ("/b/", "10.0.0.1", "b", None),
        ("/b/k", "10.0.0.1", "b", "k"),
        ("/b//k", "10.0.0.1", "b", "/k"),
        ("/b/a%2Fb/../c%20+d", "10.0.0.1", "b", "a/b/../c +d"),
        ("/", "b.localhost:8773", "b", None),
        ("/k", "b.s3.localhost", "b", "k"),
        ("//k", "B.S3.LOCALHOST:1", "b", "/k"),
        ("/b/k", "s3.localhost", "b", "k"),
        ("/b/k", "localhost:8773", "b", "k"),
        ("/k", "my.dotted.bucket.objects.example", "my.dotted.bucket", "k"),
        ("/b/k", "other.example", "b", "k"),
        ("/a/k", "www.named.example:80", "www.named.example", "a/k"),
        ("/", "Named.Example.", "named.example", None),
        ("/b/k", "unnamed.example", "b", "k"),
        ("/b/k", "[::1]:8773", "b", "k"),
    ],
)
def test_bucket_and_key(target: str, host: str, bucket: str | None, key: str | None) -> None:
    found = read_address(request(target, host=host), _HOSTS)
    assert (found.bucket, found.key) == (bucket, key)


@pytest.mark.parametrize(
    ("target", "host", "url"),
    [
        ("/b/a//%C3%BC%20+", "10.0.0.1:8773", "http://10.0.0.1:8773/b/a//%C3%BC%20%2B"),
        ("/k", "b.localhost:8773", "http://b.localhost:8773/k"),
        ("/b/k", "localhost", "http://localhost/b/k"),
    ],
)
def test_an_objects_url_is_as_its_client_spoke_to_it(target: str, host: str, url: str) -> None:
    asked = request(target, host=host)
    assert url_of(asked, read_address(asked, _HOSTS)) == url


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_key_comes_out_as_it_went_in(key: str) -> None:
    target = f"/b/{quote_from_bytes(key.encode(), safe='/')}"
    assert read_address(request(target), _HOSTS).key == key


@pytest.mark.parametrize("target", ["/b/%FF", "/%C3/k", "/b/\udcff"])
def test_keys_that_are_no_text_are_refused(target: str) -> None:
    with pytest.raises(Refused) as caught:
        read_address(request(target), _HOSTS)
    assert caught.value.code == "InvalidURI"


@pytest.mark.parametrize(
    ("host", "bucket"),
    [
        ("b.localhost", "b"),
        ("b.c.s3.localhost", "b.c"),
        ("b.s3.us-east-1.localhost", "b"),
        ("b.s3-us-east-1.localhost", "b"),
        ("b.s3.dualstack.us-east-1.localhost", "b"),
        ("s3.us-east-1.localhost", None),
        ("s3-us-east-1.localhost", None),
        ("s3.localhost", None),
        ("elsewhere", None),
    ],
)
def test_every_name_that_awss_clients_give_an_endpoint(host: str, bucket: str | None) -> None:
    endpoint = Endpoint(region="us-east-1", domains=("localhost", "s3.localhost"))
    assert endpoint.s3_hosts().bucket_of(host) == bucket


def test_queries_are_read_as_s3_reads_them() -> None:
    assert read_query(request("/b?acl&prefix=a+b%2Bc&prefix=x&=&k=")) == {"acl": "", "prefix": "a b+c", "": "", "k": ""}
    with pytest.raises(Refused):
        read_query(request("/b?prefix=%FF"))


@pytest.mark.parametrize(
    ("wire", "service"),
    [
        (request("/"), "s3"),
        (request("/bucket/key"), "s3"),
        (request("/?Action=DescribeRegions"), "ec2"),
        (request("/?Action=GetCallerIdentity"), "sts"),
        (request("/?Action=Nonsense"), "ec2"),
        (request("/", host="sts.localhost"), "sts"),
        (request("/", host="ec2.us-east-1.example"), "ec2"),
        (request("/?Action=x", host="bucket.s3.localhost"), "s3"),
        (request("/", method="POST", **{"content-type": "application/x-www-form-urlencoded; charset=utf-8"}), "ec2"),
        (request("/b", method="POST", **{"content-type": "application/x-www-form-urlencoded"}), "s3"),
        (request("/b/k?X-Amz-Credential=AK%2F20260101%2Fus-east-1%2Fs3%2Faws4_request"), "s3"),
        (sign_headers("GET", ENDPOINT + "/bucket", service="sts"), "sts"),
    ],
)
def test_the_service_is_found(wire: WireRequest, service: str) -> None:
    assert find_service(wire, hosts=_HOSTS, sts_actions=frozenset({"GetCallerIdentity"})) == service


def test_a_service_that_is_not_here_is_named() -> None:
    with pytest.raises(Refused, match="dynamodb"):
        find_service(sign_headers("POST", ENDPOINT, service="dynamodb"), hosts=Hosts(), sts_actions=frozenset())


@pytest.mark.parametrize(
    "header", [{"x-amz-target": "AWSCognitoIdentityService.GetId"}, {"smithy-protocol": "rpc-v2-cbor"}]
)
def test_nor_is_a_service_of_another_protocol_asked_without_a_signature(header: dict[str, str]) -> None:
    with pytest.raises(Refused, match="This service is not served"):
        find_service(request(method="POST", **header), hosts=Hosts(), sts_actions=frozenset())
