"""A queue of jobs: many workers, tries again after failures, and a topic for the jobs that cannot be done.

    python examples/jobs.py                          # starts a broker of its own
    python examples/jobs.py --jobs 400 --workers 8

Jobs are numbers to be factorised. The workers are a share group (KIP-932): each job goes to one of them, in any order, and
comes again until it is accepted, here or in another process. A job that fails is released and tried again; one that no try
can help is rejected and goes to `jobs.failed`, with a header that says why.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack

import ottla
from ottla.testing import Broker


class BrokenToolError(Exception):
    """Happens now and then; another try helps."""


def factors(number: int) -> list[int]:
    """Return the prime factors of a number.

    Raises:
        ValueError: it has none.
    """
    if number < 2:
        raise ValueError(f"{number} has no prime factors")
    found, divisor = [], 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            found.append(divisor)
            number //= divisor
        divisor += 1
    return [*found, number] if number > 1 else found


class Office:
    """Where the work is done, and what is known about it."""

    def __init__(self, total: int, producer: ottla.Producer, worker: ottla.ShareConsumer) -> None:
        self.done: dict[int, list[int]] = {}
        self.given_up: dict[int, str] = {}
        self.tries: Counter[int] = Counter()
        self.by_worker: Counter[str] = Counter()
        self._total = total
        self._producer = producer
        self._worker = worker
        self._lock = threading.Lock()
        self._dice = random.Random(5)

    def work(self, job: ottla.AcquiredRecord) -> None:
        """Do a job. Raises what is wrong with the tools: the job is released then, and comes again."""
        number = int(job.value or b"")
        with self._lock:
            self.tries[number] += 1
            broken = self._dice.random() < 0.1
        if broken:
            raise BrokenToolError("a tool broke")
        time.sleep(0.002)
        try:
            result = factors(number)
        except ValueError as error:
            self._producer.send_and_wait("jobs.failed", job.value_bytes, headers={"error": str(error)})
            job.reject()
            with self._lock:
                self.given_up[number] = str(error)
        else:
            with self._lock:
                self.done[number] = result
                self.by_worker[threading.current_thread().name] += 1
        if len(self.done) + len(self.given_up) == self._total:
            self._worker.stop()


def main() -> int:
    """Run it; return 0 if each job was done or has failed for a reason."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bootstrap-server", help="a running broker instead of one of its own")
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--workers", type=int, default=8)
    options = parser.parse_args()
    logging.getLogger("ottla.client.share").setLevel(logging.CRITICAL)  # it tells of each job that is released
    impossible = options.jobs // 50
    numbers = [*range(1_000_000, 1_000_000 + options.jobs - impossible), *range(-impossible, 0)]
    random.Random(1).shuffle(numbers)
    with ExitStack() as stack:
        servers = options.bootstrap_server or stack.enter_context(Broker()).bootstrap_servers
        with ottla.Admin(servers) as admin, ottla.Producer(servers) as producer:
            admin.create_topic("jobs", partitions=2)
            admin.create_topic("jobs.failed", partitions=1)
            admin.alter_configs("group", "office", {"share.auto.offset.reset": "earliest"})
            producer.send_many("jobs", [str(number) for number in numbers])
            producer.flush()
            with ottla.ShareConsumer(servers, group_id="office", topics=["jobs"]) as worker:
                office = Office(options.jobs, producer, worker)
                began = time.perf_counter()
                worker.run(office.work, workers=options.workers)
                seconds = time.perf_counter() - began
            with ottla.ShareConsumer(servers, group_id="office", topics=["jobs"]) as worker:
                left = len(worker.poll(timeout=1))
        with ottla.Consumer(servers, topics=["jobs.failed"], auto_offset_reset="earliest") as consumer:
            failed = list(consumer.records(until="end"))
    print(f"{'outcome':<28}{'jobs':>6}")
    print(f"{'done at the first try':<28}{sum(1 for number in office.done if office.tries[number] == 1):>6}")
    print(f"{'done after more tries':<28}{sum(1 for number in office.done if office.tries[number] > 1):>6}")
    print(f"{'given up':<28}{len(office.given_up):>6}")
    print(
        f"{len(office.done)} done by {len(office.by_worker)} workers in {seconds:.1f} s, {len(failed)} given up, {left} left"
    )
    return int(len(office.done) + len(failed) != options.jobs or left != 0 or len(failed) != impossible)


if __name__ == "__main__":
    sys.exit(main())
