"""What a bucket's CORS and website configurations may say, and the words in which S3 refuses the rest."""

from __future__ import annotations

from typing import Any

import pytest

from common.errors import CloudError
from mallee.s3.v1.cors_pb2 import CORSConfiguration, CORSRule
from mallee.s3.v1.website_pb2 import (
    Condition,
    ErrorDocument,
    IndexDocument,
    Redirect,
    RedirectAllRequestsTo,
    RoutingRule,
    WebsiteConfiguration,
)
from services.walrus import cors, website

INDEX = IndexDocument(suffix="index.html")


def cors_of(**rule: Any) -> CORSConfiguration:
    given = {"allowed_methods": ["GET"], "allowed_origins": ["*"]} | rule
    return CORSConfiguration(cors_rules=[CORSRule(**given)])


def routed(redirect: Redirect, condition: Condition | None = None) -> WebsiteConfiguration:
    rule = RoutingRule(redirect=redirect, condition=condition)
    return WebsiteConfiguration(index_document=INDEX, routing_rules=[rule])


@pytest.mark.parametrize(
    "config",
    [
        cors_of(),
        cors_of(
            allowed_methods=["GET", "PUT", "POST", "DELETE", "HEAD"],
            allowed_origins=["http://*.x"],
            allowed_headers=["x-*"],
        ),
        CORSConfiguration(cors_rules=list(cors_of().cors_rules) * 100),
    ],
)
def test_cors_rules_that_are_good(config: CORSConfiguration) -> None:
    assert cors.checked(config) == config


@pytest.mark.parametrize(
    ("config", "code", "said"),
    [
        (CORSConfiguration(), "MalformedXML", ""),
        (CORSConfiguration(cors_rules=list(cors_of().cors_rules) * 101), "MalformedXML", ""),
        (cors_of(expose_headers=["x" * 70_000]), "MalformedXML", ""),
        (cors_of(allowed_methods=[]), "MalformedXML", ""),
        (cors_of(allowed_origins=[]), "MalformedXML", ""),
        (cors_of(max_age_seconds=-1), "MalformedXML", ""),
        (cors_of(id="x" * 256), "InvalidRequest", "255"),
        (cors_of(allowed_methods=["PATCH"]), "InvalidRequest", "Unsupported method is PATCH"),
        (cors_of(allowed_methods=["get"]), "InvalidRequest", "Unsupported method is get"),
        (cors_of(allowed_origins=["*.x.*"]), "InvalidRequest", 'AllowedOrigin "*.x.*" can not have more than one'),
        (cors_of(allowed_headers=["**"]), "InvalidRequest", 'AllowedHeader "**" can not have more than one wildcard.'),
        (cors_of(allowed_headers=["x-a b"]), "InvalidRequest", 'AllowedHeader "x-a b" contains invalid character.'),
        (cors_of(allowed_headers=[""]), "InvalidRequest", 'AllowedHeader "" contains invalid character.'),
        (cors_of(expose_headers=["x-*"]), "InvalidRequest", 'ExposeHeader "x-*" contains wildcard.'),
    ],
)
def test_cors_rules_that_are_not(config: CORSConfiguration, code: str, said: str) -> None:
    with pytest.raises(CloudError) as caught:
        cors.checked(config)
    assert caught.value.code == code
    assert said in caught.value.message


@pytest.mark.parametrize(
    "config",
    [
        WebsiteConfiguration(index_document=INDEX),
        WebsiteConfiguration(redirect_all_requests_to=RedirectAllRequestsTo(host_name="x", protocol="https")),
        routed(Redirect(host_name="x", http_redirect_code="308"), Condition(http_error_code_returned_equals="503")),
        routed(Redirect(replace_key_prefix_with=""), Condition(key_prefix_equals="a/")),
    ],
)
def test_websites_that_are_good(config: WebsiteConfiguration) -> None:
    assert website.checked(config) == config


@pytest.mark.parametrize(
    ("config", "code", "said"),
    [
        (WebsiteConfiguration(), "InvalidArgument", "A value for IndexDocument Suffix must be provided"),
        (WebsiteConfiguration(index_document=IndexDocument(suffix="")), "InvalidArgument", "not well formed"),
        (WebsiteConfiguration(index_document=IndexDocument(suffix="a/b")), "InvalidArgument", "not well formed"),
        (
            WebsiteConfiguration(index_document=INDEX, error_document=ErrorDocument(key="")),
            "InvalidArgument",
            "ErrorDocument Key is not well formed",
        ),
        (
            WebsiteConfiguration(index_document=INDEX, redirect_all_requests_to=RedirectAllRequestsTo(host_name="x")),
            "InvalidArgument",
            "cannot be provided in conjunction",
        ),
        (WebsiteConfiguration(redirect_all_requests_to=RedirectAllRequestsTo()), "MalformedXML", ""),
        (
            WebsiteConfiguration(redirect_all_requests_to=RedirectAllRequestsTo(host_name="x", protocol="ftp")),
            "InvalidRequest",
            "Invalid protocol",
        ),
        (
            WebsiteConfiguration(
                index_document=INDEX, routing_rules=[RoutingRule(redirect=Redirect(host_name="x"))] * 51
            ),
            "InvalidRequest",
            "51 routing rules provided",
        ),
        (routed(Redirect()), "MalformedXML", ""),
        (routed(Redirect(protocol="HTTP")), "InvalidRequest", "Invalid protocol"),
        (routed(Redirect(replace_key_with="a", replace_key_prefix_with="b")), "InvalidRequest", "but not both"),
        (routed(Redirect(http_redirect_code="200")), "InvalidRequest", "(200) is not valid"),
        (routed(Redirect(http_redirect_code="300")), "InvalidRequest", "3XX except 300"),
        (routed(Redirect(host_name="x"), Condition()), "InvalidRequest", "Condition cannot be empty"),
        (
            routed(Redirect(host_name="x"), Condition(http_error_code_returned_equals="302")),
            "InvalidRequest",
            "Valid codes are 4XX or 5XX",
        ),
    ],
)
def test_websites_that_are_not(config: WebsiteConfiguration, code: str, said: str) -> None:
    with pytest.raises(CloudError) as caught:
        website.checked(config)
    assert caught.value.code == code
    assert said in caught.value.message
