"""Whatever AWS's own client writes, our parser reads; whatever our renderer writes, AWS's own client reads."""

from __future__ import annotations

from typing import Any, cast
from urllib.parse import unquote

import pytest
from botocore.model import Shape
from botocore.parsers import create_parser
from botocore.serialize import create_serializer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ec2_facade.protocol import Contract, Operation, QueryProtocol, RestXmlProtocol, Stream
from tests.unit.codec.samples import fill, values

EC2, STS, S3 = QueryProtocol("ec2"), QueryProtocol("sts"), RestXmlProtocol("s3")
few = settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))


def operations(*contracts: Contract) -> list[Any]:
    return [
        pytest.param(operation, id=f"{contract.service}:{operation.name}")
        for contract in contracts
        for operation in contract.operations.values()
    ]


def query_params(operation: Operation, value: dict[str, Any]) -> dict[str, str]:
    serializer = create_serializer(operation.model.service_model.protocol, include_validation=False)
    body = serializer.serialize_to_request(value, operation.model)["body"]
    return {name: str(item) for name, item in body.items()}


@pytest.mark.parametrize("operation", operations(EC2.contract, STS.contract))
@few
@given(data=st.data())
def test_query_requests_of_aws_clients_are_understood(operation: Operation, data: st.DataObject) -> None:
    protocol = EC2 if operation.service == "ec2" else STS
    value = data.draw(values(operation.model.input_shape, operation.request_class))
    expected = fill(operation.request_class(), operation.model.input_shape, value)
    found, message = protocol.parse(query_params(operation, value))
    assert found is operation
    assert message == expected


@pytest.mark.parametrize("operation", operations(EC2.contract, STS.contract))
@few
@given(data=st.data())
def test_query_answers_are_understood_by_aws_clients(operation: Operation, data: st.DataObject) -> None:
    protocol = EC2 if operation.service == "ec2" else STS
    shape = operation.model.output_shape
    value = data.draw(values(shape, operation.response_class))
    response = protocol.render(operation, fill(operation.response_class(), shape, value), "the-request-id")
    parsed = read(operation, response.status, response.headers, response.body)
    assert parsed["ResponseMetadata"]["RequestId"] == "the-request-id"
    assert without_empty_lists(parsed, value) == value


@pytest.mark.parametrize("operation", operations(S3.contract))
@few
@given(data=st.data())
def test_s3_requests_of_aws_clients_are_understood(operation: Operation, data: st.DataObject) -> None:
    shape = operation.model.input_shape
    value = data.draw(values(shape, operation.request_class))
    is_text = operation.name == "PutBucketPolicy"
    if is_text:
        value.setdefault("Policy", "")
    # HTTP knows no blanks at the ends of what stands in a list without quotes.
    for name in ("ObjectAttributes", "OptionalObjectAttributes"):
        if name in value:
            value[name] = [item if set(item) & {",", '"'} else item.strip() for item in value[name]]
    expected = fill(operation.request_class(), shape, value)
    serializer = create_serializer("rest-xml", include_validation=False)
    request = serializer.serialize_to_request(value, operation.model)
    path, _, literal = request["url_path"].partition("?")
    bucket, _, key = path[1:].partition("/")
    query = dict(pair.partition("=")[::2] for pair in literal.split("&") if pair)
    query |= {name: str(item) for name, item in request["query_string"].items()}
    headers = {name.lower(): item for name, item in request["headers"].items()}
    place = (unquote(bucket) or None, unquote(key) or None)
    found = S3.route(request["method"], *place, query, headers)
    assert found is operation
    body = request["body"] if isinstance(request["body"], bytes) else b""
    if not is_text:
        # The carriage return as botocore's own handler escapes it, after its serializer.
        body = body.replace(b"\r", b"&#xD;")
    if operation.name in ("DeleteObjects", "CompleteMultipartUpload") and not body:
        return
    assert S3.parse(found, *place, query, headers, body) == expected


@pytest.mark.parametrize("operation", operations(S3.contract))
@few
@given(data=st.data())
def test_s3_answers_are_understood_by_aws_clients(operation: Operation, data: st.DataObject) -> None:
    shape = operation.model.output_shape
    value = data.draw(values(shape, operation.response_class))
    # What makes a client decode keys is tested by itself; the length belongs to the transport.
    for member in ("EncodingType", "Body", "ContentRange"):
        value.pop(member, None)
    if operation.name == "GetBucketPolicy":
        # The whole body is one text, so there is one.
        value.setdefault("Policy", "")
    response = S3.render(operation, fill(operation.response_class(), shape, value), "the-request-id")
    parsed = read(operation, response.status, response.headers, response.body)
    assert parsed["ResponseMetadata"]["RequestId"] == "the-request-id"
    if operation.stream is Stream.DOWNLOAD:
        parsed.pop("Body")
    if operation.name == "GetBucketLocation":
        # boto3's handlers alone read this body.
        assert response.body.decode().endswith("</LocationConstraint>")
        return
    assert without_empty_lists(parsed, value) == value


def read(operation: Operation, status: int, headers: list[tuple[str, str]], body: bytes) -> dict[str, Any]:
    """The answer as botocore's own parser reads it."""
    parser = create_parser(operation.model.service_model.protocol)
    shape = operation.model.output_shape
    response = {"status_code": status, "headers": CaseInsensitive(headers), "body": body, "context": {}}
    # Its stubs do not know that an action may have no output.
    parsed: dict[str, Any] = parser.parse(response, cast(Shape, shape))
    return parsed


def without_empty_lists(parsed: Any, value: Any) -> Any:
    """An empty element is a list without items to botocore: left out where none was given."""
    if isinstance(parsed, dict):
        given = value if isinstance(value, dict) else {}
        return {
            name: without_empty_lists(item, given.get(name))
            for name, item in parsed.items()
            if name != "ResponseMetadata" and not (item in ([], {}) and name not in given)
        }
    if isinstance(parsed, list):
        return [without_empty_lists(item, given) for item, given in zip(parsed, value, strict=True)]
    return parsed


class CaseInsensitive(dict[str, str]):
    def __init__(self, headers: list[tuple[str, str]]) -> None:
        super().__init__((name.lower(), item) for name, item in headers)

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)

    def __contains__(self, name: object) -> bool:
        return super().__contains__(str(name).lower())

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())
