"""CORS rules and website redirects, as browsers meet them."""

from __future__ import annotations

import pytest

from ec2_facade.s3 import routing
from ec2_facade.s3.cors import allowed
from ec2_facade.s3.routing import Elsewhere
from ec2_facade.s3.website import website_of_host
from ec2_facade.wire import WireRequest
from mallee.s3.v1.cors_pb2 import CORSConfiguration, CORSRule
from mallee.s3.v1.website_pb2 import Condition, Redirect, RedirectAllRequestsTo, RoutingRule, WebsiteConfiguration

RULES = CORSConfiguration(
    cors_rules=[
        CORSRule(
            allowed_origins=["http://a.example", "https://*.b.example"],
            allowed_methods=["GET", "PUT"],
            allowed_headers=["x-amz-*", "Content-Type"],
            expose_headers=["ETag", "x-amz-version-id"],
            max_age_seconds=60,
        ),
        CORSRule(allowed_origins=["*"], allowed_methods=["GET"]),
    ]
)
VARY = ("Vary", "Origin, Access-Control-Request-Headers, Access-Control-Request-Method")


def test_a_rule_that_holds_is_told_whole() -> None:
    found = allowed(RULES, origin="https://x.b.example", method="PUT", asked=["content-type", "x-amz-date"])
    assert found == [
        ("Access-Control-Allow-Origin", "https://x.b.example"),
        ("Access-Control-Allow-Methods", "GET, PUT"),
        ("Access-Control-Allow-Headers", "content-type, x-amz-date"),
        ("Access-Control-Expose-Headers", "ETag, x-amz-version-id"),
        ("Access-Control-Max-Age", "60"),
        ("Access-Control-Allow-Credentials", "true"),
        VARY,
    ]


def test_an_open_bucket_is_open_to_all_without_credentials() -> None:
    found = allowed(RULES, origin="null", method="GET", asked=[])
    assert found == [("Access-Control-Allow-Origin", "*"), ("Access-Control-Allow-Methods", "GET"), VARY]


@pytest.mark.parametrize(
    ("origin", "method", "asked"),
    [
        ("http://A.example", "PUT", []),
        ("http://a.example.", "PUT", []),
        ("https://b.example", "PUT", []),
        ("https://.b.example.evil", "PUT", []),
        ("http://a.example", "DELETE", []),
        ("http://a.example", "PUT", ["authorization"]),
        ("http://c.example", "GET", ["content-type"]),
    ],
)
def test_what_no_rule_allows(origin: str, method: str, asked: list[str]) -> None:
    assert allowed(RULES, origin=origin, method=method, asked=asked) is None


def rule(redirect: Redirect, **condition: str) -> WebsiteConfiguration:
    made = RoutingRule(redirect=redirect, condition=Condition(**condition) if condition else None)
    return WebsiteConfiguration(routing_rules=[made])


def wire(path: str = "/docs/a", query: str = "") -> WireRequest:
    return WireRequest(method="GET", raw_path=path, raw_query=query, headers=(("host", "h:1"),))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (rule(Redirect(host_name="x")), (301, "http://x/docs/a")),
        (rule(Redirect(protocol="https", http_redirect_code="307")), (307, "https://h:1/docs/a")),
        (rule(Redirect(replace_key_with="b?x=1")), (301, "http://h:1/b?x=1")),
        (rule(Redirect(replace_key_prefix_with="new/"), key_prefix_equals="docs/"), (301, "http://h:1/new/a")),
        (rule(Redirect(replace_key_prefix_with=""), key_prefix_equals="docs/"), (301, "http://h:1/a")),
        (rule(Redirect(host_name="x"), key_prefix_equals="other/"), None),
        (rule(Redirect(host_name="x"), http_error_code_returned_equals="404"), None),
        (WebsiteConfiguration(), None),
    ],
)
def test_a_request_is_routed(config: WebsiteConfiguration, expected: tuple[int, str] | None) -> None:
    found = routing.before(config, wire(), "docs/a")
    assert found == (Elsewhere(status=expected[0], location=expected[1]) if expected else None)


def test_an_error_is_routed_by_its_status() -> None:
    config = rule(Redirect(replace_key_with="gone"), http_error_code_returned_equals="404", key_prefix_equals="docs/")
    assert routing.after(config, wire(), "docs/a", 404) == Elsewhere(status=301, location="http://h:1/gone")
    assert routing.after(config, wire(), "docs/a", 403) is None
    assert routing.after(config, wire(), "a", 404) is None


def test_a_bucket_that_is_elsewhere_keeps_path_and_query() -> None:
    config = WebsiteConfiguration(redirect_all_requests_to=RedirectAllRequestsTo(host_name="x", protocol="https"))
    found = routing.before(config, wire("/a%20b", "c=1"), "a b")
    assert found == Elsewhere(status=301, location="https://x/a%20b?c=1")


@pytest.mark.parametrize(
    ("host", "bucket"),
    [
        ("b.s3-website-us-east-1.localhost", "b"),
        ("b.c.s3-website.us-east-1.localhost", "b.c"),
        ("b.s3-website-us-east-1.s3.localhost", "b"),
        ("b.s3-website-eu-west-1.localhost", None),
        ("s3-website-us-east-1.localhost", None),
        ("b.localhost", None),
    ],
)
def test_a_website_has_a_host_of_its_own(host: str, bucket: str | None) -> None:
    assert website_of_host(host, ("localhost", "s3.localhost"), "us-east-1") == bucket
