"""Browsers at the facade: preflights, what answers say to them, and websites."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from common.errors import Denied, WrongState
from mallee.s3.v1 import object_pb2
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
from mallee.walrus.v1.service_pb2 import GetWebConfigurationResponse
from tests.service.facade.conftest import Stage, in_thread
from tests.service.facade.signing_client import Wire
from tests.unit.facade.signing import sign_headers

CORS = GetWebConfigurationResponse(
    cors=CORSConfiguration(
        cors_rules=[CORSRule(allowed_origins=["http://a.example"], allowed_methods=["GET"], max_age_seconds=5)]
    )
)
SITE = "site.s3-website-us-east-1.localhost"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


def ask(stage: Stage, method: str, path: str, *, host: str = "127.0.0.1", **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", stage.port, timeout=15)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, headers={"Host": host, **given})
    answer = connection.getresponse()
    found = Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    connection.close()
    return found


def store(stage: Stage, key: str, body: bytes, bucket: str = "site") -> None:
    stage.backstage.walrus.objects[bucket, key] = body, object_pb2.PutObjectRequest(content_type="text/x")


def publish(stage: Stage, config: WebsiteConfiguration | None = None, bucket: str = "site") -> None:
    config = config or WebsiteConfiguration(
        index_document=IndexDocument(suffix="index.html"), error_document=ErrorDocument(key="error.html")
    )
    stage.backstage.walrus.web[bucket] = GetWebConfigurationResponse(website=config)


async def test_a_browser_may_ask_first(stage: Stage) -> None:
    stage.backstage.walrus.web["b"] = CORS
    headers = {"Origin": "http://a.example", "Access_Control_Request_Method": "GET"}
    answer = await in_thread(ask, stage, "OPTIONS", "/b/k?X-Amz-Signature=x", **headers)
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["access-control-allow-origin"] == "http://a.example"
    assert answer.headers["access-control-max-age"] == "5"
    assert "Origin" in answer.headers["vary"]
    assert answer.headers["x-amz-request-id"]


async def test_a_browser_is_told_why_not(stage: Stage) -> None:
    stage.backstage.walrus.web |= {"b": CORS, "bare": GetWebConfigurationResponse()}
    get, put = ({"Origin": "x", "Access_Control_Request_Method": method} for method in ("GET", "PUT"))
    for path, headers, said in (
        ("/b/k", {}, "<Message>Insufficient information. Origin request header needed.</Message>"),
        ("/c/k", {}, "Insufficient information."),
        ("/b/k", {"Origin": "x"}, "<Message>Invalid Access-Control-Request-Method: null</Message>"),
        ("/b/k", get | {"Access_Control_Request_Method": "FOO"}, "Access-Control-Request-Method: FOO"),
    ):
        answer = await in_thread(ask, stage, "OPTIONS", path, **headers)
        assert (answer.status, said in answer.body.decode()) == (400, True), answer.body
    for path, headers, said in (
        ("/b/k", get, "This CORS request is not allowed."),
        ("/b", get, "<Method>GET</Method><ResourceType>BUCKET</ResourceType>"),
        ("/bare/k", put, "CORS is not enabled for this bucket."),
        ("/bare/k", {"Origin": "x"}, "<Method>OPTIONS</Method><ResourceType>OBJECT</ResourceType>"),
        ("/c/k", put, "Bucket not found</Message><Method>PUT</Method><ResourceType>BUCKET</ResourceType>"),
        ("/", put, "CORS is not enabled for this bucket."),
    ):
        answer = await in_thread(ask, stage, "OPTIONS", path, **headers)
        assert (answer.status, said in answer.body.decode()) == (403, True), answer.body
        assert b"<Code>AccessForbidden</Code>" in answer.body


async def test_answers_and_refusals_say_who_may_read_them(stage: Stage) -> None:
    stage.backstage.walrus.web["b"] = CORS
    store(stage, "k", b"x", "b")
    for path, status in (("/b/k", 200), ("/b/none", 404)):
        answer = await in_thread(ask, stage, "GET", path, Origin="http://a.example")
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (status, "http://a.example")
    for origin in ("http://other.example", None):
        headers = {"Origin": origin} if origin else {}
        answer = await in_thread(ask, stage, "GET", "/b/k", **headers)
        assert (answer.status, "access-control-allow-origin" in answer.headers) == (200, False)
    answer = await in_thread(ask, stage, "GET", "/none/k", Origin="http://a.example")
    assert (answer.status, "access-control-allow-origin" in answer.headers) == (404, False)


async def test_a_website_shows_its_pages(stage: Stage) -> None:
    publish(stage)
    for key, body in (("index.html", b"front"), ("dir/index.html", b"in dir"), ("dir/a b", b"a b")):
        store(stage, key, body)
    for path, body in (("/", b"front"), ("/?a=1", b"front"), ("/dir/", b"in dir"), ("/dir/a%20b", b"a b")):
        for host in (SITE, "site.s3-website.us-east-1.localhost:80"):
            answer = await in_thread(ask, stage, "GET", path, host=host, Authorization="Basic eDp5")
            assert (answer.status, answer.body, answer.headers["content-type"]) == (200, body, "text/x")
    assert all(caller and caller.anonymous for _, _, caller, _ in stage.backstage.walrus.seen)
    answer = await in_thread(ask, stage, "GET", "/", host=SITE, Range="bytes=0-0")
    assert (answer.status, answer.body) == (206, b"f")


async def test_a_host_that_is_called_as_its_bucket_is_its_website_to_browsers_and_the_bucket_to_others(
    stage: Stage,
) -> None:
    name = "www.named.example"
    publish(stage, bucket=name)
    store(stage, "index.html", b"front", name)
    store(stage, "error.html", b"sorry", name)
    for path, expected in (("/", (200, b"front")), ("/none", (404, b"sorry"))):
        answer = await in_thread(ask, stage, "GET", path, host=f"{name}:8773")
        assert (answer.status, answer.body) == expected
    request = sign_headers("GET", f"http://{name}/none", service="s3")
    status, text = await in_thread(Wire(request, b"").send, stage.port)
    assert (status, b"<Code>NoSuchKey</Code>" in text) == (404, True)
    signed = sign_headers("PUT", f"http://{name}/dir/k", service="s3", body=b"new")
    assert (await in_thread(Wire(signed, b"new").send, stage.port))[0] == 200
    assert stage.backstage.walrus.objects[name, "dir/k"][0] == b"new"


async def test_a_host_that_is_called_as_a_bucket_without_a_website_is_the_bucket(stage: Stage) -> None:
    stage.backstage.walrus.web["named.example"] = CORS
    store(stage, "k", b"body", "named.example")
    assert (await in_thread(ask, stage, "GET", "/k", host="named.example")).body == b"body"
    answer = await in_thread(ask, stage, "GET", "/k", host="nobodys.named.example")
    assert (answer.status, b"<Code>" in answer.body) == (404, True)


async def test_a_page_that_the_browser_has_is_not_sent_again(stage: Stage) -> None:
    publish(stage)

    def not_modified(_request: object) -> object:
        raise WrongState("Not Modified", code="NotModified", details={"ETag": '"e"'})

    stage.backstage.walrus.answers["HeadObject"] = not_modified  # type: ignore[assignment]
    answer = await in_thread(ask, stage, "HEAD", "/a", host=SITE, If_None_Match='"e"')
    assert (answer.status, answer.headers["etag"], answer.body) == (304, '"e"', b"")


async def test_a_page_that_is_not_there_is_an_error_document(stage: Stage) -> None:
    publish(stage)
    store(stage, "error.html", b"sorry")
    answer = await in_thread(ask, stage, "GET", "/none", host=SITE, Range="bytes=0-0")
    assert (answer.status, answer.body, answer.headers["content-type"]) == (404, b"sorry", "text/x")


async def test_without_an_error_document_the_error_is_a_page(stage: Stage) -> None:
    publish(stage)
    answer = await in_thread(ask, stage, "GET", "/no<n>e", host=SITE)
    assert (answer.status, answer.headers["x-amz-error-code"]) == (404, "NoSuchKey")
    text = answer.body.decode()
    assert "<h1>404 Not Found</h1>" in text
    assert "<li>Key: no&lt;n&gt;e</li>" in text
    assert "<h3>An Error Occurred While Attempting to Retrieve a Custom Error Document</h3>" in text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    head = await in_thread(ask, stage, "PUT", "/x", host=SITE)
    assert (head.status, b"<li>Code: MethodNotAllowed</li>" in head.body) == (405, True)


@pytest.mark.parametrize(
    ("host", "code"),
    [(SITE.replace("site.", "none.", 1), "NoSuchBucket"), (SITE, "NoSuchWebsiteConfiguration")],
)
async def test_a_bucket_that_is_no_website(stage: Stage, host: str, code: str) -> None:
    stage.backstage.walrus.web["site"] = CORS
    answer = await in_thread(ask, stage, "GET", "/", host=host)
    assert (answer.status, f"<li>Code: {code}</li>" in answer.body.decode()) == (404, True)


async def test_a_page_whose_name_is_no_text_is_refused(stage: Stage) -> None:
    publish(stage)
    answer = await in_thread(ask, stage, "GET", "/%ff", host=SITE)
    assert (answer.status, b"<li>Code: InvalidURI</li>" in answer.body) == (400, True)


async def test_a_website_sends_browsers_elsewhere(stage: Stage) -> None:
    everything = RedirectAllRequestsTo(host_name="x.example")
    publish(stage, WebsiteConfiguration(redirect_all_requests_to=everything))
    answer = await in_thread(ask, stage, "GET", "/a?b=1", host=SITE)
    assert (answer.status, answer.headers["location"], answer.body) == (301, "http://x.example/a?b=1", b"")
    lost = RoutingRule(
        condition=Condition(http_error_code_returned_equals="404"),
        redirect=Redirect(host_name="x.example\r\nSet-Cookie: a=b", replace_key_prefix_with="lost/"),
    )
    publish(stage, WebsiteConfiguration(index_document=IndexDocument(suffix="i"), routing_rules=[lost]))
    answer = await in_thread(ask, stage, "GET", "/a", host=SITE)
    assert answer.status == 301
    assert answer.headers["location"] == "http://x.example%0D%0ASet-Cookie:%20a=b/lost/a"
    assert "set-cookie" not in answer.headers


async def test_a_refused_page_is_shown_as_such(stage: Stage) -> None:
    publish(stage, WebsiteConfiguration(index_document=IndexDocument(suffix="i")))

    def refuse(_request: object) -> object:
        raise Denied("Access Denied", code="AccessDenied")

    stage.backstage.walrus.answers["HeadObject"] = refuse  # type: ignore[assignment]
    answer = await in_thread(ask, stage, "HEAD", "/a", host=SITE)
    assert (answer.status, answer.headers["x-amz-error-code"], answer.body) == (403, "AccessDenied", b"")


async def test_a_folder_is_found_without_its_slash(stage: Stage) -> None:
    publish(stage)
    seen = []

    def head(request: object) -> object:
        seen.append(request)
        return object_pb2.HeadObjectOutput(content_length=1)

    stage.backstage.walrus.answers["HeadObject"] = head  # type: ignore[assignment]
    answer = await in_thread(ask, stage, "GET", "/d%C3%BC/x", host=SITE)
    assert (answer.status, answer.headers["location"]) == (302, "/d%C3%BC/x/")
    assert [getattr(request, "key", "") for request in seen] == ["dü/x/index.html"]
