"""What is wrong with a policy, in the words of S3."""

from __future__ import annotations

from common.errors import InvalidArgument


def malformed(message: str, detail: str = "") -> InvalidArgument:
    return InvalidArgument(message, code="MalformedPolicy", details={"Detail": detail} if detail else None)


def bad_syntax(detail: str = "") -> InvalidArgument:
    return malformed("Invalid policy syntax.", detail)
