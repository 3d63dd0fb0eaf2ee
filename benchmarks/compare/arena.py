"""The brokers of one run: started fresh, warmed up, watched, and given topics that are gone when a case is over.

Most cases meet the same two brokers, which stay up and take turns; cases about starting, restarting and memory start their
own. Both keep their data on the same file system, both have the same settings beyond their defaults (`SETTINGS`).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.compare.java import JavaLoad
from benchmarks.support.brokers import DATA_DIR, ApacheKafka, Ottla, cpu_seconds, resident_bytes, user_system_seconds
from benchmarks.support.full_memory import FullMemory
from benchmarks.support.report import MIB
from benchmarks.support.wire import Wire, end_offsets, first_ack

from ottla.errors import ErrorCode
from ottla.protocol.messages.create_topics import (
    CreatableTopic,
    CreatableTopicConfig,
    CreateTopicsRequest,
    CreateTopicsResponse,
)
from ottla.protocol.messages.delete_topics import DeleteTopicsRequest, DeleteTopicsResponse

OTTLA, KAFKA = "ottla", "kafka"
KINDS: dict[str, type[Ottla] | type[ApacheKafka]] = {OTTLA: Ottla, KAFKA: ApacheKafka}
#: Files of a deleted topic go at once, so that one case does not pay for what the case before has left.
SETTINGS = {"log.segment.delete.delay.ms": "100"}
CREATE_VERSION, DELETE_VERSION = 5, 5
PARTITIONS_AT_ONCE = 1000
WAIT_S = 300.0
SETTLE_S = 0.3
#: A run of a smaller scale is a rehearsal: its figures count for nothing, and it leaves the machine's memory alone.
REHEARSAL = 0.25

Figures = dict[str, float]
Broker = Ottla | ApacheKafka


class Meter:
    """What a broker used between two moments."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._cpu = cpu_seconds(pid)
        self._user, self._system = user_system_seconds(pid)
        self._began = time.perf_counter()
        self.cpu_s = self.system_s = self.seconds = 0.0

    def stop(self) -> None:
        self.seconds = time.perf_counter() - self._began
        self.cpu_s = cpu_seconds(self._pid) - self._cpu
        self.system_s = user_system_seconds(self._pid)[1] - self._system


@contextmanager
def metered(pid: int) -> Iterator[Meter]:
    meter = Meter(pid)
    yield meter
    meter.stop()


class Arena:
    """Brokers, clients and topics for the cases of one run."""

    def __init__(self, *, scale: float, contestants: tuple[str, ...], warm_up: Callable[[Arena, str], None]) -> None:
        self.scale = scale
        self.contestants = contestants
        self._warm_up = warm_up
        self._standing: dict[str, Broker] = {}
        self._java: JavaLoad | None = None
        self._topics = 0
        self._memory: FullMemory | None = None
        #: What the two halves of a pair share, e.g. the rate both are driven at. Emptied before each pair.
        self.pair: dict[str, float] = {}

    # --- clients

    @property
    def java(self) -> JavaLoad:
        """The Java client, started when it is first needed."""
        if self._java is None:
            self._java = JavaLoad()
        return self._java

    def scaled(self, count: float, *, least: int = 1) -> int:
        return max(least, int(count * self.scale))

    # --- brokers

    def standing(self, name: str) -> Broker:
        """The broker that stays up; started and warmed up when it is first needed."""
        broker = self._standing.get(name)
        if broker is not None and not broker.alive():
            print(f"{name} has died; its last words:\n{broker.output[-2000:]}", file=sys.stderr)
            self._standing.pop(name).close()
            broker = None
        if broker is None:
            broker = self._standing[name] = self._started(KINDS[name], SETTINGS)
            try:
                self._warm_up(self, name)
            except BaseException:
                self._standing.pop(name).close()  # half warm is not comparable
                raise
        return broker

    @contextmanager
    def fresh(self, name: str, settings: Mapping[str, str] | None = None, *, alone: bool = False) -> Iterator[Broker]:
        """A broker for one case. With `alone` the standing ones make room first: their memory is needed."""
        if alone:
            self.dismiss()
        broker = self._started(KINDS[name], {**SETTINGS, **(settings or {})})
        try:
            self.settle()
            yield broker
        except BaseException:
            print(f"the end of what {name} wrote:\n{broker.output[-2000:]}", file=sys.stderr)
            raise
        finally:
            broker.close()

    @staticmethod
    def _started(kind: type[Broker], settings: Mapping[str, str]) -> Broker:
        broker: Broker = kind(settings)
        try:
            broker.prepare()
            broker.spawn()
            first_ack(broker.port, "hello", create=True)
        except BaseException:
            broker.close()
            raise
        return broker

    def settle(self) -> None:
        """Before a broker or a program is measured: the machine as it is when it has been up for a while."""
        if self.scale >= REHEARSAL:
            if self._memory is None:
                self._memory = FullMemory(DATA_DIR)
            self._memory.fill()
        time.sleep(SETTLE_S)

    def dismiss(self) -> None:
        """End the standing brokers; the next case that needs them gets new ones."""
        for broker in self._standing.values():
            broker.close()
        self._standing.clear()

    def close(self) -> None:
        self.dismiss()
        if self._java is not None:
            self._java.close()
        if self._memory is not None:
            self._memory.close()

    # --- topics

    @contextmanager
    def topic(self, broker: Broker, partitions: int, configs: Mapping[str, str] | None = None) -> Iterator[str]:
        """A topic that every partition of which answers; deleted, files and all, when the case is done with it."""
        name = self.create(broker, partitions, configs)
        self.settle()
        yield name
        delete(broker, [name])
        self._wait_until_gone(broker, name)

    def create(self, broker: Broker, partitions: int, configs: Mapping[str, str] | None = None) -> str:
        self._topics += 1
        name = f"bench-{os.getpid()}-{self._topics}"
        create(broker, name, partitions, configs)
        return name

    @staticmethod
    def _wait_until_gone(broker: Broker, topic: str) -> None:
        """Wait for the topic's files to go. Kafka begins to remove files 30 s after it was started."""
        deadline = time.monotonic() + 45
        while any(data_directory(broker).glob(f"{topic}-*")) and time.monotonic() < deadline:
            time.sleep(0.05)


def data_directory(broker: Broker) -> Path:
    return broker.directory / ("data" if isinstance(broker, Ottla) else "log")


def create(broker: Broker, name: str, partitions: int, configs: Mapping[str, str] | None = None) -> None:
    """Create a topic and wait until every partition answers ListOffsets.

    Metadata is not enough: Kafka announces leaders before it has made their logs.
    """
    with Wire(broker.port, timeout_s=WAIT_S) as wire:
        topic = CreatableTopic(
            name=name,
            num_partitions=partitions,
            replication_factor=1,
            configs=[CreatableTopicConfig(name=key, value=value) for key, value in (configs or {}).items()],
        )
        answer = wire.ask(CreateTopicsRequest(topics=[topic], timeout_ms=120_000), CREATE_VERSION, CreateTopicsResponse)
        for result in answer.topics:
            if result.error_code:
                raise RuntimeError(f"CreateTopics: {ErrorCode(result.error_code).name} {result.error_message}")
        deadline = time.monotonic() + WAIT_S
        for start in range(0, partitions, PARTITIONS_AT_ONCE):
            left = list(range(start, min(start + PARTITIONS_AT_ONCE, partitions)))
            while left:
                found = end_offsets(wire, name, left)
                left = [index for index in left if index not in found]
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{len(left)} partitions of {name} do not answer")
                if left:
                    time.sleep(0.02)


def delete(broker: Broker, names: list[str]) -> None:
    with Wire(broker.port, timeout_s=WAIT_S) as wire:
        request = DeleteTopicsRequest(topic_names=names, timeout_ms=120_000)
        for result in wire.ask(request, DELETE_VERSION, DeleteTopicsResponse).responses:
            if result.error_code:
                raise RuntimeError(f"DeleteTopics: {ErrorCode(result.error_code).name}")


def written(broker: Broker, topic: str, partitions: int) -> int:
    """Return how many records the topic has taken: the sum of its end offsets."""
    with Wire(broker.port) as wire:
        return sum(end_offsets(wire, topic, list(range(partitions))).values())


def resident_mib(broker: Broker) -> float:
    return resident_bytes(broker.pid) / MIB
