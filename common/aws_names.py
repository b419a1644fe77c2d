"""How AWS's names are spelt in our contracts: the one table that the import tool and the codec share.

A member becomes its snake_case by botocore's own rule; what Python keeps for itself is renamed. Shapes keep their name;
an action without a shape for its input or output gets <Action>Request and <Action>Response.
"""

from __future__ import annotations

import keyword
from typing import Final

from botocore import xform_name

# Members whose snake_case is a Python keyword, and so no attribute of a generated message.
RENAMED: Final = {"return": "return_value", "lambda": "lambda_function"}


def field_name(member: str) -> str:
    """The field of a member: ImageId -> image_id, Return -> return_value, From -> from_value."""
    name: str = xform_name(member)
    if keyword.iskeyword(name):
        return RENAMED.get(name, f"{name}_value")
    return name


def input_message(action: str, shape_name: str | None) -> str:
    """The request message of an action; `shape_name` is None where AWS has no input shape."""
    return shape_name or f"{action}Request"


def output_message(action: str, shape_name: str | None) -> str:
    """The response message of an action; `shape_name` is None where AWS answers with nothing."""
    return shape_name or f"{action}Response"


def stream_message(action: str) -> str:
    """The frame of an action whose body is a stream: a header, chunks and, on upload, an end."""
    return f"{action}Stream"
