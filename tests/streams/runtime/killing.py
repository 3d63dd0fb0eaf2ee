"""Instances of an application and its broker killed under load, and the results compared with the batch computation."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.client.conftest import start_patiently
from tests.support.broker_process import RunningBroker

import ottla
from ottla.errors import KafkaError

ROOT = Path(__file__).parents[3]
PARTITIONS = 3


class Campaign:
    """One broker, `instances` processes with a state directory each, a producer that goes on through it all.

    Args:
        seed: of what is written and who is killed.
        pause_s: seconds between two writes.
        partitions: of each topic.
        words: how many there are.
        environment: of the instances.
        servers: by instance, the port at which it answers questions.
        group_configs: of the application's group.
    """

    def __init__(
        self,
        broker: RunningBroker,
        folder: Path,
        *,
        seed: int,
        instances: int = 2,
        pause_s: float = 0.01,
        partitions: int = PARTITIONS,
        words: int = 12,
        environment: Mapping[str, str] | None = None,
        servers: Sequence[int] | None = None,
        group_configs: Mapping[str, str] | None = None,
    ) -> None:
        self.broker = broker
        self.dice = random.Random(seed)
        self.kills: Counter[str] = Counter()
        self._folder = folder
        self._pause_s = pause_s
        self.name = f"counting-{seed}"
        self._partitions = partitions
        self._words = [f"word{number}" for number in range(words)]
        self._environment = dict(environment or {})
        self._servers = servers
        self._group_configs = group_configs
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * instances
        #: How long each instance's log was when it was started last.
        self._quiet: dict[int, int] = {}
        self._stop = threading.Event()
        self._writer = threading.Thread(target=self._write, args=(seed,), daemon=True)

    def start(self) -> None:
        """Make the topics, start everything."""
        self._folder.mkdir(parents=True, exist_ok=True)
        start_patiently(self.broker)
        with ottla.Admin(self.broker.address) as admin:
            for topic in ("lines", "clicks", "counts", "by-second"):
                admin.create_topic(topic, partitions=self._partitions, exists_ok=True)
            if self._group_configs:
                admin.alter_configs("group", self.name, dict(self._group_configs))
        for index in range(len(self._processes)):
            self.spawn(index)
        self._writer.start()

    def spawn(self, index: int) -> None:
        """Start an instance."""
        log = (self._folder / f"instance-{index}.log").open("ab")
        self._quiet[index] = log.tell()
        self._processes[index] = subprocess.Popen(
            [sys.executable, "-m", "ottla", "streams", "run", "tests.streams.runtime.counting_app:app", "-v"],
            cwd=ROOT,
            env={
                **os.environ,
                "KAFKA_BOOTSTRAP_SERVERS": self.broker.address,
                "COUNTING_APP": self.name,
                "COUNTING_STATE": str(self._folder / f"state-{index}"),
                **self._environment,
                **({} if self._servers is None else {"COUNTING_SERVER": f"127.0.0.1:{self._servers[index]}"}),
            },
            stdout=log,
            stderr=log,
        )
        log.close()

    def _write(self, seed: int) -> None:
        """Write until told to stop; a broker that is away is waited for. What arrived is read at the end."""
        dice = random.Random(seed)
        with suppress(KafkaError), ottla.Producer(self.broker.address, delivery_timeout_ms=float("inf")) as producer:
            while not self._stop.wait(self._pause_s):
                with suppress(KafkaError):
                    producer.send(
                        "lines", " ".join(dice.choices(self._words, k=4)), partition=dice.randrange(self._partitions)
                    )
                    producer.send("clicks", "click", key=f"user{dice.randrange(5)}")

    def kill_something(self) -> None:
        """Kill one instance, or now and then the broker, and start it again."""
        if self.dice.random() < 0.2:
            self.kills["broker"] += 1
            self.broker.kill()
            start_patiently(self.broker)
            return
        index = self.dice.randrange(len(self._processes))
        process = self._processes[index]
        assert process is not None
        code = process.poll()
        if code is not None and "Nothing listens on" in self.log(index):
            # It started while the broker was away, and said so: that is a supervisor's business.
            self.kills["started without a broker"] += 1
            self._forget_log(index)
            self.spawn(index)
            return
        if code is not None:
            raise AssertionError(f"instance {index} ended by itself with {code}:\n{self.log(index)}")
        self.kill(index)
        if self.dice.random() < 0.1:
            # The disk goes with it: everything comes back from the changelogs.
            subprocess.run(["rm", "-rf", str(self._folder / f"state-{index}")], check=True)
            self.kills["disk"] += 1
        self.spawn(index)

    def kill(self, index: int) -> None:
        """Kill an instance; `spawn` starts it again.

        Raises:
            AssertionError: it had ended by itself.
        """
        process = self._processes[index]
        assert process is not None
        code = process.poll()
        assert code is None, f"instance {index} ended by itself with {code}:\n{self.log(index)}"
        self.kills["instance"] += 1
        process.kill()
        process.wait()

    def log(self, index: int) -> str:
        """The last lines of an instance's log."""
        return (self._folder / f"instance-{index}.log").read_text(errors="replace")[-4000:]

    def _forget_log(self, index: int) -> None:
        path = self._folder / f"instance-{index}.log"
        path.replace(path.with_suffix(f".{sum(self.kills.values())}.log"))

    def settle(self, seconds: float) -> dict[str, int]:
        """Stop writing, wait until everything is counted, compare; return how many records there were.

        Raises:
            AssertionError: the results are not those of the batch computation.
        """
        self._stop.set()
        self._writer.join(60)
        deadline = time.monotonic() + seconds
        while True:
            wrong = self.compare()
            if not wrong:
                break
            for index, process in enumerate(self._processes):
                assert process is not None
                if process.poll() is not None:
                    if "Nothing listens on" not in self.log(index):
                        raise AssertionError(f"instance {index} ended by itself:\n{self.log(index)}")
                    self._forget_log(index)
                    self.spawn(index)
            if time.monotonic() > deadline:
                raise AssertionError(f"{wrong}\n{self.log(0)}\n{self.log(1)}")
            time.sleep(0.5)
        self.stop()
        return {topic: sum(1 for _ in self._read(topic)) for topic in ("lines", "clicks", "counts", "by-second")}

    def compare(self) -> str:
        """Say what differs from the batch computation; nothing does if it is empty."""
        words = Counter(word for _, value, _ in self._read("lines") for word in value.split())
        clicks = Counter(f"{key}@{when - when % 1000}" for key, _, when in self._read("clicks"))
        for topic, wanted in (("counts", words), ("by-second", clicks)):
            found: dict[str, list[int]] = {}
            for key, value, _ in self._read(topic):
                found.setdefault(key, []).append(int(value))
            for key, number in wanted.items():
                if found.get(key, []) != list(range(1, number + 1)):
                    return f"{topic}: {key} came {number} times; counted: {_short(found.get(key, []))}"
            if found.keys() - wanted.keys():
                return f"{topic}: {sorted(found.keys() - wanted.keys())} never came"
        return ""

    def _read(self, topic: str) -> Any:
        for _, key, value, when in self.read(topic):
            yield key, value, when

    def read(self, topic: str) -> Iterator[tuple[tuple[int, int], str, str, int]]:
        """Yield ((partition, offset), key, value, timestamp) of the committed records of a topic."""
        with ottla.Consumer(
            self.broker.address, topics=[topic], auto_offset_reset="earliest", isolation_level="read_committed"
        ) as reader:
            for record in reader.records(until="end"):
                key = record.key.decode() if record.key is not None else ""
                yield (
                    (record.partition, record.offset),
                    key,
                    (record.value or b"").decode(),
                    record.timestamp_ms,
                )

    def stop(self) -> None:
        """Have the instances hand over, and end."""
        for process in self._processes:
            if process is not None and process.poll() is None:
                process.terminate()
        for index, process in enumerate(self._processes):
            if process is not None:
                code = process.wait(120)
                if code == -signal.SIGTERM and self._says_nothing(index):
                    continue  # it was killed just before, and Python was not up to listen yet
                assert code == 0, f"instance {index} ended with {code}:\n{self.log(index)}"

    def _says_nothing(self, index: int) -> bool:
        """Whether an instance has written no line since its start."""
        return (self._folder / f"instance-{index}.log").stat().st_size <= self._quiet[index]

    def freeze(self) -> None:
        """Kill everything: the files stay as they are now."""
        self._stop.set()
        for process in self._processes:
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
        self.broker.kill()

    def close(self) -> None:
        """End everything, whatever state it is in."""
        self._stop.set()
        for process in self._processes:
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
        self.broker.close()


def _short(counts: list[int]) -> str:
    """What is wrong with a row of counts, in a few words."""
    for place, count in enumerate(counts):
        if count != place + 1:
            return f"{len(counts)} values, right up to {place}, then {counts[place : place + 5]}"
    return f"{len(counts)} values, the last {counts[-1:]}"
