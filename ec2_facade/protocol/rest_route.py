"""Which action an S3 request asks for: method, path and the query keys and headers that tell actions of one URI apart.

Everything comes from the model's URIs and required members, so an action that we do not serve is still refused by name.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final
from urllib.parse import parse_qsl

from botocore.model import OperationModel

from common.errors import InvalidArgument, Unsupported
from ec2_facade.protocol.model import Contract, Operation

# Actions of S3 at endpoints of their own (directory buckets, Object Lambda), whose URIs would shadow the common ones.
_ELSEWHERE: Final = frozenset({"ListDirectoryBuckets", "WriteGetObjectResponse"})

_COPY_SOURCE: Final = "x-amz-copy-source"

# What a client names beside what it asks for makes another one.
_MOST_KNOWN: Final = 4096


class Level(enum.Enum):
    SERVICE = "/"
    BUCKET = "/{Bucket}"
    OBJECT = "/{Bucket}/{Key+}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """An action and what a request must have, beside method and path, to mean it."""

    action: str
    # Key -> value, None where any value will do.
    query: Mapping[str, str | None]
    headers: frozenset[str]

    def matches(self, query: Mapping[str, str], headers: Mapping[str, str]) -> bool:
        return all(
            key in query and (value is None or query[key] == value) for key, value in self.query.items()
        ) and all(name in headers for name in self.headers)


class Router:
    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._operations: dict[tuple[object, ...], Operation] = {}

    def route(
        self, method: str, bucket: str | None, key: str | None, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> Operation:
        """Raises MethodNotAllowed, or NotImplemented with the name of an action that is not served."""
        level = Level.SERVICE if bucket is None else Level.BUCKET if key is None else Level.OBJECT
        # What tells routes apart, of this request. What was refused is not kept, so these are few.
        told: tuple[object, ...] = (method, level)
        keys, names = self._telling
        if not keys.isdisjoint(query):
            told += tuple((key, self._valued.get((key, query[key]))) for key in query if key in keys)
        if not names.isdisjoint(headers):
            told += tuple(name for name in headers if name in names)
        if known := self._operations.get(told):
            return known
        operation = self._find(method, level, query, headers)
        if len(self._operations) < _MOST_KNOWN:
            self._operations[told] = operation
        return operation

    def _find(self, method: str, level: Level, query: Mapping[str, str], headers: Mapping[str, str]) -> Operation:
        route = next((r for r in self._routes.get((method, level), []) if r.matches(query, headers)), None)
        asked = {name for name in query if name in self._subresources}
        if level is Level.OBJECT and method == "PUT" and "partNumber" in query and "uploadId" not in query:
            raise InvalidArgument(
                "This operation does not accept partNumber without uploadId",
                code="InvalidArgument",
                details={"ArgumentName": "partNumber", "ArgumentValue": query["partNumber"]},
            )
        if route is None or not asked <= route.query.keys():
            raise self._no_route(method, level, asked)
        operation = self._contract.operations.get(route.action)
        if operation is None:
            raise not_implemented(route.action)
        return operation

    def _no_route(self, method: str, level: Level, asked: set[str]) -> Exception:
        if len(asked) > 1:
            names = ", ".join(sorted(asked))
            message = f"Conflicting query string parameters: {names}"
            return InvalidArgument(message, code="InvalidArgument", details={"ArgumentName": "ResourceType"})
        message = "The specified method is not allowed against this resource."
        resource = next(iter(asked), "SERVICE" if level is Level.SERVICE else level.name).upper()
        return InvalidArgument(message, code="MethodNotAllowed", details={"Method": method, "ResourceType": resource})

    @cached_property
    def _routes(self) -> dict[tuple[str, Level], list[Route]]:
        """The most demanding routes first; of two alike the one we serve, or the action that is not deprecated."""
        routes: dict[tuple[str, Level], list[Route]] = {}
        for action in self._contract.model.operation_names:
            if action not in _ELSEWHERE:
                model = self._contract.model.operation_model(action)
                path = model.http["requestUri"].partition("?")[0]
                routes.setdefault((model.http["method"], Level(path)), []).append(_route(model))
        for found in routes.values():
            found.sort(key=self._demand, reverse=True)
        return routes

    def _demand(self, route: Route) -> tuple[int, bool, bool]:
        deprecated = self._contract.model.operation_model(route.action).deprecated
        return len(route.query) + len(route.headers), route.action in self._contract.operations, not deprecated

    @cached_property
    def _telling(self) -> tuple[frozenset[str], frozenset[str]]:
        """Query keys and headers that a route may ask for."""
        routes = [route for found in self._routes.values() for route in found]
        return (
            frozenset(key for route in routes for key in route.query),
            frozenset(name for route in routes for name in route.headers),
        )

    @cached_property
    def _valued(self) -> dict[tuple[str, str], str]:
        """Query keys with a value that a route asks for: that value. All others are one to it."""
        routes = [route for found in self._routes.values() for route in found]
        pairs = [pair for route in routes for pair in route.query.items()]
        return {(key, value): value for key, value in pairs if value is not None}

    @cached_property
    def _subresources(self) -> frozenset[str]:
        """Query keys that choose an action. One that the chosen action has no use for must not go unheard."""
        found = {key for routes in self._routes.values() for route in routes for key in route.query}
        # partNumber chooses between uploads and is an ordinary member elsewhere, as `id` is; `list-type` has other
        # values in old clients.
        return frozenset(found - {"partNumber", "id", "list-type"})


def _route(model: OperationModel) -> Route:
    query: dict[str, str | None] = {
        key: value or None
        for key, value in parse_qsl(model.http["requestUri"].partition("?")[2], keep_blank_values=True)
    }
    headers = set()
    shape = model.input_shape
    required = [shape.members[name] for name in shape.required_members] if shape is not None else []
    for member in required:
        serialization = member.serialization
        match serialization.get("location"):
            case "querystring":
                query[serialization["name"]] = None
            # The others do not tell actions apart: an action that misses its header says so itself.
            case "header" if serialization["name"] == _COPY_SOURCE:
                headers.add(_COPY_SOURCE)
    return Route(action=model.name, query=query, headers=frozenset(headers))


def not_implemented(what: str) -> Unsupported:
    """S3's words, and what they are about: it does not say."""
    message = f"A header or action you provided implies functionality that is not implemented: {what}"
    return Unsupported(message, code="NotImplemented")
