"""A guest's screen as EC2 hands it out: JPEG."""

from __future__ import annotations

import io
from typing import Final

from PIL import Image

# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_GetConsoleScreenshot.html
_FORMAT: Final = "JPEG"


def jpeg(picture: bytes) -> bytes:
    """`picture` is the engine's own drawing of what its guest drew: no other formats than the engine's are tried."""
    with Image.open(io.BytesIO(picture), formats=("PPM", "PNG")) as screen:
        drawn = io.BytesIO()
        screen.convert("RGB").save(drawn, _FORMAT, quality=80)
    return drawn.getvalue()
