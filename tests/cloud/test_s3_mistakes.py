"""Nonsense of every shape to S3, by boto3 without its checks: a client's mistake, and nothing has changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from botocore import xform_name
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.handlers import validate_bucket_name
from botocore.model import ListShape, MapShape, Shape, StructureShape
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ec2_facade.protocol import Contract
from tests.cloud.test_ec2_mistakes import READS, WRONG
from tests.cloud_fixture import RunningCloud

OPERATIONS = Contract("s3").operations
THEIRS, ABSENT = "theirs-and-not-ours", "there-is-no-such-bucket"
BUCKETS = [THEIRS, ABSENT, "UPPER", "a", "..", "-", "x" * 64, "192.168.5.4", "xn--a", "a_b", "%2e%2e", " "]
KEYS = ["key", "dir/", "../../etc/passwd", "k" * 1025, "ü" * 600, "\x00", "\ufffe", ".", "a//b", " ", "?x=1", "key\n"]
# What botocore itself cannot write down.
UNSENDABLE = (BotoCoreError, TypeError, ValueError, AttributeError, KeyError, IndexError)


@pytest.fixture(scope="module")
def theirs(fake_cloud: RunningCloud) -> Iterator[Any]:
    """A client of the account whose bucket everybody else is after."""
    s3 = fake_cloud.client("s3", "neighbour")
    s3.create_bucket(Bucket=THEIRS)
    s3.put_object(Bucket=THEIRS, Key="key", Body=b"kept")
    upload = s3.create_multipart_upload(Bucket=THEIRS, Key="upload")["UploadId"]
    s3.upload_part(Bucket=THEIRS, Key="upload", UploadId=upload, PartNumber=1, Body=b"part")
    yield s3
    s3.abort_multipart_upload(Bucket=THEIRS, Key="upload", UploadId=upload)
    s3.delete_object(Bucket=THEIRS, Key="key")
    s3.delete_bucket(Bucket=THEIRS)


def everything(s3: Any) -> Any:
    """All that is in their bucket, and whose buckets there are."""
    uploads = s3.list_multipart_uploads(Bucket=THEIRS)["Uploads"]
    parts = [s3.list_parts(Bucket=THEIRS, Key=u["Key"], UploadId=u["UploadId"])["Parts"] for u in uploads]
    listed = s3.list_objects_v2(Bucket=THEIRS)["Contents"]
    return listed, uploads, parts, s3.list_buckets()["Buckets"], s3.get_object(Bucket=THEIRS, Key="key")["Body"].read()


@st.composite
def values(draw: st.DrawFn, shape: Shape, name: str = "", depth: int = 0) -> Any:
    """In botocore's terms, now and then of another type than it says."""
    if name == "Bucket":
        return draw(st.sampled_from(BUCKETS))
    if name in ("Key", "Prefix"):
        return draw(st.sampled_from(KEYS))
    bent = depth > 0 and draw(st.integers(0, 39)) == 0
    if isinstance(shape, ListShape) and not bent:
        return draw(st.lists(values(shape.member, depth=depth + 1), max_size=2))
    if isinstance(shape, MapShape) and not bent:
        return draw(st.dictionaries(st.text("a-Z ü", max_size=5), st.sampled_from(WRONG), max_size=2))
    if isinstance(shape, StructureShape) and not bent:
        members = sorted(shape.members.items()) if depth < 4 else []
        # A client that announces more bytes than it sends is waited for: that is another test's.
        members = [(n, m) for n, m in members if n != "ContentLength"]
        chosen = draw(st.lists(st.sampled_from(members), max_size=4, unique_by=lambda m: m[0])) if members else []
        needed = [(n, m) for n, m in members if n in shape.required_members]
        return {n: draw(values(m, n, depth + 1)) for n, m in dict((*needed, *chosen)).items()}
    if enum := getattr(shape, "enum", ()):
        return draw(st.sampled_from([*enum, "NO_SUCH"]))
    if shape.type_name in ("integer", "long"):
        return draw(st.sampled_from([0, 1, -1, 5, 10_001, 2**31, 2**63, "x", ""]))
    if shape.type_name == "boolean":
        return draw(st.sampled_from([True, False, "perhaps"]))
    if shape.type_name == "blob":
        return draw(st.binary(max_size=100))
    if shape.type_name == "timestamp":
        return draw(st.sampled_from(["2011-01-01T00:00:00Z", 0, 2**33]))
    return draw(st.sampled_from(WRONG))


@st.composite
def requests(draw: st.DrawFn) -> list[tuple[str, dict[str, Any]]]:
    """One of every action. A bucket of a right name that is nobody's would be made: there is none among them."""
    found = []
    for action, operation in sorted(OPERATIONS.items()):
        drawn = draw(values(operation.model.input_shape or StructureShape("", {"members": {}})))
        if action == "CreateBucket" and drawn.get("Bucket") == ABSENT:
            drawn["Bucket"] = THEIRS
        found.append((action, drawn))
    return found


def answer(client: Any, action: str, parameters: dict[str, Any]) -> tuple[int, str] | None:
    """(status, error code or nothing); None: it was not sent."""
    try:
        done = getattr(client, xform_name(action))(**parameters)
    except ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]
    except HTTPClientError as error:
        # A header that http.client does not write; anything else is the cloud's doing.
        if not isinstance(error.kwargs.get("error"), UNSENDABLE):
            raise
        return None
    except UNSENDABLE:
        return None
    # DeleteObjects refuses key by key.
    refused = done.get("Errors", []) if action == "DeleteObjects" else []
    return done["ResponseMetadata"]["HTTPStatusCode"], refused[0]["Code"] if refused else ""


def test_nonsense_is_a_clients_mistake_and_changes_nothing(fake_cloud: RunningCloud, theirs: Any) -> None:
    client = fake_cloud.client("s3", "mistaken", parameter_validation=False)
    client.meta.events.unregister("before-parameter-build.s3", validate_bucket_name)
    before, sent = everything(theirs), set()

    @settings(
        max_examples=25,
        derandomize=True,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(requests())
    def nonsense(batch: list[tuple[str, dict[str, Any]]]) -> None:
        for action, drawn in batch:
            shown = action, {name: repr(value)[:60] for name, value in drawn.items()}
            if (told := answer(client, action, drawn)) is None:
                continue
            status, code = told
            sent.add(action)
            assert status < 500 or status == 501, (shown, code)
            # DeleteObjects tells of each key by itself.
            assert code or action.startswith((*READS, "List", "Head", "DeleteObjects")), shown
        assert everything(theirs) == before

    nonsense()
    assert sent == set(OPERATIONS)
    assert client.list_buckets()["Buckets"] == []
