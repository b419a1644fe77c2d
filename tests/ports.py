"""Free TCP ports for what tests start."""

from __future__ import annotations

import random
import socket
from typing import Final

# From one cloud's base to the next one's.
_PORTS: Final = 200


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def free_port_base() -> int:
    """For `mallee up --port-base`: the ports of a cloud from there on, and its metrics 1000 above, are free."""
    # Even thousands: the metrics of one cloud never lie where another's ports do, nor do its last ports.
    bases = [thousand + hundred for thousand in range(20000, 32000, 2000) for hundred in range(0, 1000, _PORTS)]
    for base in random.sample(bases, len(bases)):
        if all(_is_free(port) for start in (base, base + 1000) for port in range(start, start + 180)):
            return base
    raise AssertionError("no free range of ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
