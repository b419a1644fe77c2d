"""Errors as S3's website endpoints show them: pages for people."""

from __future__ import annotations

from http import HTTPStatus

from common.errors import CloudError
from ec2_facade.protocol import Response
from ec2_facade.protocol.errors import s3_error, s3_host_id, s3_ids, s3_refusal
from ec2_facade.protocol.text import NOT_XML, quote_attribute


def error_page(error: CloudError, request_id: str, *, document: CloudError | None = None) -> Response:
    """`document`: why the bucket's own error document could not be shown."""
    status, code = s3_refusal(error)
    if status == HTTPStatus.NOT_MODIFIED:
        return s3_error(error, request_id)
    told = {"Code": code, "Message": error.message, **error.details}
    told |= {"RequestId": request_id, "HostId": s3_host_id(request_id)}
    title = f"{status} {HTTPStatus(status).phrase}"
    body = f"<html>\n<head><title>{title}</title></head>\n<body>\n<h1>{title}</h1>\n{_list(told)}"
    if document is not None:
        why = {"Code": s3_refusal(document)[1], "Message": document.message, **document.details}
        body += f"<h3>An Error Occurred While Attempting to Retrieve a Custom Error Document</h3>\n{_list(why)}"
    headers = [*s3_ids(request_id), ("x-amz-error-code", code), ("x-amz-error-message", _one_line(error.message))]
    headers.append(("Content-Type", "text/html; charset=utf-8"))
    return Response(status=status, headers=headers, body=f"{body}<hr/>\n</body>\n</html>\n".encode())


def _list(told: dict[str, str]) -> str:
    items = "".join(f"<li>{quote_attribute(name)}: {quote_attribute(value)}</li>\n" for name, value in told.items())
    return f"<ul>\n{items}</ul>\n"


def _one_line(text: str) -> str:
    return " ".join(NOT_XML.sub("", text).encode("ascii", "replace").decode().split())
