"""S3's protocol: which action a request means, what is refused and how answers and errors look."""

from __future__ import annotations

import tracemalloc

import pytest

from common.errors import CloudError, InvalidArgument, NotFound, Unavailable
from ec2_facade.protocol import RestXmlProtocol, Stream
from ec2_facade.protocol.parse_xml import MAX_BYTES, MAX_ITEMS
from mallee.s3.v1 import bucket_pb2, listing_pb2, multipart_pb2, object_pb2

S3 = RestXmlProtocol("s3")
NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


@pytest.mark.parametrize(
    ("method", "bucket", "key", "query", "action"),
    [
        ("GET", None, None, {}, "ListBuckets"),
        ("PUT", "b", None, {}, "CreateBucket"),
        ("HEAD", "b", None, {}, "HeadBucket"),
        ("DELETE", "b", None, {}, "DeleteBucket"),
        ("GET", "b", None, {"location": ""}, "GetBucketLocation"),
        ("GET", "b", None, {}, "ListObjects"),
        ("GET", "b", None, {"list-type": "1"}, "ListObjects"),
        ("GET", "b", None, {"list-type": "2", "prefix": "x"}, "ListObjectsV2"),
        ("GET", "b", None, {"uploads": ""}, "ListMultipartUploads"),
        ("POST", "b", None, {"delete": ""}, "DeleteObjects"),
        ("PUT", "b", "k", {"x-id": "PutObject"}, "PutObject"),
        ("GET", "b", "k", {"partNumber": "1"}, "GetObject"),
        ("HEAD", "b", "k", {}, "HeadObject"),
        ("DELETE", "b", "k", {}, "DeleteObject"),
        ("POST", "b", "k", {"uploads": ""}, "CreateMultipartUpload"),
        ("PUT", "b", "k", {"uploadId": "u", "partNumber": "1"}, "UploadPart"),
        ("POST", "b", "k", {"uploadId": "u"}, "CompleteMultipartUpload"),
        ("DELETE", "b", "k", {"uploadId": "u"}, "AbortMultipartUpload"),
        ("GET", "b", "k", {"uploadId": "u"}, "ListParts"),
    ],
)
def test_a_request_means_one_action(
    method: str, bucket: str | None, key: str | None, query: dict[str, str], action: str
) -> None:
    assert S3.route(method, bucket, key, query, {}).name == action


@pytest.mark.parametrize(
    ("method", "bucket", "key", "query", "headers", "code", "named"),
    [
        ("GET", "b", "k", {"torrent": ""}, {}, "NotImplemented", "GetObjectTorrent"),
        ("POST", "b", None, {}, {}, "MethodNotAllowed", ""),
        ("PATCH", "b", "k", {}, {}, "MethodNotAllowed", ""),
        ("POST", "b", "k", {}, {}, "MethodNotAllowed", ""),
        # What chooses another action must not be overheard: this would delete the object.
        ("DELETE", "b", "k", {"acl": ""}, {}, "MethodNotAllowed", ""),
        ("PUT", "b", "k", {"uploadId": "u"}, {}, "MethodNotAllowed", ""),
        ("GET", "b", "k", {"acl": "", "tagging": ""}, {}, "InvalidArgument", "acl, tagging"),
    ],
)
def test_what_is_not_served_is_refused(
    method: str, bucket: str, key: str | None, query: dict[str, str], headers: dict[str, str], code: str, named: str
) -> None:
    with pytest.raises(CloudError) as caught:
        S3.route(method, bucket, key, query, headers)
    assert caught.value.code == code
    assert named in caught.value.message


def test_a_list_of_parts_takes_empty_numbers_for_none() -> None:
    query = {"uploadId": "u", "max-parts": "", "part-number-marker": ""}
    parsed = S3.parse(S3.route("GET", "b", "k", query, {}), "b", "k", query, {})
    assert not parsed.HasField("max_parts")
    assert not parsed.HasField("part_number_marker")


@pytest.mark.parametrize(
    ("query", "headers", "code", "status"),
    [
        ({"max-keys": "ten"}, {}, "InvalidArgument", 400),
        ({"max-keys": ""}, {}, "InvalidArgument", 400),
    ],
)
def test_members_are_refused_in_s3s_words(
    query: dict[str, str], headers: dict[str, str], code: str, status: int
) -> None:
    operation = S3.route("GET", "b", None, query, headers)
    with pytest.raises(CloudError) as caught:
        S3.parse(operation, "b", None, query, headers)
    assert caught.value.code == code
    assert S3.render_error(caught.value, "id").status == status


@pytest.mark.parametrize("header", [{"x-amz-meta-a": "\udce9"}, {"x-amz-meta-\udce9": "a"}, {"content-type": "\udce9"}])
def test_a_header_that_is_no_utf8_is_refused(header: dict[str, str]) -> None:
    operation = S3.route("PUT", "b", "k", {}, header)
    with pytest.raises(InvalidArgument) as caught:
        S3.parse(operation, "b", "k", {}, header)
    assert S3.render_error(caught.value, "id").status == 400


@pytest.mark.parametrize(
    ("header", "items"),
    [
        ("ETag, ObjectSize", ["ETag", "ObjectSize"]),
        ("", [""]),
        ("a,,b,", ["a", "", "b", ""]),
        ('"a,b" , c', ["a,b", "c"]),
        (r'"a\"b",c"d', ['a"b', 'c"d']),
        ('"a', ['"a']),
        ('"a"b', ['"a"b']),
    ],
)
def test_lists_in_headers_are_items_between_commas(header: str, items: list[str]) -> None:
    headers = {"x-amz-object-attributes": header}
    operation = S3.route("GET", "b", "k", {"attributes": ""}, headers)
    parsed = S3.parse(operation, "b", "k", {"attributes": ""}, headers)
    assert list(parsed.object_attributes) == items  # type: ignore[attr-defined]


def test_an_action_is_known_without_a_header_that_it_needs() -> None:
    assert S3.route("GET", "b", "k", {"attributes": ""}, {}).name == "GetObjectAttributes"
    assert S3.route("PUT", "b", "k", {}, {"x-amz-copy-source": "b/k"}).name == "CopyObject"


def test_a_member_of_s3s_that_we_lack_is_refused_by_name() -> None:
    headers = {"x-amz-write-offset-bytes": "1"}
    operation = S3.route("PUT", "b", "k", {}, headers)
    with pytest.raises(CloudError, match="x-amz-write-offset-bytes") as caught:
        S3.parse(operation, "b", "k", {}, headers)
    assert caught.value.code == "NotImplemented"


def test_presigned_headers_travel_in_the_query() -> None:
    query = {"X-Amz-Signature": "s", "x-amz-acl": "private", "x-amz-meta-Colour": "red"}
    operation = S3.route("PUT", "b", "k", query, {})
    message = S3.parse(operation, "b", "k", query, {})
    assert message == object_pb2.PutObjectRequest(bucket="b", key="k", acl="private", metadata={"colour": "red"})


def test_a_digest_in_the_query_says_nothing_of_the_body() -> None:
    query = {"x-amz-checksum-crc32": "AAAAAA==", "x-amz-sdk-checksum-algorithm": "CRC32", "X-Amz-Checksum-Sha256": "x"}
    operation = S3.route("PUT", "b", "k", query, {})
    assert S3.parse(operation, "b", "k", query, {}) == object_pb2.PutObjectRequest(bucket="b", key="k")
    headers = {"x-amz-checksum-crc32": "iNYV8A=="}
    message = S3.parse(operation, "b", "k", query, headers)
    assert message == object_pb2.PutObjectRequest(bucket="b", key="k", checksum_crc32="iNYV8A==")


def test_a_condition_that_is_no_date_is_ignored() -> None:
    headers = {"if-modified-since": "whenever", "if-none-match": '"x"'}
    operation = S3.route("GET", "b", "k", {}, headers)
    message = S3.parse(operation, "b", "k", {}, headers)
    assert isinstance(message, object_pb2.GetObjectRequest)
    assert not message.HasField("if_modified_since")
    assert message.if_none_match == '"x"'


def delete(body: bytes) -> object_pb2.DeleteObjectsRequest:
    operation = S3.route("POST", "b", None, {"delete": ""}, {})
    message = S3.parse(operation, "b", None, {"delete": ""}, {}, body)
    assert isinstance(message, object_pb2.DeleteObjectsRequest)
    return message


@pytest.mark.parametrize("root", [b"<Delete>", f'<Delete xmlns="{NAMESPACE}">'.encode()])
def test_bodies_are_read_with_and_without_namespace(root: bytes) -> None:
    message = delete(root + b"<Object><Key> a&amp;b </Key></Object> <Quiet> true </Quiet></Delete>")
    assert [item.key for item in message.delete.objects] == [" a&b "]
    assert message.delete.quiet


@pytest.mark.parametrize(
    "body",
    [
        b"nonsense",
        b"<Delete><Object><Key>a</Key></Object>",
        b"<Remove></Remove>",
        b"<Delete><Nonsense/></Delete>",
        b"<Delete><Object></Object></Delete>",
        b"<Delete><Object><Key>a</Key></Object><Quiet>maybe</Quiet></Delete>",
        b"<Delete>text<Object><Key>a</Key></Object></Delete>",
        b"<Delete><Object><Key><b/></Key></Object></Delete>",
        b"<?xml version='1.0' encoding='none-such'?><Delete/>",
        b'<!DOCTYPE d [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><Delete><Object><Key>&b;</Key></Object></Delete>',
        b'<!DOCTYPE d SYSTEM "file:///etc/passwd"><Delete><Object><Key>a</Key></Object></Delete>',
        b"<Delete>" + b" " * MAX_BYTES + b"</Delete>",
        b"<Delete>" + b"<Object><Key>a</Key></Object>" * (MAX_ITEMS + 1) + b"</Delete>",
    ],
)
def test_a_malformed_or_hostile_body_is_malformed_xml(body: bytes) -> None:
    with pytest.raises(InvalidArgument) as caught:
        delete(body)
    assert caught.value.code == "MalformedXML"


def test_a_website_without_routing_rules_has_no_list_of_them() -> None:
    operation = S3.route("PUT", "b", None, {"website": ""}, {})
    body = b"<WebsiteConfiguration>%s<IndexDocument><Suffix>i</Suffix></IndexDocument></WebsiteConfiguration>"
    S3.parse(operation, "b", None, {"website": ""}, {}, body % b"")
    with pytest.raises(InvalidArgument) as caught:
        S3.parse(operation, "b", None, {"website": ""}, {}, body % b"<RoutingRules/>")
    assert caught.value.code == "MalformedXML"


def test_a_malformed_acl_has_a_code_of_its_own() -> None:
    operation = S3.route("PUT", "b", None, {"acl": ""}, {})
    with pytest.raises(InvalidArgument) as caught:
        S3.parse(operation, "b", None, {"acl": ""}, {}, b"<AccessControlPolicy><Mine/></AccessControlPolicy>")
    assert caught.value.code == "MalformedACLError"


def test_an_empty_body_is_missing() -> None:
    with pytest.raises(InvalidArgument) as caught:
        delete(b"")
    assert caught.value.code == "MissingRequestBodyError"


def test_a_deep_body_costs_bounded_memory() -> None:
    body = b"<Delete><Object>" + b"<a>" * 1_000_000
    delete(b"<Delete><Object><Key>a</Key></Object></Delete>")
    tracemalloc.start()
    with pytest.raises(InvalidArgument):
        delete(body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < len(body)


def test_a_range_is_answered_as_partial() -> None:
    operation = S3.route("GET", "b", "k", {}, {})
    assert operation.stream is Stream.DOWNLOAD
    header = object_pb2.GetObjectOutput(
        content_length=2, content_range="bytes 0-1/9", metadata={"a": "b\r\nX: y", "b": "gr\u00fcn"}
    )
    response = S3.render(operation, header, "id-1")
    assert response.status == 206
    assert ("Content-Length", "2") in response.headers
    assert ("x-amz-request-id", "id-1") in response.headers
    assert ("x-amz-meta-a", "b  X: y") in response.headers
    assert ("x-amz-meta-b", "=?UTF-8?B?Z3LDvG4=?=") in response.headers
    assert response.body == b""


def test_keys_are_url_encoded_on_request() -> None:
    operation = S3.route("GET", "b", None, {}, {})
    answer = listing_pb2.ListObjectsOutput(name="b", prefix="ä ", encoding_type="url")
    answer.contents.add(key="a/b+c\x01")
    body = S3.render(operation, answer, "id").body.decode()
    assert "<Prefix>%C3%A4%20</Prefix>" in body
    assert "<Key>a/b%2Bc%01</Key>" in body
    answer.encoding_type = ""
    assert "<Key>a/b+c</Key>" in S3.render(operation, answer, "id").body.decode()


@pytest.mark.parametrize(("region", "text"), [("", ""), ("eu-west-1", "eu-west-1")])
def test_a_location_stands_in_the_root(region: str, text: str) -> None:
    operation = S3.route("GET", "b", None, {"location": ""}, {})
    body = S3.render(operation, bucket_pb2.GetBucketLocationOutput(location_constraint=region), "id").body.decode()
    assert body.endswith(f'<LocationConstraint xmlns="{NAMESPACE}">{text}</LocationConstraint>')


def test_answers_without_a_body_have_none() -> None:
    operation = S3.route("DELETE", "b", "k", {}, {})
    response = S3.render(operation, object_pb2.DeleteObjectOutput(), "id")
    assert (response.status, response.body) == (204, b"")


def test_some_answers_are_not_as_the_model_says() -> None:
    tagging = S3.route("PUT", "b", None, {"tagging": ""}, {})
    assert S3.render(tagging, tagging.response_class(), "id-1").status == 204
    head = S3.route("HEAD", "b", None, {}, {})
    assert ("Content-Type", "application/xml") in S3.render(head, head.response_class(), "id-1").headers


def test_an_upload_answers_by_its_own_root() -> None:
    operation = S3.route("POST", "b", "k", {"uploads": ""}, {})
    answer = multipart_pb2.CreateMultipartUploadOutput(bucket="b", key="k", upload_id="u")
    body = S3.render(operation, answer, "id").body.decode()
    assert f'<InitiateMultipartUploadResult xmlns="{NAMESPACE}"><Bucket>b</Bucket>' in body


def test_an_error_carries_its_details_and_ids() -> None:
    error = NotFound("No such key", code="NoSuchKey", details={"Key": "a<b"})
    response = S3.render_error(error, "id-1", "/b/a<b")
    assert response.status == 404
    body = response.body.decode()
    assert "<Code>NoSuchKey</Code><Message>No such key</Message><Key>a&lt;b</Key><Resource>/b/a&lt;b</Resource>" in body
    assert "<RequestId>id-1</RequestId><HostId>" in body


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (Unavailable("later"), "ServiceUnavailable", 503),
        (CloudError("bug"), "InternalError", 500),
        (CloudError("x", code="PreconditionFailed"), "PreconditionFailed", 412),
        (InvalidArgument("x", code="InvalidRange"), "InvalidRange", 416),
        (InvalidArgument("x"), "InvalidArgument", 400),
    ],
)
def test_s3_errors_have_awss_status(error: CloudError, code: str, status: int) -> None:
    response = S3.render_error(error, "id")
    assert response.status == status
    assert f"<Code>{code}</Code>" in response.body.decode()
