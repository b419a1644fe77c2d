"""A policy document: JSON read into statements that can be evaluated.

Raises InvalidArgument (MalformedPolicy) with S3's messages. Whether a service has the actions, resources and keys that
a document names is for the service to say.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from common.policy.condition import Condition, condition
from common.policy.pattern import Pattern, pattern
from common.policy.principal import Principals, read_principals
from common.policy.problem import bad_syntax, malformed

# Variables came with it.
_LATEST: Final = "2012-10-17"
_VERSIONS: Final = ("2008-10-17", _LATEST)
_FIELDS: Final = frozenset({"Version", "Id", "Statement"})
_STATEMENT_FIELDS: Final = frozenset(
    {
        "Sid",
        "Effect",
        "Principal",
        "NotPrincipal",
        "Action",
        "NotAction",
        "Resource",
        "NotResource",
        "Condition",
    }
)


class Effect(StrEnum):
    ALLOW = "Allow"
    DENY = "Deny"


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    sid: str
    effect: Effect
    principals: Principals
    # NotPrincipal, NotAction, NotResource: it speaks of all others.
    other_principals: bool = False
    actions: tuple[Pattern, ...]
    other_actions: bool = False
    resources: tuple[Pattern, ...]
    other_resources: bool = False
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    statements: tuple[Statement, ...]


def parse(text: str) -> Policy:
    """Of a policy that is attached to a resource, so that each statement says whom it speaks of."""
    document = _read(text)
    for name in document.keys() - _FIELDS:
        raise malformed(f"Unknown field {name}")
    if "Statement" not in document:
        raise malformed("Missing required field Statement")
    version = document.get("Version", _VERSIONS[0])
    if version not in _VERSIONS:
        raise malformed("The policy must contain a valid version string")
    if not isinstance(document.get("Id", ""), str):
        raise bad_syntax("Id")
    written = document["Statement"]
    statements = written if isinstance(written, list) else [written]
    if not statements:
        raise malformed("Could not parse the policy: Statement is empty!")
    parsed = tuple(_statement(one, variables=version == _LATEST) for one in statements)
    sids = [one.sid for one in parsed if one.sid]
    if len(sids) != len(set(sids)):
        raise malformed("Statement IDs (SID) in a single policy must be unique.")
    return Policy(statements=parsed)


def _read(text: str) -> dict[str, Any]:
    if not text.startswith("{"):
        raise malformed("Policies must be valid JSON and the first byte must be '{'")
    try:
        found = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError):
        raise malformed("This policy contains invalid Json") from None
    assert isinstance(found, dict)
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A name that stands there twice would hide one of its values."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands in an object twice")
    return found


def _statement(written: Any, *, variables: bool) -> Statement:
    if not isinstance(written, dict):
        raise bad_syntax("Statement")
    for name in written.keys() - _STATEMENT_FIELDS:
        raise malformed(f"Unknown field {name}")
    sid = written.get("Sid", "")
    if not isinstance(sid, str):
        raise bad_syntax("Sid")
    effect = _effect(written)
    who, other_principals = _one_of(written, "Principal")
    what, other_actions = _one_of(written, "Action")
    where, other_resources = _one_of(written, "Resource")
    if other_principals and effect is Effect.ALLOW:
        raise malformed("Allow with NotPrincipal is not allowed.")

    def patterns(given: Any, problem: str, make: Callable[[str], Pattern]) -> tuple[Pattern, ...]:
        texts = given if isinstance(given, list) else [given]
        if not texts or not all(isinstance(one, str) and one for one in texts):
            raise malformed(problem)
        return tuple(map(make, texts))

    return Statement(
        sid=sid,
        effect=effect,
        principals=read_principals(who),
        other_principals=other_principals,
        actions=patterns(what, "Policy has invalid action", _action),
        other_actions=other_actions,
        resources=patterns(where, "Policy has invalid resource", lambda one: pattern(one, variables=variables)),
        other_resources=other_resources,
        conditions=_conditions(written.get("Condition", {}), variables=variables),
    )


def _effect(written: Mapping[str, Any]) -> Effect:
    if "Effect" not in written:
        raise malformed("Missing required field Effect")
    try:
        return Effect(written["Effect"])
    except ValueError:
        raise malformed(f"Invalid effect: {written['Effect']}") from None


def _one_of(written: Mapping[str, Any], name: str) -> tuple[Any, bool]:
    """The element, and whether it is the Not… one."""
    opposite = f"Not{name}"
    if name in written and opposite in written:
        raise bad_syntax(f"{name} and {opposite}")
    if opposite in written:
        return written[opposite], True
    if name not in written:
        raise malformed(f"Missing required field {name}")
    return written[name], False


def _action(text: str) -> Pattern:
    return pattern(text, variables=False, ignore_case=True)


def _conditions(block: Any, *, variables: bool) -> tuple[Condition, ...]:
    if not isinstance(block, dict) or not all(isinstance(keys, dict) for keys in block.values()):
        raise bad_syntax("Condition")
    return tuple(
        condition(operator, key, _texts(values), variables=variables)
        for operator, keys in block.items()
        for key, values in keys.items()
    )


def _texts(given: Any) -> list[str]:
    values = given if isinstance(given, list) else [given]
    if not values:
        raise bad_syntax("Condition")
    return [_text(value) for value in values]


def _text(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str() | int() | float():
            return str(value)
        case _:
            raise bad_syntax("Condition")
