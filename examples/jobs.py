"""A queue of jobs: many workers, tries again after failures, and a topic for the jobs that cannot be done.

    python examples/jobs.py                          # starts a broker of its own
    python examples/jobs.py --jobs 400 --workers 8

Jobs are numbers to be factorised. Workers take them in any order, several at a time; a job that fails is tried again a
little later, while others go on, and after the third failure it goes to `jobs.failed`, with headers that say why. A job is
committed when it is done, so that a process that dies leaves its jobs to the others.
"""

from __future__ import annotations

import argparse
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

    def __init__(self, total: int) -> None:
        self.done: dict[int, list[int]] = {}
        self.tries: Counter[int] = Counter()
        self.by_worker: Counter[str] = Counter()
        self._total = total
        self._failed = 0
        self._lock = threading.Lock()
        self._dice = random.Random(5)

    def work(self, record: ottla.Record) -> None:
        """Do a job. Raises what is wrong with it, or with the tools."""
        number = int(record.value or b"")
        with self._lock:
            self.tries[record.offset + record.partition * 1_000_000] += 1
            broken = self._dice.random() < 0.1
        if broken:
            raise BrokenToolError("a tool broke")
        time.sleep(0.002)
        result = factors(number)
        with self._lock:
            self.done[number] = result
            self.by_worker[threading.current_thread().name] += 1


def main() -> int:
    """Run it; return 0 if each job was done or has failed for a reason."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bootstrap-server", help="a running broker instead of one of its own")
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--workers", type=int, default=8)
    options = parser.parse_args()
    impossible = options.jobs // 50
    numbers = [*range(1_000_000, 1_000_000 + options.jobs - impossible), *range(-impossible, 0)]
    random.Random(1).shuffle(numbers)
    office = Office(options.jobs)
    with ExitStack() as stack:
        servers = options.bootstrap_server or stack.enter_context(Broker()).bootstrap_servers
        with ottla.Admin(servers) as admin, ottla.Producer(servers) as producer:
            admin.create_topic("jobs", partitions=2)
            admin.create_topic("jobs.failed", partitions=1)
            producer.send_many("jobs", [str(number) for number in numbers])
            producer.flush()
            with ottla.Consumer(servers, group_id="office", topics=["jobs"], auto_offset_reset="earliest") as consumer:
                retry = ottla.Retry(delays=["20ms", "100ms"], dead_letter="jobs.failed")
                watch = threading.Thread(target=stop_when_idle, args=[servers, consumer, options.jobs, office])
                watch.start()
                began = time.perf_counter()
                consumer.run(office.work, workers=options.workers, order="none", retry=retry)
                seconds = time.perf_counter() - began
                watch.join()
            lag = sum(row.lag or 0 for row in admin.consumer_lag("office").values())
        with ottla.Consumer(servers, topics=["jobs.failed"], auto_offset_reset="earliest") as consumer:
            failed = list(consumer.records(until="end"))
    print(f"{'outcome':<28}{'jobs':>6}")
    print(f"{'done at the first try':<28}{sum(1 for tries in office.tries.values() if tries == 1):>6}")
    print(f"{'tried again':<28}{sum(1 for tries in office.tries.values() if tries > 1):>6}")
    for why, count in Counter((record.headers["dead-letter.error"] or b"").split(b":")[0] for record in failed).items():
        print(f"{'given up, ' + why.decode():<28}{count:>6}")
    print(
        f"{len(office.done)} done by {len(office.by_worker)} workers in {seconds:.1f} s, {len(failed)} given up, {lag} left"
    )
    return int(len(office.done) + len(failed) != options.jobs or lag != 0 or len(failed) < impossible)


def stop_when_idle(servers: str, consumer: ottla.Consumer, jobs: int, office: Office) -> None:
    """End the workers when every job is done or given up."""
    with ottla.Admin(servers) as admin:
        waiting = threading.Event()
        where = ottla.TopicPartition("jobs.failed", 0)
        while len(office.done) + (admin.list_offsets([where])[where].offset or 0) < jobs:
            waiting.wait(0.05)
    consumer.stop()


if __name__ == "__main__":
    sys.exit(main())
