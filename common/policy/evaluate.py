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
        and _speaks_of(statement, statement.actions, request.action, context, others=statement.other_actions)
        and _speaks_of(statement, statement.resources, request.resource, context, others=statement.other_resources)
        and all(condition.holds(context) for condition in statement.conditions)
    )


def _speaks_of(
    statement: Statement, patterns: tuple[Pattern, ...], value: str, context: Context, *, others: bool
) -> bool:
    if others and statement.effect is Effect.ALLOW and not all(one.resolves(context) for one in patterns):
        # What it would leave out is not known, so it allows nothing.
        return False
    return any(one.matches(value, context) for one in patterns) != others
