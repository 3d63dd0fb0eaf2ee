"""Free TCP ports for brokers under test.

Below the ephemeral range (32768 and up on Linux): a client that keeps dialling a port of that range while the broker
is down can be given the very port it dials as its own source port, connects to itself, and then holds the port that the
restarted broker needs. Crash tests meet that once in a few thousand reconnects.
"""

from __future__ import annotations

import random
import socket

_LOWEST, _HIGHEST = 20_000, 32_000


def free_port(*, neighbours: int = 0) -> int:
    """A port nobody listens on; the next `neighbours` ports are free too."""
    dice = random.SystemRandom()
    for _ in range(1_000):
        port = dice.randrange(_LOWEST, _HIGHEST - neighbours)
        if all(is_free(candidate) for candidate in range(port, port + neighbours + 1)):
            return port
    raise RuntimeError(f"no free port between {_LOWEST} and {_HIGHEST}")


def is_free(port: int) -> bool:
    """Return whether nobody listens on this port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
