"""Notifications of a bucket: which may be configured, which of them an event concerns, and what is told. Pure.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/EventNotifications.html. A target is an ARN of SNS, SQS or Lambda
whose last part is a name that the operator has given to an HTTP address: each event is POSTed there.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from typing import Any, Final
from urllib.parse import quote_plus

from common.errors import InvalidArgument
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1.notification_pb2 import NotificationConfiguration, NotificationConfigurationFilter
from services.walrus import configs, errors
from services.walrus.drivers.base import Bucket

# What is told here, by the names that S3 gives them.
EVENTS: Final = frozenset(
    {
        "s3:ObjectCreated:Put",
        "s3:ObjectCreated:Post",
        "s3:ObjectCreated:Copy",
        "s3:ObjectCreated:CompleteMultipartUpload",
        "s3:ObjectRemoved:Delete",
        "s3:ObjectRemoved:DeleteMarkerCreated",
        "s3:ObjectTagging:Put",
        "s3:ObjectTagging:Delete",
        "s3:ObjectAcl:Put",
        "s3:LifecycleExpiration:Delete",
        "s3:LifecycleExpiration:DeleteMarkerCreated",
    }
)
_GROUPS: Final = frozenset(event.rpartition(":")[0] + ":*" for event in EVENTS)
_ARN: Final = re.compile(r"arn:aws:(?:sns|sqs|lambda):[a-z0-9-]*:(\d{12})?:(?:function:)?([A-Za-z0-9_-]+)\Z")
_FILTER_CHARACTERS: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    id: str
    # The operator's name for where it goes.
    target: str
    events: frozenset[str]
    prefix: str = ""
    suffix: str = ""

    def concerns(self, event: str, key: str) -> bool:
        return (
            (event in self.events or event.rpartition(":")[0] + ":*" in self.events)
            and key.startswith(self.prefix)
            and key.endswith(self.suffix)
        )

    def overlaps(self, other: Rule) -> bool:
        """Some event of some key would be told by both."""
        events = any(_same(one, two) for one in self.events for two in other.events)
        prefixes = self.prefix.startswith(other.prefix) or other.prefix.startswith(self.prefix)
        suffixes = self.suffix.endswith(other.suffix) or other.suffix.endswith(self.suffix)
        return events and prefixes and suffixes


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One that is to be told: as it goes out but for its sequencer, which is its place in the order of commits."""

    target: str
    record: dict[str, Any]


def checked(configuration: NotificationConfiguration, targets: Collection[str]) -> NotificationConfiguration:
    """With an id for every rule. Raises InvalidArgument in S3's words."""
    for part in _parts(configuration):
        if not part.id:
            part.id = secrets.token_hex(16)
        _check_events(part.events)
        _check_filter(part.filter)
        match = _ARN.match(_arn(part))
        if match is None:
            raise errors.invalid_argument("The ARN is not well formed", name=_arn_name(part), value=_arn(part))
        if match[2] not in targets:
            raise errors.invalid_argument(
                "Unable to validate the following destination configurations: the operator of this cloud has named no "
                f"event target {match[2]}",
                name=_arn(part),
                value="not known here",
            )
    found = list(rules_of(configuration))
    if len({rule.id for rule in found}) < len(found):
        raise _argument("Same ID used for multiple configurations. IDs must be unique", "Id")
    if any(one.overlaps(two) for one, two in combinations(found, 2)):
        raise _argument(
            "Configuration is ambiguously defined. Cannot have overlapping suffixes in two rules if the prefixes are "
            "overlapping for the same event type.",
            "Filter",
        )
    return configuration


# Every write of an object asks.
@configs.remembered(large=4)
def rules_in(body: bytes) -> tuple[Rule, ...]:
    """Of a configuration as it is kept."""
    return tuple(rules_of(NotificationConfiguration.FromString(body)))


def rules_of(configuration: NotificationConfiguration) -> Iterator[Rule]:
    for part in _parts(configuration):
        match = _ARN.match(_arn(part))
        assert match is not None
        filters = {rule.name.lower(): rule.value for rule in part.filter.key.filter_rules}
        yield Rule(
            id=part.id,
            target=match[2],
            events=frozenset(part.events),
            prefix=filters.get("prefix", ""),
            suffix=filters.get("suffix", ""),
        )


def record(
    event: str,
    bucket: Bucket,
    caller: Caller | None,
    rule: Rule,
    *,
    region: str,
    request_id: str,
    now_ms: int,
    told: dict[str, Any],
) -> dict[str, Any]:
    """https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html

    `told`: of the object, by S3's names: key, size, eTag, versionId.
    """
    stamp = datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
    return {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": region,
        "eventTime": f"{stamp}{now_ms % 1000:03d}Z",
        "eventName": event.removeprefix("s3:"),
        "userIdentity": {"principalId": _principal(caller)},
        "requestParameters": {"sourceIPAddress": caller.source_ip if caller else ""},
        "responseElements": {"x-amz-request-id": request_id},
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": rule.id,
            "bucket": {
                "name": bucket.name,
                "ownerIdentity": {"principalId": bucket.owner_id},
                "arn": f"arn:aws:s3:::{bucket.name}",
            },
            "object": {**told, "key": quote_plus(told["key"], safe="/")},
        },
    }


def _principal(caller: Caller | None) -> str:
    if caller is None:
        return "s3.amazonaws.com"
    return f"AWS:{caller.user_id or caller.account_id}" if caller.account_id else "Anonymous"


def _parts(configuration: NotificationConfiguration) -> Iterator[Any]:
    yield from configuration.topic_configurations
    yield from configuration.queue_configurations
    yield from configuration.lambda_function_configurations


def _arn_name(part: Any) -> str:
    (name,) = (field for field in ("TopicArn", "QueueArn", "LambdaFunctionArn") if field[:5] in type(part).__name__)
    return name


def _arn(part: Any) -> str:
    field = {"TopicArn": "topic_arn", "QueueArn": "queue_arn", "LambdaFunctionArn": "lambda_function_arn"}
    return str(getattr(part, field[_arn_name(part)]))


def _check_events(events: Collection[str]) -> None:
    if not events:
        raise errors.malformed_xml()
    for event in events:
        if event not in EVENTS | _GROUPS:
            raise errors.invalid_argument("The event is not supported for notifications", name="Event", value=event)


def _check_filter(chosen: NotificationConfigurationFilter) -> None:
    names = [rule.name.lower() for rule in chosen.key.filter_rules]
    if not set(names) <= {"prefix", "suffix"}:
        raise _argument("filter rule name must be either prefix or suffix", "FilterRule.Name")
    if len(set(names)) < len(names):
        raise _argument("Cannot specify more than one prefix or suffix rule in a filter.", "FilterRule.Name")
    if any(len(rule.value) > _FILTER_CHARACTERS for rule in chosen.key.filter_rules):
        raise _argument(f"Size of filter rule value cannot exceed {_FILTER_CHARACTERS} bytes in UTF-8", "FilterRule")


def _same(one: str, two: str) -> bool:
    return one == two or any(
        wide.endswith(":*") and narrow.startswith(wide[:-1]) for wide, narrow in ((one, two), (two, one))
    )


def _argument(message: str, name: str) -> InvalidArgument:
    return errors.invalid_argument(message, name=name, value="")
