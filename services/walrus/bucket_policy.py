"""Rules of bucket policies: what S3 takes as one, and which of them are public. Pure.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/access-control-block-public-access.html
"""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import Final

from common.errors import InvalidArgument
from common.policy.condition import Condition, Quantifier
from common.policy.document import Effect, Policy, Statement, parse
from common.policy.pattern import Pattern, pattern
from common.policy.problem import malformed
from services.walrus.actions import BUCKET_ACTIONS, OBJECT_ACTIONS
from services.walrus.condition_keys import SAID_AT_THE_BEGINNING, applies_to, is_known
from services.walrus.configs import remembered

# The kind of configuration that it is kept under: the text as it came.
KIND: Final = "Policy"
MAX_BYTES: Final = 20 << 10
ARN: Final = "arn:aws:s3:::"
# The largest takes 140 KB.
_LARGE: Final = 64

# Keys that bind a statement to callers who are known, when their values are fixed.
_BINDING: Final = frozenset(
    {
        "aws:principalaccount",
        "aws:principalarn",
        "aws:principalorgid",
        "aws:sourceaccount",
        "aws:sourcearn",
        "aws:sourceowner",
        "aws:sourcevpc",
        "aws:sourcevpce",
        "aws:userid",
        "s3:dataaccesspointaccount",
        "s3:dataaccesspointarn",
        "s3:x-amz-server-side-encryption-aws-kms-key-id",
    }
)
_EQUALITY: Final = frozenset(
    {"StringEquals", "StringEqualsIgnoreCase", "StringLike", "ArnEquals", "ArnLike", "NumericEquals"}
)
# A wider range of addresses than this is everybody.
_WIDEST: Final = {4: 8, 6: 32}


def check(text: str, bucket: str) -> Policy:
    """The policy, good for that bucket. Raises InvalidArgument (MalformedPolicy, PolicyTooLarge)."""
    if len(text.encode()) > MAX_BYTES:
        raise InvalidArgument(
            f"Normalized policy document exceeds the maximum allowed size of {MAX_BYTES} bytes", code="PolicyTooLarge"
        )
    policy = parse(text)
    for statement in policy.statements:
        _check_statement(statement, bucket)
    return policy


# By its text, so that each state of a bucket's policy is read once.
@remembered(large=_LARGE)
def read(body: bytes) -> Policy:
    return parse(body.decode())


@remembered(large=_LARGE)
def read_for_parts(body: bytes) -> Policy:
    """For the parts and the end of an upload that was begun: what its beginning had to say was asked then."""
    kept = []
    for statement in read(body).statements:
        others = tuple(one for one in statement.conditions if one.key.partition("/")[0] not in SAID_AT_THE_BEGINNING)
        if statement.effect is Effect.ALLOW or others == statement.conditions:
            kept.append(replace(statement, conditions=others))
    return Policy(statements=tuple(kept))


@remembered(large=_LARGE)
def opens(body: bytes) -> bool:
    """The policy of that text is public."""
    return is_public(read(body))


def is_public(policy: Policy) -> bool:
    """A statement allows something to callers whom nothing in it makes known."""
    return any(one.effect is Effect.ALLOW and _is_open(one) for one in policy.statements)


def _check_statement(statement: Statement, bucket: str) -> None:
    on_bucket, on_objects = _kinds(statement.resources, bucket)
    matched = [_matched(pattern) for pattern in statement.actions]
    if not all(matched):
        raise malformed("Policy has invalid action")
    if not statement.other_resources and not statement.other_actions:
        here = (BUCKET_ACTIONS if on_bucket else frozenset()) | (OBJECT_ACTIONS if on_objects else frozenset())
        if any(actions.isdisjoint(here) for actions in matched):
            raise malformed("Action does not apply to any resource(s) in statement")
    for condition in statement.conditions:
        if not is_known(condition.key):
            raise malformed("Policy has an invalid condition key")
        if not statement.other_actions and not all(
            any(applies_to(condition.key, action) for action in actions) for actions in matched
        ):
            raise malformed("Conditions do not apply to combination of actions and resources in statement")


def _kinds(resources: tuple[Pattern, ...], bucket: str) -> tuple[bool, bool]:
    """Whether they speak of the bucket, and of its objects. Raises InvalidArgument for one of another bucket."""
    on_bucket = on_objects = False
    for resource in resources:
        arn, found, rest = resource.text.partition(ARN)
        name, slash, _ = rest.partition("/")
        # What a variable stands for is not known yet.
        here = "${" in name or pattern(name, variables=False).matches(bucket, _nothing)
        if arn or not found or not here:
            raise malformed("Policy has invalid resource")
        on_bucket |= not slash
        on_objects |= bool(slash) or "*" in name or "${" in name
    return on_bucket, on_objects


def _matched(action: Pattern) -> frozenset[str]:
    return frozenset(one for one in BUCKET_ACTIONS | OBJECT_ACTIONS if action.matches(one, _nothing))


def _is_open(statement: Statement) -> bool:
    return statement.principals.everybody and not any(map(_binds, statement.conditions))


def _binds(condition: Condition) -> bool:
    if condition.if_exists or condition.quantifier is Quantifier.ALL:
        return False
    if condition.key == "aws:sourceip":
        return condition.operator == "IpAddress" and all(map(_is_narrow, condition.values))
    if condition.key not in _BINDING or condition.operator not in _EQUALITY:
        return False
    return all(pattern(value, variables=True).is_fixed for value in condition.values)


def _is_narrow(value: str) -> bool:
    network = ipaddress.ip_network(value, strict=False)
    return network.prefixlen >= _WIDEST[network.version]


def _nothing(_: str) -> None:
    """A request that says nothing of itself."""
