"""Text of a policy with wildcards and variables, and whether a value matches it.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_variables.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Final

# The values that a request has for a condition key, by `folded` name; None: the key is not in the request.
Context = Callable[[str], Sequence[str] | None]

_ARN_PARTS: Final = 6
_SHORT_CHARACTERS: Final = 256
_VARIABLE = re.compile(r"\$\{(?:(?P<escape>[*?$])|(?P<key>[^{},'\s]+)(?:\s*,\s*'(?P<default>[^']*)')?)\s*\}")


class Wild(Enum):
    # `?`, one character, and `*`, any number of them.
    ONE = "?"
    MANY = "*"


@dataclass(frozen=True, slots=True)
class Variable:
    key: str
    # For a request without the key. None: then nothing matches.
    default: str | None


Token = str | Wild | Variable


def folded(key: str) -> str:
    """A condition key's name: without case, but for the tag that may stand behind the slash."""
    name, slash, tag = key.partition("/")
    return name.lower() + slash + tag


@dataclass(frozen=True, slots=True)
class Pattern:
    """`ignore_case`: of letters, in what it is compared with."""

    text: str
    tokens: tuple[Token, ...]
    ignore_case: bool = False

    def matches(self, value: str, context: Context) -> bool:
        tokens = _resolved(self.tokens, context)
        if tokens is None:
            return False
        short = sum(len(token) for token in tokens if isinstance(token, str)) <= _SHORT_CHARACTERS
        expression = _expression_again if short else _expression
        return expression(tokens, self.ignore_case).match(value) is not None

    def resolves(self, context: Context) -> bool:
        """The request has a value for each of its variables; else it matches nothing."""
        return _resolved(self.tokens, context) is not None

    @property
    def is_fixed(self) -> bool:
        """It matches one value alone, whatever the request says of itself."""
        return all(isinstance(token, str) for token in self.tokens)


def pattern(text: str, *, variables: bool, wildcards: bool = True, ignore_case: bool = False) -> Pattern:
    return Pattern(text, tuple(_tokens(text, variables, wildcards)), ignore_case)


@dataclass(frozen=True, slots=True)
class ArnPattern:
    """Compared part by part, so that no wildcard reaches over a colon of the first five."""

    parts: tuple[Pattern, ...]

    def matches(self, value: str, context: Context) -> bool:
        values = value.split(":", _ARN_PARTS - 1) if len(self.parts) == _ARN_PARTS else [value]
        return len(values) == len(self.parts) and all(
            one.matches(part, context) for one, part in zip(self.parts, values, strict=True)
        )


def arn_pattern(text: str, *, variables: bool) -> ArnPattern:
    parts: list[list[Token]] = [[]]
    for token in _tokens(text, variables, wildcards=True):
        if not isinstance(token, str):
            parts[-1].append(token)
            continue
        first, *more = token.split(":", _ARN_PARTS - len(parts))
        parts[-1].append(first)
        parts += [[one] for one in more]
    if len(parts) < _ARN_PARTS and text.endswith("*"):
        return ArnPattern((pattern(text, variables=variables),))
    return ArnPattern(tuple(Pattern(text, tuple(part)) for part in parts))


def _tokens(text: str, variables: bool, wildcards: bool) -> list[Token]:
    tokens: list[Token] = []
    at = 0
    for found in _VARIABLE.finditer(text) if variables else ():
        tokens += _plain(text[at : found.start()], wildcards)
        at = found.end()
        if escape := found["escape"]:
            tokens.append(escape)
        else:
            tokens.append(Variable(folded(found["key"]), found["default"]))
    return tokens + _plain(text[at:], wildcards)


def _plain(text: str, wildcards: bool) -> list[Token]:
    pieces = re.split(r"([*?])", text) if wildcards else [text]
    return [Wild(piece) if wildcards and piece in ("*", "?") else piece for piece in pieces if piece]


def _resolved(tokens: tuple[Token, ...], context: Context) -> tuple[str | Wild, ...] | None:
    """With the request's values for the variables; None if it lacks one, or has several values for it."""
    found: list[str | Wild] = []
    for token in tokens:
        if isinstance(token, Variable):
            values = context(token.key)
            value = token.default if values is None else values[0] if len(values) == 1 else None
            if value is None:
                return None
            found.append(value)
        else:
            found.append(token)
    return tuple(found)


def _expression(tokens: tuple[str | Wild, ...], ignore_case: bool) -> re.Pattern[str]:
    """What stands between two `*` is taken where it is found first, and never tried again: the cost stays linear."""
    pieces = [""]
    for token in tokens:
        if token is Wild.MANY:
            pieces.append("")
        else:
            pieces[-1] += "." if token is Wild.ONE else re.escape(str(token))
    first, *middle = pieces
    last = f".*{middle.pop()}" if middle else ""
    expression = first + "".join(f"(?>.*?{piece})" for piece in middle if piece) + last
    return re.compile(rf"(?s:{expression})\Z", re.IGNORECASE if ignore_case else 0)


# What a request brings for a variable stands in it: what is long is not kept.
_expression_again = lru_cache(maxsize=4096)(_expression)
