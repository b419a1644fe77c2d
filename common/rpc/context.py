"""What one request carries through a process: its id, the AWS caller, the peer's certificate name, the deadline.

Kept in context variables, so that logs and onward calls find them without every function passing them on.
"""

from __future__ import annotations

import time
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Any

from mallee.common.v1.caller_pb2 import Caller

REQUEST_ID_KEY = "mallee-request-id"
CALLER_KEY = "mallee-caller-bin"

# Kept back from every onward call, so that there is time left to answer with what it said.
KEPT_BACK_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The process at the other end of the connection, as its certificate names it."""

    member_id: str
    role: str


_request_id: ContextVar[str] = ContextVar("request_id", default="")
_caller: ContextVar[Caller | None] = ContextVar("caller", default=None)
_peer: ContextVar[Peer | None] = ContextVar("peer", default=None)
# time.monotonic() at which the answer must be out.
_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


def current_request_id() -> str:
    """Empty outside a request."""
    return _request_id.get()


def current_caller() -> Caller | None:
    """The AWS caller a request is made for; None for the cloud's own work."""
    return _caller.get()


def current_peer() -> Peer | None:
    """Who sent the RPC being answered; None outside one."""
    return _peer.get()


def remaining_s() -> float | None:
    """What an onward call may take: the time to this request's deadline less what is kept back. None: no deadline."""
    deadline = _deadline.get()
    return None if deadline is None else deadline - time.monotonic() - KEPT_BACK_S


def enter(*, request_id: str, caller: Caller | None, peer: Peer | None, timeout_s: float | None) -> None:
    """For the rest of this task. The server's interceptor calls it; each RPC has a task of its own."""
    _request_id.set(request_id)
    _caller.set(caller)
    _peer.set(peer)
    _deadline.set(None if timeout_s is None else time.monotonic() + timeout_s)


# Called as a function is; one of contextlib's would cost several times as much.
class bind:
    """For the body of the `with`: what is given here; what is not given stays as it was."""

    __slots__ = ("_caller", "_request_id", "_timeout_s", "_undo")

    def __init__(
        self, *, request_id: str | None = None, caller: Caller | None = None, timeout_s: float | None = None
    ) -> None:
        self._request_id = request_id
        self._caller = caller
        self._timeout_s = timeout_s
        self._undo: list[tuple[ContextVar[Any], Token[Any]]] = []

    def __enter__(self) -> None:
        if self._request_id is not None:
            self._undo.append((_request_id, _request_id.set(self._request_id)))
        if self._caller is not None:
            self._undo.append((_caller, _caller.set(self._caller)))
        if self._timeout_s is not None:
            self._undo.append((_deadline, _deadline.set(time.monotonic() + self._timeout_s)))

    def __exit__(self, *_: object) -> None:
        while self._undo:
            variable, token = self._undo.pop()
            variable.reset(token)
