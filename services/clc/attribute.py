"""What EC2 answers where a request for an attribute names none, or one that there is not."""

from __future__ import annotations

from common.errors import InvalidArgument


def none_given() -> InvalidArgument:
    return InvalidArgument("No attributes specified.", code="InvalidParameterCombination")


def unknown(name: str, *, parameter: str = "attribute") -> InvalidArgument:
    return InvalidArgument(f"Value ({name}) for parameter {parameter} is invalid. Unknown attribute.")
