"""What Walrus does by itself, in a hurry that the operator asked for: access logs, lifecycle rules, notifications."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from common.config_walrus import EventTargetConfig
from deploy import config_file
from tests.cloud.refusal import refused
from tests.cloud_fixture import RunningCloud
from tests.eventually import until


class Target(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Taker)
        self.records: list[dict[str, Any]] = []


class Taker(BaseHTTPRequestHandler):
    server: Target

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.records += json.loads(body)["Records"]
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with Target() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def hurried(fake_cloud: RunningCloud, target: Target) -> Iterator[RunningCloud]:
    """The cloud as an operator has it who edits its configuration; afterwards as it was."""
    before, path = fake_cloud.config, fake_cloud.home / config_file.FILE_NAME
    url = f"http://127.0.0.1:{target.server_port}/events"
    walrus = dataclasses.replace(
        before.walrus,
        lifecycle_day_s=1.0,
        access_log_s=0.5,
        event_targets=(EventTargetConfig(name="hook", url=url),),
    )
    config_file.write(path, dataclasses.replace(before, walrus=walrus))
    fake_cloud.up()
    yield fake_cloud
    config_file.write(path, before)
    fake_cloud.up()


@pytest.fixture(scope="module")
def s3(hurried: RunningCloud) -> Any:
    return hurried.client("s3", "workers")


def test_requests_of_a_logged_bucket_become_lines(s3: Any, hurried: RunningCloud) -> None:
    s3.create_bucket(Bucket="logged")
    s3.create_bucket(Bucket="its-logs")
    assert "LoggingEnabled" not in s3.get_bucket_logging(Bucket="logged")
    enabled = {"TargetBucket": "its-logs", "TargetPrefix": "log-"}
    s3.put_bucket_logging(Bucket="logged", BucketLoggingStatus={"LoggingEnabled": enabled})
    assert s3.get_bucket_logging(Bucket="logged")["LoggingEnabled"] == enabled

    def lines() -> list[str]:
        """All that were delivered; once both requests are among them."""
        s3.put_object(Bucket="logged", Key="a b", Body=b"hello")
        with refused("NoSuchKey", 404):
            s3.get_object(Bucket="logged", Key="none")
        keys = [one["Key"] for one in s3.list_objects_v2(Bucket="its-logs").get("Contents", [])]
        assert all(key.startswith("log-") for key in keys)
        found = [s3.get_object(Bucket="its-logs", Key=key)["Body"].read().decode() for key in keys]
        text = "".join(found)
        return text.splitlines() if "REST.PUT.OBJECT a%20b" in text and "REST.GET.OBJECT none" in text else []

    found = until(lines, what="the log")
    (put, *_) = [line for line in found if "REST.PUT.OBJECT a%20b" in line]
    owner = hurried.account("workers").canonical_user_id
    assert put.startswith(f"{owner} logged [")
    assert ' "PUT /logged/a%20b HTTP/1.1" 200 - - 5 ' in put
    assert " SigV4 - AuthHeader " in put
    assert any("REST.GET.OBJECT none" in line and " 404 NoSuchKey " in line for line in found)
    s3.put_bucket_logging(Bucket="logged", BucketLoggingStatus={})
    assert "LoggingEnabled" not in s3.get_bucket_logging(Bucket="logged")


def test_lifecycle_rules_take_what_is_due(s3: Any) -> None:
    s3.create_bucket(Bucket="expiring")
    s3.put_object(Bucket="expiring", Key="logs/a", Body=b"x")
    s3.put_object(Bucket="expiring", Key="kept", Body=b"x")
    s3.create_multipart_upload(Bucket="expiring", Key="upload")
    rules = [
        {"ID": "logs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 1}},
        {
            "ID": "uploads",
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
        },
    ]
    s3.put_bucket_lifecycle_configuration(Bucket="expiring", LifecycleConfiguration={"Rules": rules})

    def left() -> bool:
        objects = [one["Key"] for one in s3.list_objects_v2(Bucket="expiring").get("Contents", [])]
        return objects == ["kept"] and not s3.list_multipart_uploads(Bucket="expiring").get("Uploads")

    until(left, what="what is due")


def test_an_expired_version_leaves_a_marker_and_tells(s3: Any, target: Target) -> None:
    s3.create_bucket(Bucket="hiding")
    s3.put_bucket_versioning(Bucket="hiding", VersioningConfiguration={"Status": "Enabled"})
    events = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:LifecycleExpiration:*"]
    queue = {"Id": "q", "QueueArn": "arn:aws:sqs:us-east-1:123456789012:hook", "Events": events}
    s3.put_bucket_notification_configuration(
        Bucket="hiding", NotificationConfiguration={"QueueConfigurations": [queue]}
    )
    assert s3.get_bucket_notification_configuration(Bucket="hiding")["QueueConfigurations"] == [queue]
    s3.put_object(Bucket="hiding", Key="k", Body=b"x")
    rule = {"ID": "all", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}}
    s3.put_bucket_lifecycle_configuration(Bucket="hiding", LifecycleConfiguration={"Rules": [rule]})
    markers = until(lambda: s3.list_object_versions(Bucket="hiding").get("DeleteMarkers"), what="the marker")
    assert [(one["Key"], one["IsLatest"]) for one in markers] == [("k", True)]
    assert len(s3.list_object_versions(Bucket="hiding")["Versions"]) == 1

    def told() -> list[str]:
        names = [one["eventName"] for one in target.records if one["s3"]["bucket"]["name"] == "hiding"]
        return names if len(names) >= 2 else []

    assert until(told, what="the news")[:2] == ["ObjectCreated:Put", "LifecycleExpiration:DeleteMarkerCreated"]


def test_a_kill_loses_no_event(hurried: RunningCloud, target: Target) -> None:
    # As clients do by themselves: the facade may not have found the next process yet.
    s3 = hurried.client("s3", "workers", retries={"total_max_attempts": 8, "mode": "standard"})
    s3.create_bucket(Bucket="told")
    topic = {"Id": "t", "TopicArn": "arn:aws:sns:us-east-1::hook", "Events": ["s3:ObjectCreated:Put"]}
    s3.put_bucket_notification_configuration(Bucket="told", NotificationConfiguration={"TopicConfigurations": [topic]})
    for number in range(20):
        s3.put_object(Bucket="told", Key=f"k{number}", Body=b"x")
        if number == 10:
            hurried.kill("walrus-1")
            hurried.wait_ready("walrus-1")

    def keys() -> set[str]:
        return {one["s3"]["object"]["key"] for one in target.records if one["s3"]["bucket"]["name"] == "told"}

    until(lambda: keys() == {f"k{number}" for number in range(20)}, what="all events")


def test_only_targets_of_the_operators_are_told(s3: Any) -> None:
    s3.create_bucket(Bucket="untold")
    queue = {"QueueArn": "arn:aws:sqs:us-east-1:123456789012:elsewhere", "Events": ["s3:ObjectCreated:*"]}
    with refused("InvalidArgument", 400, "Unable to validate the following destination configurations"):
        s3.put_bucket_notification_configuration(
            Bucket="untold", NotificationConfiguration={"QueueConfigurations": [queue]}
        )
