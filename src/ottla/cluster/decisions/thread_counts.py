"""Counts of threads on a running broker change step by step: at most to the double, at least to the half.

That is Apache Kafka's rule for its pools, so that a slip of the hand neither starves a broker nor floods it. ottla has no
such pools, and keeps the rule so that tools and scripts get the same answers. Pure: levels in, a sentence or None out.
"""

from __future__ import annotations

from collections.abc import Iterator

from ottla.config import BROKER, LISTENER_PREFIX
from ottla.config.effective import Levels

NETWORK_THREADS = "num.network.threads"
#: In the order in which Kafka looks at them.
THREAD_COUNTS = (
    NETWORK_THREADS,
    "background.threads",
    "num.io.threads",
    "num.recovery.threads.per.data.dir",
    "num.replica.fetchers",
    "log.cleaner.threads",
    "remote.log.manager.copier.thread.pool.size",
    "remote.log.manager.expiration.thread.pool.size",
    "remote.log.manager.follower.thread.pool.size",
    "remote.log.reader.threads",
)


def why_thread_counts_refused(before: Levels, after: Levels) -> str | None:
    """Return why a running broker cannot go from these settings to those; None if it can.

    What counts is what is in force: a value that a stronger level hides may be anything, and taking a value back is a
    change as well.
    """
    for name in (*_of_listeners(before, after), *THREAD_COUNTS):
        now, wanted = _in_force(name, before), _in_force(name, after)
        if wanted == now:
            continue
        if wanted < 1:
            bound = "at least 1"
        elif wanted < now // 2:
            bound = f"at least half the current value {now}"
        elif wanted > now * 2:
            bound = f"no more than double the current value {now}"
        else:
            continue
        return f"{name} cannot become {wanted} while the broker runs: it must be {bound}"
    return None


def _of_listeners(*all_levels: Levels) -> Iterator[str]:
    """Network threads are the one count that a listener may have for itself."""
    ending = f".{NETWORK_THREADS}"
    names = {
        name for levels in all_levels for level in (levels.broker, levels.default, levels.static) for name in level
    }
    return (name for name in sorted(names) if name.startswith(LISTENER_PREFIX) and name.endswith(ending))


def _in_force(name: str, levels: Levels) -> int:
    found = levels.find(name)
    if found is None and name.startswith(LISTENER_PREFIX):
        return _in_force(NETWORK_THREADS, levels)
    key = BROKER[NETWORK_THREADS if name.startswith(LISTENER_PREFIX) else name]
    value = key.parse(key.default if found is None else found[0])
    assert isinstance(value, int)
    return value
