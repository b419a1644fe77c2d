"""How a refusal looks to a client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from botocore.exceptions import ClientError


@dataclass(slots=True)
class Refusal:
    """Filled when the block ends."""

    code: str = ""
    message: str = ""
    status: int = 0
    response: Any = None


def in_turn(*calls: Callable[[], Any]) -> tuple[Callable[[], Any], ...]:
    """Calls to try one after the other."""
    return calls


@contextmanager
def refused(code: str, status: int = 400, words: str = "") -> Iterator[Refusal]:
    """The block's call ends with this code and HTTP status, and a message that holds `words`."""
    found = Refusal()
    with pytest.raises(ClientError) as caught:
        yield found
    found.response = caught.value.response
    found.code = found.response["Error"]["Code"]
    found.message = found.response["Error"].get("Message", "")
    found.status = found.response["ResponseMetadata"]["HTTPStatusCode"]
    assert (found.code, found.status) == (code, status), found.message
    assert words in found.message
    assert found.response["ResponseMetadata"]["RequestId"]
