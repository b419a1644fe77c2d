"""Free TCP ports for what tests start."""

from __future__ import annotations

import random
import socket
from typing import Final

# From one cloud's base to the next one's.
_PORTS: Final = 200
# Below those of clouds, and of clients.
_ANY: Final = range(10000, 20000)


def free_port() -> int:
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Different ones, of those that no client is given for its own end: another's connection may take such a one before
    it is listened on, or while a process is away between its death and its restart."""
    free = [port for port in random.sample(_ANY, count + 100) if _is_free(port)]
    return free[:count]


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
