"""A transactional copy (consume, transform, produce, send offsets) whose programs and broker are killed; it must be exact.

One round, decided by its seed: two copiers, members of one group, share the partitions of `input`; records are sent in
portions, and between portions a copier or the broker gets `kill -9` and is started again. In the end `output`, as a reader
of committed records sees it, must have every input exactly once, in order per partition, and the group's offsets must add
up to the input.

By itself, for long runs; rounds that the journal has are not repeated:

    python -m tests.compatibility.copying.killing java --rounds 5 --kills 40 --journal copies.txt
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from tests.compatibility.streams.application import JVM, QUIET, class_path
from tests.support import kafka_anchor
from tests.support.broker_process import BrokerProcess, RunningBroker

FOLDER = Path(__file__).parent
PARTITIONS = 4
CLIENTS = ("java", "confluent")
PROTOCOLS = ("classic", "consumer")
#: Without an output record for so long, a round has failed.
PATIENCE_S = 60.0

BROKER_SETTINGS = {
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.session.timeout.ms": "2000",
    "group.consumer.min.heartbeat.interval.ms": "300",
    "group.consumer.heartbeat.interval.ms": "300",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
}


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What happened in one round, and what was wrong with its output (nothing, if all is well)."""

    seed: int
    client: str
    protocol: str
    kills: Counter[str]
    records: int
    aborts: int
    gave_up: int
    seconds: float
    complaints: list[str]

    def __str__(self) -> str:
        verdict = "every record once, in order" if not self.complaints else "WRONG: " + "; ".join(self.complaints)
        kills = ", ".join(f"{who} {number}" for who, number in sorted(self.kills.items()))
        return (
            f"seed {self.seed} {self.client} {self.protocol}: {self.kills.total()} kills ({kills}), {self.records} records, "
            f"{self.aborts} aborts after errors, {self.gave_up} ended by themselves, {self.seconds:.0f} s: {verdict}"
        )


@cache
def compiled() -> Path:
    """The folder with the compiled Java program; it stays as long as this process."""
    folder = Path(_scratch().name)
    done = kafka_anchor.run_tool(
        "com.sun.tools.javac.Main", "-proc:none", "-d", str(folder), str(FOLDER / "java" / "Copier.java")
    )
    if done.returncode != 0:
        raise RuntimeError(done.stdout)
    return folder


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="ottla-copier-")


class Copier:
    """One instance; its name and its log outlive its deaths."""

    def __init__(self, client: str, address: str, name: str, directory: Path, options: dict[str, str]) -> None:
        self.name = name
        self.gave_up = 0
        self.log = directory / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        arguments = [address, name, *(f"{key}={value}" for key, value in options.items())]
        if client == "java":
            self._command = ["java", *JVM, *QUIET, "-cp", f"{compiled()}:{class_path()}", "Copier", *arguments]
        else:
            self._command = [sys.executable, "-X", "faulthandler", str(FOLDER / "confluent_copier.py"), *arguments]

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def restart_if_it_gave_up(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            self.gave_up += 1
            self.start()

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(30)

    def say_where_it_is(self) -> None:
        """Let it write the stacks of its threads into its log."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT if self._command[0] == "java" else signal.SIGABRT)
            time.sleep(1)

    @property
    def aborts(self) -> int:
        return self.text.count("aborts:")

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Input:
    """What is sent: numbers, each partition's in order."""

    def __init__(self, address: str, dice: random.Random) -> None:
        self.sent: list[list[int]] = [[] for _ in range(PARTITIONS)]
        self.count = 0
        self._dice = dice
        self._producer = Producer(
            {"bootstrap.servers": address, "enable.idempotence": True, "linger.ms": 5, "log_level": 0}
        )

    def send(self, count: int) -> None:
        for _ in range(count):
            partition = self._dice.randrange(PARTITIONS)
            self._producer.produce("input", value=str(self.count), partition=partition)
            self._producer.poll(0)
            self.sent[partition].append(self.count)
            self.count += 1

    def flush(self) -> None:
        assert self._producer.flush(PATIENCE_S) == 0


class CommittedOutput:
    """The committed records of `output` so far, in order per partition."""

    def __init__(self, address: str) -> None:
        self.values: list[list[int]] = [[] for _ in range(PARTITIONS)]
        self._consumer = Consumer(
            {
                "bootstrap.servers": address,
                "group.id": "verdict",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 100,
                "reconnect.backoff.max.ms": 300,
                "log_level": 0,
            }
        )
        self._consumer.assign([TopicPartition("output", index, 0) for index in range(PARTITIONS)])

    @property
    def size(self) -> int:
        return sum(map(len, self.values))

    def read_on(self, wait_s: float) -> int:
        """Take what has come; how many records."""
        taken = 0
        for message in self._consumer.consume(500, wait_s):
            value, partition = message.value(), message.partition()
            if message.error() is not None or value is None or partition is None:
                continue  # a broker that is being restarted
            self.values[partition].append(int(value))
            taken += 1
        return taken

    def close(self) -> None:
        self._consumer.close()

    def complaints(self, sent: Input) -> Iterator[str]:
        for partition, (values, numbers) in enumerate(zip(self.values, sent.sent, strict=True)):
            expected = [2 * number for number in numbers]
            if values != expected:
                lost, surplus = Counter(expected) - Counter(values), Counter(values) - Counter(expected)
                yield (
                    f"partition {partition}: {len(values)} of {len(expected)} records, {lost.total()} lost {[*lost][:3]}, "
                    f"{surplus.total()} surplus {[*surplus][:3]}"
                )


def run_round(
    *,
    seed: int,
    kills: int,
    client: str,
    protocol: str,
    make_broker: Callable[[dict[str, str]], RunningBroker] = BrokerProcess,
    records_per_kill: int = 60,
    broker_share: float = 0.25,
) -> Figures:
    """Run one round to its end."""
    dice = random.Random(seed)
    began = time.monotonic()
    killed: Counter[str] = Counter()
    broker = make_broker(dict(BROKER_SETTINGS))
    broker.start()
    copiers: list[Copier] = []
    with tempfile.TemporaryDirectory(prefix="ottla-copies-") as scratch:
        try:
            admin = AdminClient({"bootstrap.servers": broker.address, "log_level": 0})
            for created in admin.create_topics([NewTopic(n, PARTITIONS, 1) for n in ("input", "output")]).values():
                created.result(30)
            for number in range(2):
                options = {"group.protocol": protocol}
                if protocol == "classic":
                    options |= {"session.timeout.ms": "2000", "heartbeat.interval.ms": "300"}
                if seed % 2:  # as a static member, a killed copier gets its partitions back without waiting
                    options["group.instance.id"] = f"copier-{number}"
                copiers.append(Copier(client, broker.address, f"copier-{number}", Path(scratch), options))
                copiers[-1].start()
            sent, output = Input(broker.address, dice), CommittedOutput(broker.address)
            for _ in range(kills):
                sent.send(records_per_kill)
                # Most kills wait until something was copied since the last one, and then strike at any moment.
                progress_until = time.monotonic() + (15 if dice.random() < 0.8 else 0)
                while time.monotonic() < progress_until and not output.read_on(0.05):
                    for copier in copiers:
                        copier.restart_if_it_gave_up()
                time.sleep(dice.random() * dice.choice((0.05, 0.2, 1.0)))
                if dice.random() < broker_share:
                    broker.kill()
                    broker.start()
                    killed["broker"] += 1
                else:
                    victim = dice.choice(copiers)
                    victim.kill()
                    victim.start()
                    killed["copier"] += 1
            sent.flush()
            last = time.monotonic()
            while output.size < sent.count and time.monotonic() < last + PATIENCE_S:
                if output.read_on(0.2):
                    last = time.monotonic()
                for copier in copiers:
                    copier.restart_if_it_gave_up()
            output.read_on(1.0)
            complaints = [*output.complaints(sent)]
            groups = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions("copy")])
            committed = sum(max(place.offset, 0) for place in groups["copy"].result(30).topic_partitions)
            if committed != sent.count:
                complaints.append(f"the group's offsets add up to {committed} instead of {sent.count}")
            if complaints:
                for copier in copiers:
                    copier.say_where_it_is()
                complaints += [f"\n--- {copier.name}\n{copier.text[-4000:]}" for copier in copiers]
                complaints.append(f"\n--- broker\n{getattr(broker, 'output', '')[-4000:]}")
            output.close()
            return Figures(
                seed=seed,
                client=client,
                protocol=protocol,
                kills=killed,
                records=sent.count,
                aborts=sum(copier.aborts for copier in copiers),
                gave_up=sum(copier.gave_up for copier in copiers),
                seconds=time.monotonic() - began,
                complaints=complaints,
            )
        finally:
            for copier in copiers:
                copier.kill()
            broker.close()


def run_rounds(client: str, protocol: str, *, first: int, rounds: int, kills: int, journal: Path) -> list[str]:
    """Run the rounds that the journal does not have; return its lines for them. Stops after one that is wrong."""
    done = journal.read_text().splitlines() if journal.exists() else []
    lines: list[str] = []
    for seed in range(first, first + rounds):
        begin = f"seed {seed} {client} {protocol}:"
        line = next((line for line in done if line.startswith(begin) and "WRONG" not in line), None)
        if line is None:
            figures = run_round(seed=seed, kills=kills, client=client, protocol=protocol)
            line = str(figures).split("\n---")[0]
            print(figures, flush=True)
            journal.parent.mkdir(parents=True, exist_ok=True)
            with journal.open("a") as file:
                print(line, file=file)
        lines.append(line)
        if "WRONG" in line:
            break
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("client", choices=CLIENTS)
    parser.add_argument("--protocol", choices=PROTOCOLS, default="classic")
    parser.add_argument("--seed", type=int, default=1, help="of the first round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kills", type=int, default=40, help="in each round")
    parser.add_argument("--journal", type=Path, default=Path("build/copies.txt"))
    asked = parser.parse_args()
    lines = run_rounds(
        asked.client,
        asked.protocol,
        first=asked.seed,
        rounds=asked.rounds,
        kills=asked.kills,
        journal=asked.journal,
    )
    return 1 if any("WRONG" in line for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
