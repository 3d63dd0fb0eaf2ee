"""How the descriptors of the process are shared out: logs first, clients get what is left.

Without a share a flood of connections would leave none for the next segment, and partitions would refuse appends. Every log
that was touched keeps one descriptor for its active segment; sealed segments and indexes share a bounded cache; some are
kept back for the coordination tree, listeners, topics that are being made and files that are open for a moment. Connections
above the rest wait in the kernel's queue, as above `max.connections`. Pure.
"""

from __future__ import annotations

from ottla.storage.open_files import DEFAULT_CAPACITY

#: Kept back; the internal topics, which may yet be made, have 50 partitions each by default.
RESERVE = 128
#: Even when logs could use all descriptors, an operator must be able to connect and look.
CONNECTIONS_MIN = 16
#: With room for fewer the start says so.
CONNECTIONS_WANTED = 256


def cached_files_max(limit: int) -> int:
    """Return how many sealed segments and indexes may be open at once."""
    return max(min(DEFAULT_CAPACITY, limit // 4), 16)


def connections_max(limit: int, partitions: int) -> int:
    """Return how many connections there may be beside this many partitions."""
    return max(_left(limit, partitions), CONNECTIONS_MIN)


def shortage(limit: int, partitions: int) -> str | None:
    """Return a sentence for the operator if there are too few; None if there are enough."""
    left = _left(limit, partitions)
    if left >= CONNECTIONS_WANTED:
        return None
    wanted = limit - left + CONNECTIONS_WANTED
    return (
        f"this process may open {limit} files, and {partitions} partitions leave room for {max(left, CONNECTIONS_MIN)} "
        f"connections: raise the limit to {wanted} or more (ulimit -n, LimitNOFILE=)"
    )


def _left(limit: int, partitions: int) -> int:
    return limit - RESERVE - cached_files_max(limit) - partitions
