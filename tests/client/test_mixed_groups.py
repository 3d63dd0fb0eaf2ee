"""Our members and other people's in one group: no partition owned twice, none forgotten, every assignor that both know.

Each member tells what it owns as it changes: that it begins with a partition after it has it, that it ends before it gives it
up.
So whoever begins must find the partition free.
"""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
from confluent_kafka import Consumer as TheirConsumer
from tests.client.others import new_topic
from tests.client.test_groups import WAIT_S, new_group
from tests.support.broker_process import RunningBroker

import ottla
from ottla.types import TopicPartition

PARTITIONS = 6


class Ledger:
    """Who owns what, as the members tell it."""

    def __init__(self, topic: str) -> None:
        self.everything = {TopicPartition(topic, number) for number in range(PARTITIONS)}
        self.owner: dict[TopicPartition, str] = {}
        self.complaints: list[str] = []
        self.changes = 0
        self._lock = threading.Lock()

    def begin(self, name: str, partitions: list[TopicPartition]) -> None:
        with self._lock:
            self.changes += 1
            for where in partitions:
                if self.owner.get(where, name) != name:
                    self.complaints.append(f"{where} belongs to {self.owner[where]} and to {name}")
                self.owner[where] = name

    def end(self, name: str, partitions: list[TopicPartition]) -> None:
        with self._lock:
            for where in partitions:
                if self.owner.get(where) == name:
                    del self.owner[where]

    def end_all(self, name: str) -> None:
        with self._lock:
            self.owner = {where: owner for where, owner in self.owner.items() if owner != name}

    def await_complete(self, names: set[str]) -> None:
        """Wait until each of these members owns something, and everything is owned."""
        deadline = time.monotonic() + WAIT_S
        while True:
            with self._lock:
                if self.owner.keys() == self.everything and set(self.owner.values()) == names:
                    return
                seen = dict(self.owner)
            assert time.monotonic() < deadline, (names, seen)
            time.sleep(0.02)


class Runs(Protocol):
    name: str

    def close(self) -> None: ...


class Ours:
    """A member of ottla's client, in a thread."""

    def __init__(self, ledger: Ledger, name: str, address: str, group: str, topic: str, **options: Any) -> None:
        self.name = name
        self._stop = threading.Event()
        self.error: BaseException | None = None
        consumer: ottla.Consumer = ottla.Consumer(
            address,
            group_id=group,
            topics=[topic],
            on_assigned=lambda partitions: ledger.begin(name, partitions),
            on_revoked=lambda partitions: ledger.end(name, partitions),
            heartbeat_interval_ms=200,
            **options,
        )

        def work() -> None:
            try:
                with consumer:
                    while not self._stop.is_set():
                        consumer.poll(timeout=0.05)
            except BaseException as error:
                self.error = error
            ledger.end_all(name)

        self._thread = threading.Thread(target=work)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(WAIT_S)
        assert self.error is None, self.error


class Librdkafka:
    """A member of librdkafka's, in a thread."""

    def __init__(self, ledger: Ledger, name: str, address: str, group: str, topic: str, **options: Any) -> None:
        self.name = name
        self._stop = threading.Event()
        settings = {"bootstrap.servers": address, "group.id": group, "topic.metadata.refresh.interval.ms": 1_000}
        consumer = TheirConsumer({**settings, **{key.replace("_", "."): value for key, value in options.items()}})
        cooperative = options.get("partition_assignment_strategy") == "cooperative-sticky"
        modern = options.get("group_protocol") == "consumer"

        def ours(partitions: Any) -> list[TopicPartition]:
            return [TopicPartition(each.topic, each.partition) for each in partitions]

        def on_assign(who: Any, partitions: Any) -> None:
            ledger.begin(name, ours(partitions))
            if cooperative or modern:
                who.incremental_assign(partitions)

        def on_revoke(who: Any, partitions: Any) -> None:
            ledger.end(name, ours(partitions))
            if cooperative or modern:
                who.incremental_unassign(partitions)

        def work() -> None:
            consumer.subscribe([topic], on_assign=on_assign, on_revoke=on_revoke, on_lost=on_revoke)
            while not self._stop.is_set():
                consumer.poll(0.05)
            # Its close() may run the callback after it has left.
            ledger.end_all(name)
            consumer.close()
            ledger.end_all(name)

        self._thread = threading.Thread(target=work)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(WAIT_S)


JAVA = """
import java.time.Duration;
import java.util.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.common.TopicPartition;
public class Member {
    static void tell(String what, Collection<TopicPartition> partitions) {
        StringBuilder text = new StringBuilder(what);
        for (TopicPartition p : partitions) text.append(" ").append(p.partition());
        System.out.println(text); System.out.flush();
    }
    public static void main(String[] a) throws Exception {
        Properties p = new Properties();
        p.put("bootstrap.servers", a[0]); p.put("group.id", a[1]); p.put("group.protocol", a[3]);
        if (a[3].equals("classic")) { p.put("partition.assignment.strategy", a[4]); p.put("heartbeat.interval.ms", "200"); }
        p.put("key.deserializer", "org.apache.kafka.common.serialization.ByteArrayDeserializer");
        p.put("value.deserializer", "org.apache.kafka.common.serialization.ByteArrayDeserializer");
        KafkaConsumer<byte[], byte[]> c = new KafkaConsumer<>(p);
        c.subscribe(List.of(a[2]), new ConsumerRebalanceListener() {
            public void onPartitionsAssigned(Collection<TopicPartition> partitions) { tell("+", partitions); }
            public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
                tell("-", partitions);
                try { System.in.read(); } catch (Exception e) { throw new RuntimeException(e); }  // until it is noted
            }
        });
        while (System.getProperty("stop") == null && !new java.io.File(a[5]).exists()) c.poll(Duration.ofMillis(50));
        c.close();
    }
}
"""

JAVA_NAMES = {
    "range": "org.apache.kafka.clients.consumer.RangeAssignor",
    "roundrobin": "org.apache.kafka.clients.consumer.RoundRobinAssignor",
    "sticky": "org.apache.kafka.clients.consumer.StickyAssignor",
    "cooperative-sticky": "org.apache.kafka.clients.consumer.CooperativeStickyAssignor",
}


class Java:
    """A member of the Java client's, in a process."""

    def __init__(
        self, folder: Path, ledger: Ledger, name: str, address: str, group: str, topic: str, **options: Any
    ) -> None:
        from tests.compatibility.streams.application import class_path

        self.name = name
        self._stop = folder / f"stop-{name}"
        protocol = options.get("group_protocol", "classic")
        strategy = JAVA_NAMES[options.get("partition_assignment_strategy", "range")]
        command = ["java", "-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", f"{folder}:{class_path()}", "Member"]
        self._process = subprocess.Popen(
            [*command, address, group, topic, protocol, strategy, str(self._stop)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

        def work() -> None:
            assert self._process.stdout is not None
            assert self._process.stdin is not None
            for line in self._process.stdout:
                what, *numbers = line.split()
                partitions = [TopicPartition(topic, int(number)) for number in numbers]
                if what == "+":
                    ledger.begin(name, partitions)
                elif what == "-":
                    ledger.end(name, partitions)
                    self._process.stdin.write("\n")
                    self._process.stdin.flush()
            ledger.end_all(name)

        self._thread = threading.Thread(target=work)
        self._thread.start()

    def close(self) -> None:
        self._stop.touch()
        self._process.wait(WAIT_S)
        self._thread.join(WAIT_S)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def mix(make: list[Callable[[str], Runs]], ledger: Ledger, rebalances: int, seed: int) -> None:
    """Have members come and go; each step is at least one rebalance."""
    dice = random.Random(seed)
    running: list[Runs] = [each(f"first {number}") for number, each in enumerate(make)]
    try:
        ledger.await_complete({each.name for each in running})
        for number in range(rebalances):
            if len(running) > len(make) or (len(running) == len(make) and dice.random() < 0.4):
                leaving = running.pop(dice.randrange(len(running)))
                leaving.close()
            else:
                missing = [each for each in make if not any(isinstance(r, type_of(each)) for r in running)]
                running.append(dice.choice(missing or make)(f"later {number}"))
            ledger.await_complete({each.name for each in running})
            assert not ledger.complaints, ledger.complaints
    finally:
        for each in running:
            each.close()
    assert not ledger.complaints, ledger.complaints


def type_of(make: Callable[[str], Runs]) -> type:
    return make.kind  # type: ignore[attr-defined,no-any-return]


def maker(kind: type, build: Callable[[str], Runs]) -> Callable[[str], Runs]:
    def make(name: str) -> Runs:
        return build(name)

    make.kind = kind  # type: ignore[attr-defined]
    return make


@pytest.mark.parametrize(
    ("protocol", "strategy"),
    [("classic", "range"), ("classic", "roundrobin"), ("classic", "cooperative-sticky"), ("consumer", "range")],
)
def test_beside_librdkafka(broker: RunningBroker, protocol: str, strategy: str) -> None:
    topic, group = new_topic(broker.address, PARTITIONS), new_group()
    ledger = Ledger(topic)
    options: dict[str, Any] = {"group_protocol": protocol}
    if protocol == "classic":
        options["partition_assignment_strategy"] = strategy
    makers = [
        maker(kind, lambda name, kind=kind: kind(ledger, name, broker.address, group, topic, **options))  # type: ignore[misc]
        for kind in (Ours, Librdkafka)
    ]
    mix(makers, ledger, 4, 1)


def mix_with_java(address: str, protocol: str, strategy: str, folder: Path, rebalances: int, seed: int) -> int:
    """Have members of ottla's, Java's and librdkafka's come and go in one group; return how often partitions were taken."""
    from tests.support import kafka_anchor

    source = folder / "Member.java"
    source.write_text(JAVA)
    done = kafka_anchor.run_tool("com.sun.tools.javac.Main", "-proc:none", "-d", str(folder), str(source))
    assert done.returncode == 0, done.stdout
    topic, group = new_topic(address, PARTITIONS), new_group()
    ledger = Ledger(topic)
    options: dict[str, Any] = {"group_protocol": protocol}
    if protocol == "classic":
        options["partition_assignment_strategy"] = strategy
    makers = [
        maker(Ours, lambda name: Ours(ledger, name, address, group, topic, **options)),
        maker(Java, lambda name: Java(folder, ledger, name, address, group, topic, **options)),
    ]
    if strategy != "sticky":  # librdkafka does not have it
        makers.append(maker(Librdkafka, lambda name: Librdkafka(ledger, name, address, group, topic, **options)))
    mix(makers, ledger, rebalances, seed)
    return ledger.changes


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("protocol", "strategy"),
    [*(("classic", strategy) for strategy in JAVA_NAMES), ("consumer", "range")],
)
def test_beside_librdkafka_and_java(broker: RunningBroker, protocol: str, strategy: str, tmp_path: Path) -> None:
    """25 rebalances each."""
    from tests.support import kafka_anchor

    kafka_anchor.require()
    changes = mix_with_java(broker.address, protocol, strategy, tmp_path, 25, 2)
    print(f"\n{protocol} {strategy}: {changes} times partitions were taken, none twice")
