"""What it takes to bring one record each of 1, 4 and 16 logs to the disk, in three ways.

    python benchmarks/fsyncs.py [--rounds 300] [--bytes 1100]

each: an fdatasync for each file. syncfs: one sync of the file system (and an fdatasync that tells errors), as
`ottla.storage.group_commit` does for three logs and more. journal: all records appended to one file whose space was written
ahead, and one fdatasync; that is not what ottla does. Milliseconds per round, the median. Linux; files are made in the
system's temporary directory or under OTTLA_BENCH_DIR, which must be on a disk: in memory the figures mean nothing.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import tempfile
import time
from collections.abc import Callable

LOGS = (1, 4, 16)
#: What each log has before.
LOG_BYTES = 1 << 20
JOURNAL_BYTES = 64 << 20


def median_ms(round_of: Callable[[int], None], rounds: int) -> float:
    took = []
    for number in range(rounds):
        began = time.perf_counter()
        round_of(number)
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--bytes", type=int, default=1100)
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("at least one round")
    record = os.urandom(options.bytes)
    syncfs = ctypes.CDLL(None).syncfs
    with tempfile.TemporaryDirectory(prefix="ottla-fsyncs-", dir=os.environ.get("OTTLA_BENCH_DIR")) as directory:
        whole = os.open(directory, os.O_RDONLY)
        flags = os.O_WRONLY | os.O_CREAT
        logs = [os.open(f"{directory}/{number}", flags | os.O_APPEND) for number in range(max(LOGS))]
        journal = os.open(f"{directory}/journal", flags)
        for log in logs:
            os.write(log, bytes(LOG_BYTES))
        for _ in range(JOURNAL_BYTES >> 20):
            os.write(journal, bytes(1 << 20))
        syncfs(whole)
        for count in LOGS:
            some = logs[:count]

            def each(_number: int, some: list[int] = some) -> None:
                for log in some:
                    os.write(log, record)
                for log in some:
                    os.fdatasync(log)

            def together(_number: int, some: list[int] = some) -> None:
                for log in some:
                    os.write(log, record)
                syncfs(whole)
                os.fdatasync(some[0])

            def ahead(number: int, some: list[int] = some) -> None:
                data = record * len(some)
                os.pwrite(journal, data, number * len(data) % (JOURNAL_BYTES - len(data)))
                os.fdatasync(journal)

            shown = {"each": each, "syncfs": together, "journal": ahead}
            figures = [f"{name} {median_ms(way, options.rounds):.2f} ms" for name, way in shown.items()]
            print(f"{count:2} logs: {', '.join(figures)}")
        for descriptor in (*logs, journal, whole):
            os.close(descriptor)


if __name__ == "__main__":
    main()
