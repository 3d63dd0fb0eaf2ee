"""How many operations per second one coordinator partition takes when a commit takes its time, as with replication.

    python benchmarks/coordinator_commits.py [--commit-ms 10] [--clients 1 100] [--seconds 10]

A real group coordinator runs in virtual time on a log that takes records at once and commits each batch `--commit-ms` later
(a replication round trip). Each client sends its next OffsetCommit when the last one is answered: `plain` commits share
batches, `transactional` ones (TxnOffsetCommit) have a batch each. The figures are exact and the same on every machine; they
say how operations wait for commits, and nothing about processor time.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections import Counter

from ottla.broker.coordinators.groups.config import GroupConfig
from ottla.broker.coordinators.groups.coordinator import Commit, GroupCoordinator
from ottla.broker.coordinators.groups.offsets import PartitionCommit
from ottla.broker.coordinators.runtime import CoordinatorRuntime
from ottla.errors import KafkaError
from ottla.protocol.records.batch import read_header
from ottla.storage.verification import UNCHECKED, Verification, VerificationGuard
from ottla.testing.virtual_loop import VirtualClock, VirtualLoop, run_virtual
from ottla.types import GROUP_METADATA_TOPIC


class SlowCommits:
    """A log in memory that forgets what it is given; implements `CoordinatorLog`."""

    def __init__(self, loop: VirtualLoop, commit_seconds: float) -> None:
        self._loop = loop
        self._commit_seconds = commit_seconds
        self._end = 0
        self._high_watermark = 0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self.batches = 0
        self.in_flight = 0

    def append(
        self,
        topic: str,
        partition: int,
        batch: bytearray,
        transaction_version: int = 0,
        verification: Verification | None = UNCHECKED,
    ) -> int:
        self._end += read_header(batch).last_offset_delta + 1
        self.batches += 1
        self.in_flight += 1
        self._loop.call_later(self._commit_seconds, self._commit, self._end)
        return self._end - 1

    def _commit(self, offset: int) -> None:
        self._high_watermark = offset
        self.in_flight -= 1
        while self._waiting and self._waiting[0][0] < offset:
            _, future = self._waiting.pop(0)
            if not future.done():
                future.set_result(None)

    def begin_verification(self, topic: str, partition: int, producer: tuple[int, int]) -> VerificationGuard:
        return VerificationGuard(*producer, 0, 0)

    def committed(self, topic: str, partition: int, last_offset: int) -> asyncio.Future[None]:
        future = self._loop.create_future()
        self._waiting.append((last_offset, future))
        return future

    def prove(self, topic: str, partition: int) -> None:
        return None

    async def read(self, topic: str, partition: int, from_offset: int, max_bytes: int) -> bytes:
        return b""

    def start_offset(self, topic: str, partition: int) -> int:
        return 0

    def high_watermark(self, topic: str, partition: int) -> int:
        return self._high_watermark

    def end_offset(self, topic: str, partition: int) -> int:
        return self._end


def measure(commit_ms: float, clients: int, seconds: float, *, transactional: bool) -> str:
    """Return a line of figures."""

    async def run(loop: VirtualLoop) -> str:
        log = SlowCommits(loop, commit_ms / 1000)
        runtime: CoordinatorRuntime[GroupCoordinator] = CoordinatorRuntime(
            topic=GROUP_METADATA_TOPIC,
            log=log,
            shard_factory=lambda partition, timeline, timers: GroupCoordinator(
                partition, timeline, timers, config=GroupConfig(), random=random.Random(1)
            ),
            partition_count=lambda: 1,
            clock=VirtualClock(loop),
        )
        runtime.start()
        runtime.on_leader(0, 0)
        await asyncio.sleep(0.001)
        assert runtime.loaded_partitions == [0]
        answered: Counter[str] = Counter()
        waited = 0.0
        in_flight = 0

        async def client(number: int) -> None:
            nonlocal waited, in_flight
            # Clients that begin together would stay together and share every batch.
            await asyncio.sleep(number * commit_ms / 1000 / clients)
            offset = 0
            while loop.time() < seconds:
                offset += 1
                commit = Commit(
                    f"g{number}", -1, "", None, -1, [PartitionCommit("orders", bytes(16), 0, offset, -1, "")]
                )
                started = loop.time()
                try:
                    answer = runtime.write(
                        0,
                        lambda shard, now_ms, commit=commit: (  # type: ignore[misc]
                            shard.commit_offsets_in_transaction if transactional else shard.commit_offsets
                        )(commit, now_ms),
                        producer=(number, 0) if transactional else None,
                    )
                    await asyncio.sleep(0)
                    in_flight = max(in_flight, log.in_flight)
                    await answer
                    answered["ok"] += 1
                except KafkaError as error:
                    answered[error.code.name] += 1
                    await asyncio.sleep(0.001)
                    continue
                waited += loop.time() - started

        await asyncio.gather(*(client(number) for number in range(clients)))
        ok = answered.pop("ok", 0)
        kind = "transactional" if transactional else "plain"
        return (
            f"{kind:>13} {clients:>6} clients: {ok / seconds:>9.0f} operations/s, "
            f"{waited / max(ok, 1) * 1000:>6.1f} ms each, "
            f"{log.batches / seconds:>7.0f} batches/s, at most {in_flight} batches in flight"
            + (f", refused: {dict(answered)}" if answered else "")
        )

    return run_virtual(1, run)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit-ms", type=float, default=10)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--seconds", type=float, default=10)
    arguments = parser.parse_args()
    for transactional in (False, True):
        for clients in arguments.clients:
            print(measure(arguments.commit_ms, clients, arguments.seconds, transactional=transactional), flush=True)


if __name__ == "__main__":
    main()
