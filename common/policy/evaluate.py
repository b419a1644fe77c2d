"""What a policy says about a request.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from common.policy.document import Effect, Policy, Statement
from common.policy.pattern import Context, Pattern
from common.policy.principal import Identity


class Verdict(Enum):
    # Whatever else allows it.
    DENIED = "denied"
    ALLOWED = "allowed"
    # No statement speaks of it.
    SILENT = "silent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    who: Identity
    # As s3:GetObject.
    action: str
    # As arn:aws:s3:::bucket/key.
    resource: str
    context: Context


def evaluate(policy: Policy, request: Request) -> Verdict:
    allowed = False
    for statement in policy.statements:
        # Once allowed only a denial can change anything.
        if (allowed and statement.effect is Effect.ALLOW) or not applies(statement, request):
            continue
        if statement.effect is Effect.DENY:
            return Verdict.DENIED
        allowed = True
    return Verdict.ALLOWED if allowed else Verdict.SILENT


def applies(statement: Statement, request: Request) -> bool:
    context = request.context
    return (
        statement.principals.include(request.who) != statement.other_principals
        and _any(statement.actions, request.action, context) != statement.other_actions
        and _any(statement.resources, request.resource, context) != statement.other_resources
        and all(condition.holds(context) for condition in statement.conditions)
    )


def _any(patterns: tuple[Pattern, ...], value: str, context: Context) -> bool:
    return any(one.matches(value, context) for one in patterns)
