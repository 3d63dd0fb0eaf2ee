"""One round: readings are sent in portions while an engine makes windows of them, and engine and broker are killed.

Each kill waits for new results of the portion just sent, so it falls while the engine writes, not while it starts.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.compatibility.bigdata.jobs import Job
from tests.compatibility.bigdata.readings import PATIENCE_S, Results, Sender, computed, portions
from tests.support.broker_process import RunningBroker

BROKER_SETTINGS = {
    "group.initial.rebalance.delay.ms": "0",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
}
#: What is killed after each portion; of the first two there are no results yet, all their windows are open.
KILLS = ("", "", "broker", "job", "broker", "broker and job", "")


def run_round(
    broker: RunningBroker, job: Job, seed: int, results: Results, elsewhere: Callable[[], int] | None = None
) -> Sender:
    """Send all portions, kill as `KILLS` says, wait until each window has a result; what was sent.

    Args:
        elsewhere: how many results another sink has, if the engine has one.

    Raises:
        TimeoutError: no result came for `PATIENCE_S`.
    """
    sender = Sender(broker)
    with job:
        for portion, victims in zip(portions(seed, len(KILLS)), KILLS, strict=True):
            sender.send(portion)
            if victims:
                before = len(results.rows)
                wait_until(lambda before=before: len(results.rows) > before, job, results)  # type: ignore[misc]
            if "job" in victims:
                job.kill()
            if "broker" in victims:
                broker.kill()
                broker.start()
            if "job" in victims:
                job.start()
        sender.flush()
        sender.close_the_windows()
        expected = len(computed(sender.sent))
        wait_until(lambda: len(results.rows) >= expected, job, results)
        if elsewhere is not None:
            wait_until(lambda: elsewhere() >= expected, job, results)
        results.read_on(2.0)  # what else is there: none of it is expected
    return sender


def wait_until(reached: Callable[[], bool], job: Job, results: Results) -> None:
    """Read results until `reached`; the engine is started again if it ends by itself."""
    last = time.monotonic()
    while not reached():
        if results.read_on(0.2):
            last = time.monotonic()
        job.restart_if_it_gave_up()
        if time.monotonic() > last + PATIENCE_S:
            raise TimeoutError(f"no result for {PATIENCE_S:.0f} s, {len(results.rows)} so far:\n{job.tail()}")
