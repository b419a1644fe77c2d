"""A refused authentication in the words, code and status of the service that was called.

Sources: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html,
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html,
https://docs.aws.amazon.com/STS/latest/APIReference/CommonErrors.html, and what the services answer.
"""

from __future__ import annotations

from ec2_facade.auth.problem import AuthProblem, Reason
from ec2_facade.errors import Refused

_MISMATCH = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key "
    "and signing method. Consult the service documentation for details."
)
_MISMATCH_S3 = (
    "The request signature we calculated does not match the signature you provided. Check your key and signing method."
)
_NOT_VALIDATED = "AWS was not able to validate the provided access credentials"


def refusal(problem: AuthProblem, service: str) -> Refused:
    match service:
        case "s3":
            return _s3(problem)
        case "ec2":
            return _ec2(problem)
        case _:
            return _query(problem)


def _ec2(problem: AuthProblem) -> Refused:
    facts = problem.facts
    match problem.reason:
        case Reason.WRONG_REGION:
            message = f"Credential should be scoped to a valid region, not '{facts['region']}'."
            return Refused("AuthFailure", message, status=401)
        case Reason.WRONG_SERVICE:
            message = f"Credential should be scoped to correct service: '{facts['expected']}'."
            return Refused("AuthFailure", message, status=401)
        case Reason.CLOCK_BEHIND | Reason.CLOCK_AHEAD | Reason.EXPIRED | Reason.NOT_YET_VALID:
            return Refused("RequestExpired", "Request has expired.", status=400)
        case (
            Reason.MISSING
            | Reason.TWO_MECHANISMS
            | Reason.UNSUPPORTED_MECHANISM
            | Reason.MALFORMED
            | Reason.NO_DATE
            | Reason.BAD_EXPIRES
        ):
            return _query(problem)
        case _:
            return Refused("AuthFailure", _NOT_VALIDATED, status=401)


def _query(problem: AuthProblem) -> Refused:
    facts, detail = problem.facts, problem.detail
    match problem.reason:
        case Reason.MISSING:
            return Refused("MissingAuthenticationToken", "Request is missing Authentication Token", status=403)
        case Reason.TWO_MECHANISMS:
            message = "Only one of the Authorization header and the X-Amz-Algorithm parameter may be given."
            return Refused("IncompleteSignature", message, status=400)
        case Reason.UNSUPPORTED_MECHANISM:
            message = f"Unsupported AWS 'algorithm': '{detail}'."
            return Refused("IncompleteSignature", message, status=400)
        case Reason.MALFORMED | Reason.NO_DATE | Reason.BAD_EXPIRES:
            return Refused("IncompleteSignature", detail, status=400)
        case Reason.UNKNOWN_KEY | Reason.BAD_SESSION_TOKEN:
            message = "The security token included in the request is invalid."
            return Refused("InvalidClientTokenId", message, status=403)
        case Reason.CLOCK_BEHIND | Reason.EXPIRED:
            compared = f"{facts['request']} is now earlier than {facts['limit']} ({facts['now']} - {facts['allowed']})"
            message = f"Signature expired: {compared}"
            return Refused("SignatureDoesNotMatch", message, status=403)
        case Reason.CLOCK_AHEAD | Reason.NOT_YET_VALID:
            compared = f"{facts['request']} is still later than {facts['limit']} ({facts['now']} + {facts['allowed']})"
            message = f"Signature not yet current: {compared}"
            return Refused("SignatureDoesNotMatch", message, status=403)
        case Reason.WRONG_REGION:
            message = f"Credential should be scoped to a valid region, not '{facts['region']}'."
            return Refused("SignatureDoesNotMatch", message, status=403)
        case Reason.WRONG_SERVICE:
            message = f"Credential should be scoped to correct service: '{facts['expected']}'."
            return Refused("SignatureDoesNotMatch", message, status=403)
        case Reason.WRONG_DATE:
            message = (
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
                f"'{facts['scope_date']}' != '{facts['date']}', from '{facts['request']}'."
            )
            return Refused("SignatureDoesNotMatch", message, status=403)
        case Reason.UNSIGNED_HEADERS:
            message = f"'{facts['headers']}' must be a 'SignedHeader' in the AWS Authorization."
            return Refused("SignatureDoesNotMatch", message, status=403)
        case _:
            return Refused("SignatureDoesNotMatch", _MISMATCH, status=403)


def _s3(problem: AuthProblem) -> Refused:
    facts, detail = problem.facts, problem.detail
    match problem.reason:
        case Reason.MISSING:
            return Refused("AccessDenied", "Access Denied", status=403)
        case Reason.NO_DATE:
            message = "AWS authentication requires a valid Date or x-amz-date header"
            return Refused("AccessDenied", message, status=403)
        case Reason.TWO_MECHANISMS:
            message = (
                "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string "
                "parameter or the Authorization header should be specified"
            )
            return _s3_invalid_argument(message, "Authorization", facts.get("header", ""))
        case Reason.INCOMPLETE_QUERY | Reason.BAD_LEGACY_HEADER | Reason.BAD_LEGACY_DATE:
            return _s3_legacy(problem)
        case Reason.UNSUPPORTED_MECHANISM:
            header = facts["header"]
            spaced = "Authorization header is invalid -- one and only one ' ' (space) required."
            message = "Unsupported Authorization Type" if " " in header else spaced
            return _s3_invalid_argument(message, "Authorization", header)
        case Reason.MALFORMED | Reason.BAD_EXPIRES | Reason.WRONG_SERVICE | Reason.WRONG_DATE | Reason.WRONG_REGION:
            return _s3_malformed(problem)
        case Reason.UNKNOWN_KEY:
            message = "The AWS Access Key Id you provided does not exist in our records."
            return Refused("InvalidAccessKeyId", message, status=403, details={"AWSAccessKeyId": facts["access_key"]})
        case Reason.BAD_SESSION_TOKEN:
            message = "The provided token is malformed or otherwise invalid."
            return Refused("InvalidToken", message, status=400, details={"Token-0": facts["token"]})
        case Reason.CLOCK_BEHIND | Reason.CLOCK_AHEAD | Reason.EXPIRED | Reason.NOT_YET_VALID:
            return _s3_time(problem)
        case Reason.UNSIGNED_HEADERS:
            message = "There were headers present in the request which were not signed"
            return Refused("AccessDenied", message, status=403, details={"HeadersNotSigned": facts["headers"]})
        case Reason.MISSING_PAYLOAD_HASH:
            message = "Missing required header for this request: x-amz-content-sha256"
            return Refused("InvalidRequest", message, status=400)
        case Reason.BAD_PAYLOAD_HASH:
            message = (
                "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER, "
                "STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER "
                "or a valid sha256 value."
            )
            return _s3_invalid_argument(message, "x-amz-content-sha256", detail)
        case Reason.WRONG_SIGNATURE:
            return _s3_mismatch(problem)


def _s3_legacy(problem: AuthProblem) -> Refused:
    match problem.reason:
        case Reason.INCOMPLETE_QUERY:
            message = "Query-string authentication requires the Signature, Expires and AWSAccessKeyId parameters"
            return Refused("AccessDenied", message, status=403)
        case Reason.BAD_LEGACY_HEADER:
            message = "AWS authorization header is invalid.  Expected AwsAccessKeyId:signature"
            return _s3_invalid_argument(message, "Authorization", problem.facts["header"])
        case _:
            return Refused("AccessDenied", problem.detail, status=403)


def _s3_time(problem: AuthProblem) -> Refused:
    facts = problem.facts
    match problem.reason:
        case Reason.CLOCK_BEHIND | Reason.CLOCK_AHEAD:
            return Refused(
                "RequestTimeTooSkewed",
                "The difference between the request time and the current time is too large.",
                status=403,
                details={
                    "RequestTime": facts["request"],
                    "ServerTime": facts["server_time"],
                    "MaxAllowedSkewMilliseconds": facts["skew_ms"],
                },
            )
        case Reason.EXPIRED:
            details = {"Expires": facts["expires"], "ServerTime": facts["server_time"]}
            if "expires_s" in facts:
                details = {"X-Amz-Expires": facts["expires_s"], **details}
            return Refused("AccessDenied", "Request has expired", status=403, details=details)
        case _:
            return Refused("AccessDenied", "Request is not valid yet", status=403)


def _s3_invalid_argument(message: str, name: str, value: str) -> Refused:
    details = {"ArgumentName": name, "ArgumentValue": value}
    return Refused("InvalidArgument", message, status=400, details=details)


def _s3_malformed(problem: AuthProblem) -> Refused:
    facts = problem.facts
    presigned = (
        facts.get("presigned") == "yes"
        or problem.reason is Reason.BAD_EXPIRES
        or facts.get("part")
        in (
            "query",
            "X-Amz-Algorithm",
        )
    )
    details: dict[str, str] = {}
    match problem.reason:
        case Reason.WRONG_REGION:
            text = f"the region '{facts['region']}' is wrong; expecting '{facts['expected']}'"
            # The header is for who asked by HEAD, and so gets no document.
            details |= {"Region": facts["expected"], "x-amz-bucket-region": facts["expected"]}
        case Reason.WRONG_SERVICE:
            text = f'incorrect service "{facts["service"]}". This endpoint belongs to "{facts["expected"]}".'
        case Reason.WRONG_DATE:
            text = (
                f'Invalid credential date "{facts["scope_date"]}". This date is not the same as X-Amz-Date: '
                f'"{facts["date"]}".'
            )
        case _:
            text = problem.detail
    if facts.get("form") == "yes":
        return Refused("InvalidArgument", text, status=400, details={"ArgumentName": facts["argument"]})
    if presigned:
        scope_fault = problem.reason in (Reason.WRONG_REGION, Reason.WRONG_SERVICE, Reason.WRONG_DATE)
        text = f"Error parsing the X-Amz-Credential parameter; {text}" if scope_fault else text
        return Refused("AuthorizationQueryParametersError", text, status=400, details=details)
    message = f"The authorization header is malformed; {text}"
    return Refused("AuthorizationHeaderMalformed", message, status=400, details=details)


def _s3_mismatch(problem: AuthProblem) -> Refused:
    """S3 shows what it computed, so that the author of a client finds the difference."""
    facts = problem.facts
    details = {
        "AWSAccessKeyId": facts["access_key"],
        "StringToSign": facts["string_to_sign"],
        "SignatureProvided": facts["signature"],
        "StringToSignBytes": _hex_bytes(facts["string_to_sign"]),
    }
    if "canonical_request" in facts:
        details["CanonicalRequest"] = facts["canonical_request"]
        details["CanonicalRequestBytes"] = _hex_bytes(facts["canonical_request"])
    return Refused("SignatureDoesNotMatch", _MISMATCH_S3, status=403, details=details)


def _hex_bytes(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").hex(" ")
