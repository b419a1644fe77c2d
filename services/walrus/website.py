"""Rules of a bucket's website configuration. Pure.

https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutBucketWebsite.html. Requests are routed by it in the facade.
"""

from __future__ import annotations

from typing import Final

from mallee.s3.v1.website_pb2 import Condition, Redirect, WebsiteConfiguration
from services.walrus import errors

_MOST_RULES: Final = 50
_PROTOCOLS: Final = ("", "http", "https")


def checked(config: WebsiteConfiguration) -> WebsiteConfiguration:
    """Raises InvalidArgument (MalformedXML, InvalidRequest, InvalidArgument)."""
    if config.HasField("redirect_all_requests_to"):
        if config.HasField("index_document") or config.HasField("error_document") or config.routing_rules:
            message = "RedirectAllRequestsTo cannot be provided in conjunction with other Routing Rules."
            raise errors.invalid_argument(message, name="RedirectAllRequestsTo", value="not null")
        if not config.redirect_all_requests_to.host_name:
            raise errors.malformed_xml()
        _check_protocol(config.redirect_all_requests_to.protocol)
        return config
    if not config.HasField("index_document"):
        message = "A value for IndexDocument Suffix must be provided if RedirectAllRequestsTo is empty"
        raise errors.invalid_argument(message, name="IndexDocument", value="null")
    suffix = config.index_document.suffix
    if not suffix or "/" in suffix:
        message = "The IndexDocument Suffix is not well formed"
        raise errors.invalid_argument(message, name="IndexDocument", value=suffix)
    if config.HasField("error_document") and not config.error_document.key:
        raise errors.invalid_argument("The ErrorDocument Key is not well formed", name="ErrorDocument", value="")
    if len(config.routing_rules) > _MOST_RULES:
        raise errors.invalid_request(
            f"{len(config.routing_rules)} routing rules provided, the number of routing rules in a website "
            f"configuration is limited to {_MOST_RULES}."
        )
    for rule in config.routing_rules:
        if rule.HasField("condition"):
            _check_condition(rule.condition)
        _check_redirect(rule.redirect)
    return config


def _check_condition(condition: Condition) -> None:
    code = condition.http_error_code_returned_equals
    if not code and not condition.key_prefix_equals:
        raise errors.invalid_request(
            "Condition cannot be empty. To redirect all requests without a condition, the condition element shouldn't "
            "be present."
        )
    if condition.HasField("http_error_code_returned_equals") and not _is_code(code, "45"):
        raise errors.invalid_request(f"The provided HTTP error code ({code}) is not valid. Valid codes are 4XX or 5XX.")


def _check_redirect(redirect: Redirect) -> None:
    if not redirect.ListFields():
        raise errors.malformed_xml()
    _check_protocol(redirect.protocol)
    if redirect.HasField("replace_key_with") and redirect.HasField("replace_key_prefix_with"):
        raise errors.invalid_request("You can only define ReplaceKeyPrefix or ReplaceKey but not both.")
    code = redirect.http_redirect_code
    if redirect.HasField("http_redirect_code") and (not _is_code(code, "3") or code == "300"):
        raise errors.invalid_request(
            f"The provided HTTP redirect code ({code}) is not valid. Valid codes are 3XX except 300."
        )


def _check_protocol(protocol: str) -> None:
    if protocol not in _PROTOCOLS:
        raise errors.invalid_request(
            "Invalid protocol, protocol can be http or https. If not defined the protocol will be selected "
            "automatically."
        )


def _is_code(text: str, classes: str) -> bool:
    return len(text) == 3 and text.isascii() and text.isdigit() and text[0] in classes
