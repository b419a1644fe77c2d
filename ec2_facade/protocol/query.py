"""The Query protocols: form parameters to protobuf, protobuf to XML. `ec2` for EC2, `query` for STS and its kin.

EC2's lists are flattened and 1-based (`Filter.1.Value.2`), its names those of `queryName` or of `locationName` with a
capital; the standard protocol writes `.member.` and `.entry.` and takes `locationName` as it stands.
https://smithy.io/2.0/aws/protocols/aws-ec2-query-protocol.html, …/aws-query-protocol.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Final

from google.protobuf.message import Message

from common.errors import CloudError, InvalidArgument, Unsupported
from ec2_facade.protocol.errors import ec2_error, query_error
from ec2_facade.protocol.model import Contract, Operation, Response, descriptor_of
from ec2_facade.protocol.query_parse import Node, ParameterParser, tree
from ec2_facade.protocol.render_xml import XmlRenderer

# Parameters of the envelope: the action, and signatures that travel in the query.
_ENVELOPE: Final = frozenset(
    {
        "Action",
        "AWSAccessKeyId",
        "Expires",
        "SecurityToken",
        "Signature",
        "SignatureMethod",
        "SignatureVersion",
        "Timestamp",
        "Version",
    }
)
_ENVELOPE_PREFIX: Final = "x-amz-"
# Their answers show that what they made has no tags; to those who describe it AWS leaves that out.
_TAGS_KEPT: Final = frozenset({"CreateSnapshot", "CreateVolume", "RunInstances"})
_VERSION: Final = re.compile(r"20\d\d-\d\d-\d\d")


class QueryProtocol:
    """One service that speaks Query."""

    def __init__(self, service: str) -> None:
        self.contract = Contract(service)
        self._parsers: dict[str, ParameterParser] = {}
        self._renderer, self._maker = XmlRenderer(), XmlRenderer(keep_tags=True)

    @cached_property
    def _is_ec2(self) -> bool:
        return bool(self.contract.model.protocol == "ec2")

    @cached_property
    def _namespace(self) -> str:
        return str(self.contract.model.metadata["xmlNamespace"]).rstrip("/") + "/"

    def parse(self, params: Mapping[str, str]) -> tuple[Operation, Message]:
        """The action asked for and its request.

        Raises CloudError: InvalidAction, UnsupportedOperation, UnknownParameter, MissingParameter,
        InvalidParameterValue.
        """
        operation = self._operation(params)
        parser = self._parsers.get(operation.name)
        if parser is None:
            parser = self._parsers[operation.name] = ParameterParser(operation, ec2=self._is_ec2)
        message = operation.request_class()
        parser.parse(self._body(params, parser), message)
        return operation, message

    def render(self, operation: Operation, message: Message, request_id: str) -> Response:
        renderer = self._maker if operation.name in _TAGS_KEPT else self._renderer
        inside = renderer.structure(operation.model.output_shape, descriptor_of(message))(message)
        if self._is_ec2:
            # Actions without an output of their own say this much.
            text = inside or ("" if operation.model.output_shape is not None else "<return>true</return>")
            body = (
                f'<?xml version="1.0" encoding="UTF-8"?>\n<{operation.name}Response xmlns="{self._namespace}">'
                f"<requestId>{request_id}</requestId>{text}</{operation.name}Response>"
            )
            content_type = "text/xml;charset=UTF-8"
        else:
            wrapper = self._wrapper(operation)
            result = f"<{wrapper}>{inside}</{wrapper}>" if wrapper else inside
            body = (
                f'<{operation.name}Response xmlns="{self._namespace}">{result}'
                f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{operation.name}Response>"
            )
            content_type = "text/xml"
        headers = [("x-amzn-RequestId", request_id), ("Content-Type", content_type)]
        return Response(status=200, headers=headers, body=body.encode())

    def render_error(self, error: CloudError, request_id: str) -> Response:
        if self._is_ec2:
            return ec2_error(error, request_id)
        return query_error(error, request_id, self._namespace)

    def _operation(self, params: Mapping[str, str]) -> Operation:
        action = params.get("Action", "")
        if not action:
            raise InvalidArgument("The request must contain the parameter Action", code=self._missing_action)
        self._check_version(action, params.get("Version", ""))
        if operation := self.contract.operations.get(action):
            return operation
        if self.contract.knows(action):
            raise Unsupported(f"The action {action} is not supported by this cloud.")
        raise InvalidArgument(self._invalid_action(action, self.contract.model.api_version), code="InvalidAction")

    @property
    def _missing_action(self) -> str:
        return "MissingParameter" if self._is_ec2 else "MissingAction"

    def _check_version(self, action: str, version: str) -> None:
        """EC2 serves every version it ever had up to the current one, alike; the others know one."""
        current = self.contract.model.api_version
        if not version:
            if self._is_ec2:
                raise InvalidArgument("The request must contain the parameter Version", code="MissingParameter")
            raise InvalidArgument(self._invalid_action(action, "NO_VERSION_SPECIFIED"), code="InvalidAction")
        if self._is_ec2 and not (_VERSION.fullmatch(version) and version <= current):
            message = f"The requested version ({version}) of service AmazonEC2 does not exist"
            raise InvalidArgument(message, code="NoSuchVersion")
        if not self._is_ec2 and version != current:
            raise InvalidArgument(self._invalid_action(action, version), code="InvalidAction")

    def _invalid_action(self, action: str, version: str) -> str:
        if self._is_ec2:
            return f"The action {action} is not valid for this web service."
        return f"Could not find operation {action} for version {version}"

    def _body(self, params: Mapping[str, str], parser: ParameterParser) -> Node:
        return tree(
            (name, value)
            for name, value in params.items()
            if parser.knows(name) or not (name in _ENVELOPE or name.lower().startswith(_ENVELOPE_PREFIX))
        )

    def _wrapper(self, operation: Operation) -> str:
        shape = operation.model.output_shape
        return str(shape.serialization.get("resultWrapper", "")) if shape is not None else ""
