"""One line of a Condition block: an operator, a key of the request, and the values it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from common.policy.operators import OPERATORS, Test, read_bool
from common.policy.pattern import Context, folded
from common.policy.problem import malformed

_IF_EXISTS: Final = "IfExists"
_NULL: Final = "Null"


class Quantifier(Enum):
    """For keys that have several values in one request."""

    NONE = ""
    ALL = "ForAllValues:"
    ANY = "ForAnyValue:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    # Without quantifier and IfExists.
    operator: str
    quantifier: Quantifier
    if_exists: bool
    # Folded.
    key: str
    values: tuple[str, ...]
    tests: tuple[Test, ...]

    def holds(self, context: Context) -> bool:
        found = context(self.key)
        if self.operator == _NULL:
            return ("true" if found is None else "false") in self.values
        negated = OPERATORS[self.operator].negated
        if not found:
            absent = {Quantifier.NONE: negated, Quantifier.ALL: True, Quantifier.ANY: False}[self.quantifier]
            return self.if_exists or absent
        each = (any(test(value, context) for test in self.tests) != negated for value in found)
        match self.quantifier:
            case Quantifier.ALL:
                return all(each)
            case Quantifier.ANY:
                return any(each)
            case Quantifier.NONE:
                return all(each) if negated else any(each)


def condition(written: str, key: str, values: Sequence[str], *, variables: bool) -> Condition:
    """`written`: as the policy names the operator. Raises InvalidArgument (MalformedPolicy)."""
    quantifier = next(
        (one for one in (Quantifier.ALL, Quantifier.ANY) if written.startswith(one.value)), Quantifier.NONE
    )
    name = written.removeprefix(quantifier.value)
    if name == _NULL and quantifier is Quantifier.NONE:
        return Condition(
            operator=_NULL,
            quantifier=quantifier,
            if_exists=False,
            key=folded(key),
            values=tuple(map(read_bool, values)),
            tests=(),
        )
    bare = name.removesuffix(_IF_EXISTS)
    if bare not in OPERATORS:
        raise malformed(f"Invalid Condition type : {written}")
    return Condition(
        operator=bare,
        quantifier=quantifier,
        if_exists=bare != name,
        key=folded(key),
        values=tuple(values),
        tests=tuple(OPERATORS[bare].compile(value, variables) for value in values),
    )
