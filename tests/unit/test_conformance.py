"""The conformance report is true of the codec: what it calls refused is refused by name, what it honours gets through.

That the services read what gets through is shown where they are tested, with a recording request.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import pytest
from botocore.model import ListShape, MapShape, OperationModel, Shape, StructureShape
from botocore.serialize import create_serializer

from common.errors import Unsupported
from ec2_facade.protocol import QueryProtocol, RestXmlProtocol
from ec2_facade.s3 import post
from tools.conformance import Action, Service, as_html, as_text, evaluated_filters, named_fields, survey

NAMED = named_fields()
REPORTS = {
    service: survey(service, evaluated_filters() if service == "ec2" else {}, NAMED) for service in ("ec2", "sts", "s3")
}
QUERY = {"ec2": QueryProtocol("ec2"), "sts": QueryProtocol("sts")}
S3 = RestXmlProtocol("s3")
WHEN = "2026-01-31T12:00:00Z"
SCALARS: dict[str, Any] = {
    "integer": 1,
    "long": 1,
    "boolean": True,
    "double": 1.0,
    "float": 1.0,
    "timestamp": WHEN,
    "blob": b"x",
}


def actions() -> list[Any]:
    return [
        pytest.param(report, action, id=f"{report.name}:{action.name}")
        for report in REPORTS.values()
        for action in report.served
    ]


def value_at(shape: Shape, path: str, leaf: Any = None) -> Any:
    """The least value of a shape in which the member at `path` is set: its own required members and that one."""
    if isinstance(shape, ListShape):
        return [value_at(shape.member, path, leaf)]
    if isinstance(shape, MapShape):
        return {"k": value_at(shape.value, "")}
    if not isinstance(shape, StructureShape):
        known = getattr(shape, "enum", None) or ["x"]
        return SCALARS.get(shape.type_name, known[0]) if leaf is None else leaf
    head, _, rest = path.partition(".")
    wanted = {head.removesuffix("[]"): rest} if head else {}
    if not head and not shape.required_members and shape.members:
        wanted[next(iter(shape.members))] = ""
    return {
        name: value_at(member, wanted.get(name, ""), leaf if name in wanted else None)
        for name, member in shape.members.items()
        if name in wanted or name in shape.required_members
    }


def send(service: str, model: OperationModel, value: dict[str, Any]) -> None:
    """Through AWS's serializer into our parser."""
    serializer = create_serializer(model.service_model.protocol, include_validation=False)
    request = serializer.serialize_to_request(value, model)
    if service != "s3":
        QUERY[service].parse({name: str(item) for name, item in request["body"].items()})
        return
    path, _, literal = request["url_path"].partition("?")
    bucket, _, key = path[1:].partition("/")
    query = dict(pair.partition("=")[::2] for pair in literal.split("&") if pair)
    query |= {name: str(item) for name, item in request["query_string"].items()}
    headers = {name.lower(): item for name, item in request["headers"].items()}
    place = (unquote(bucket) or None, unquote(key) or None)
    operation = S3.route(request["method"], *place, query, headers)
    assert operation.name == model.name
    body = request["body"] if isinstance(request["body"], bytes) and not model.has_streaming_input else b""
    S3.parse(operation, *place, query, headers, body)


def contract_of(service: str) -> Any:
    return S3.contract if service == "s3" else QUERY[service].contract


def tries(report: Service, action: Action, paths: tuple[str, ...]) -> Iterator[tuple[str, OperationModel, Any]]:
    """A request for each path, `Path (value, value)` with the first of its values."""
    model = contract_of(report.name).model.operation_model(action.name)
    for entry in paths:
        path, _, values = entry.partition(" (")
        leaf = values.rstrip(")").split(", ")[0]
        yield path, model, value_at(model.input_shape, path, {"": None, "false": False}.get(leaf, leaf))


@pytest.mark.parametrize(("report", "action"), actions())
def test_what_is_refused_is_refused_by_name(report: Service, action: Action) -> None:
    for path, model, value in tries(report, action, action.input.missing):
        with pytest.raises(Unsupported) as caught:
            send(report.name, model, value)
        assert caught.value.code in ("UnsupportedOperation", "NotImplemented"), path


@pytest.mark.parametrize(("report", "action"), actions())
def test_what_is_honoured_gets_through(report: Service, action: Action) -> None:
    for _, model, value in tries(report, action, action.input.honoured + action.input.restricted):
        if action.name == "CompleteMultipartUpload":
            # Required in fact, though not by the model.
            value.setdefault("MultipartUpload", {"Parts": [{"PartNumber": 1}]})
        send(report.name, model, value)


def test_a_browsers_form_brings_what_the_report_says() -> None:
    (form,) = REPORTS["s3"].beside
    assert form.name == "PostObject"
    assert {"acl", "key", "policy", "success_action_status", "tagging", "x-amz-meta-*"} <= set(form.input.honoured)
    tags = "<Tagging><TagSet><Tag><Key>k</Key><Value>v</Value></Tag></TagSet></Tagging>"
    values = {"tagging": tags, "expires": "Wed, 21 Oct 2026 07:28:00 GMT", "x-amz-object-lock-retain-until-date": WHEN}

    def bring(field: str, value: str = "x") -> Any:
        field = field.replace("*", "name")
        put = S3.contract.operations["PutObject"]
        return post.put_request(S3, put, "bucket", {"key": "k", field: values.get(field, value)})

    bare = set(members_of(bring("key", "k")))
    for field in set(form.input.honoured) - post.OWN_FIELDS:
        assert set(members_of(bring(field))) - bare, field
    for field in form.input.missing:
        with pytest.raises(Unsupported):
            bring(field)


def members_of(request: Any) -> list[str]:
    return [field.name for field, _ in request.ListFields()]


def test_every_action_of_aws_is_served_or_refused() -> None:
    for name, report in REPORTS.items():
        served = {action.name for action in report.served}
        assert served | set(report.refused) == set(contract_of(name).model.operation_names)
        assert served == contract_of(name).operations.keys()


def test_filters_are_those_that_are_evaluated() -> None:
    filters = {action.name: action.filters for action in REPORTS["ec2"].served if action.filters is not None}
    assert all(found.honoured for found in filters.values())
    assert "region-name" in filters["DescribeRegions"].honoured
    instances = filters["DescribeInstances"]
    assert {"instance-state-name", "reservation-id", "tag:<key>"} <= set(instances.honoured)
    # Values that the documentation lists within a filter's entry are no filters.
    assert not {"critical", "high"} & set(filters["DescribeImages"].honoured)
    assert {name: found.refused for name, found in filters.items() if found.refused} == {}


def test_an_output_that_no_service_fills_is_absent() -> None:
    console = next(action for action in REPORTS["ec2"].served if action.name == "GetConsoleOutput")
    assert {"InstanceId", "Output", "Timestamp"} <= set(console.output.honoured)
    unfilled = survey("ec2", {}, NAMED - {"timestamp"})
    console = next(action for action in unfilled.served if action.name == "GetConsoleOutput")
    assert "Timestamp" in console.output.missing


def test_the_report_reads_as_text_and_html() -> None:
    reports = list(REPORTS.values())
    assert f"ec2: {len(REPORTS['ec2'].served)} of {REPORTS['ec2'].known} actions served" in as_text(reports)
    assert "<summary>RunInstances</summary>" in as_html(reports)
