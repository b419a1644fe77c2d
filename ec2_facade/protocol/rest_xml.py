"""The REST-XML protocol of S3: path, query, headers and XML body to protobuf, and back.

Bodies of objects do not pass here: they are streams of the facade's.
https://smithy.io/2.0/aws/protocols/aws-restxml-protocol.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from botocore.model import StructureShape
from google.protobuf.message import Message

from common.errors import CloudError
from ec2_facade.protocol.errors import s3_error, s3_ids
from ec2_facade.protocol.model import Contract, Operation, Response, descriptor_of
from ec2_facade.protocol.render_xml import XmlRenderer
from ec2_facade.protocol.rest_request import RequestParser
from ec2_facade.protocol.rest_response import ResponseHeaders, payload
from ec2_facade.protocol.rest_route import Router
from ec2_facade.protocol.text import escape

_NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"

# The root of a body, which the model does not tell: all others are the action's name with `Result`.
_ROOTS: Final = {
    "CreateMultipartUpload": "InitiateMultipartUploadResult",
    "DeleteObjects": "DeleteResult",
    "GetBucketAccelerateConfiguration": "AccelerateConfiguration",
    "GetBucketAcl": "AccessControlPolicy",
    "GetBucketCors": "CORSConfiguration",
    "GetBucketLifecycleConfiguration": "LifecycleConfiguration",
    "GetBucketLogging": "BucketLoggingStatus",
    "GetBucketNotificationConfiguration": "NotificationConfiguration",
    "GetBucketRequestPayment": "RequestPaymentConfiguration",
    "GetBucketTagging": "Tagging",
    "GetBucketVersioning": "VersioningConfiguration",
    "GetBucketWebsite": "WebsiteConfiguration",
    "GetObjectAcl": "AccessControlPolicy",
    "GetObjectAttributes": "GetObjectAttributesResponse",
    "GetObjectLegalHold": "LegalHold",
    "GetObjectRetention": "Retention",
    "GetObjectTagging": "Tagging",
    "ListBuckets": "ListAllMyBucketsResult",
    "ListObjects": "ListBucketResult",
    "ListObjectVersions": "ListVersionsResult",
    "ListObjectsV2": "ListBucketResult",
}


class RestXmlProtocol:
    """One service that speaks REST-XML. Header names are given in lower case, query and path decoded."""

    def __init__(self, service: str) -> None:
        self.contract = Contract(service)
        self._router = Router(self.contract)
        self._parsers: dict[str, RequestParser] = {}
        self._headers: dict[str, ResponseHeaders] = {}
        self._renderer = XmlRenderer()
        self._key_renderer = XmlRenderer(encode_keys=True)

    def route(
        self, method: str, bucket: str | None, key: str | None, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> Operation:
        """What the request asks for. Raises CloudError: MethodNotAllowed, NotImplemented, InvalidArgument."""
        return self._router.route(method, bucket, key, query, headers)

    def parse(
        self,
        operation: Operation,
        bucket: str | None,
        key: str | None,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes = b"",
    ) -> Message:
        """The request (of an upload: its header). `body` is what came with it, unless that is an object's bytes.

        Raises CloudError: InvalidArgument, NotImplemented, MalformedXML, MissingRequestBodyError.
        """
        parser = self._parsers.get(operation.name)
        if parser is None:
            parser = self._parsers[operation.name] = RequestParser(operation)
        return parser.parse(bucket, key, query, headers, body)

    def render(self, operation: Operation, message: Message, request_id: str) -> Response:
        """Status, headers and body. Of a download `message` is the header, and the bytes follow after."""
        compiled = self._headers.get(operation.name)
        if compiled is None:
            compiled = self._headers[operation.name] = ResponseHeaders(operation)
        headers = s3_ids(request_id) + compiled.render(message)
        status = 206 if getattr(message, "content_range", "") else compiled.status
        if operation.name == "HeadBucket":
            # It tells the type of what a GET would bring.
            headers.append(("Content-Type", "application/xml"))
        if not compiled.has_body:
            return Response(status=status, headers=headers)
        content_type, body = self._body(operation, message)
        return Response(status=status, headers=[*headers, ("Content-Type", content_type)], body=body)

    def render_error(self, error: CloudError, request_id: str, resource: str = "") -> Response:
        """`resource` is the path asked for. To a HEAD request send status and headers alone."""
        return s3_error(error, request_id, resource)

    def _body(self, operation: Operation, message: Message) -> tuple[str, bytes]:
        """Content type and bytes."""
        renderer = self._key_renderer if getattr(message, "encoding_type", "") == "url" else self._renderer
        root = _ROOTS.get(operation.name, f"{operation.name}Result")
        if operation.name == "GetBucketLocation":
            # The one body that is a scalar: its only member's text stands in the root.
            root, inside = "LocationConstraint", escape(getattr(message, "location_constraint", ""))
        elif whole := payload(operation):
            root, shape, field = whole
            value = getattr(message, field.name)
            if not isinstance(shape, StructureShape):
                # A policy, as it was put.
                return "application/json", value if isinstance(value, bytes) else value.encode()
            if not message.HasField(field.name):
                return "application/xml", b""
            root = _ROOTS.get(operation.name) or str(shape.serialization.get("name", shape.name))
            inside = renderer.structure(shape, descriptor_of(value))(value)
        else:
            inside = renderer.structure(operation.model.output_shape, descriptor_of(message))(message)
        body = f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} xmlns="{_NAMESPACE}">{inside}</{root}>'
        return "application/xml", body.encode()
