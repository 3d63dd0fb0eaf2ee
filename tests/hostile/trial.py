"""One trial: a broker in its own process, a calm client beside it, and the storm; then what all three say.

The broker's whole output is read as it comes: a traceback anywhere in it fails the trial, and one line per closed
connection is what is expected of it.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from types import TracebackType
from typing import Any, Self

from tests.hostile.mutations import Frames
from tests.hostile.seeds import PARTITIONS, TOPICS, Seeds
from tests.hostile.storm import Storm, Tally
from tests.support.broker_process import BrokerProcess

from ottla.protocol.api import APIS, ApiKey
from ottla.protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest, CreateTopicsResponse
from ottla.testing.wire import WireClient

#: Small logs, quick groups; no topic comes into being because somebody asked about it.
SETTINGS = {
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    "group.max.session.timeout.ms": "15000",
    "group.max.size": "100",
    "log.segment.bytes": str(8 << 20),
    "log.retention.bytes": str(32 << 20),
    "log.retention.check.interval.ms": "5000",
    "offsets.topic.num.partitions": "4",
}
#: What may be left of the storm in memory: topics' counters, groups, codecs of 250 versions, the allocator's slack.
RESIDENT_LEFT_MAX = 80 << 20
_BAD_WORDS = ("Traceback", "RuntimeWarning", "Uncaught", " ERROR ", " CRITICAL ")
_COUNTED = re.compile(r'^kafka_network_requestmetrics_requestspersec\{request="(\w+)"\} (\d+)', re.MULTILINE)
_NAMES = {spec.name: key for key, spec in APIS.items()}


class WatchedBroker(BrokerProcess):
    """Counts the lines it prints, and keeps those of tracebacks and errors."""

    def __init__(self, settings: dict[str, str]) -> None:
        super().__init__(settings)
        self.lines = 0
        self.bad_lines: list[str] = []
        self._following = 0

    def _read_output(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            line = line.rstrip("\n")
            self.lines += 1
            self._lines.append(line)
            if any(word in line for word in _BAD_WORDS):
                self._following = 40
            if self._following and len(self.bad_lines) < 400:
                self._following -= 1
                self.bad_lines.append(line)
            if not ready.is_set() and f":{self.port}" in line:
                self.ready_line = line
                ready.set()


class Trial:
    """Use as a context manager; `send` as often as wanted, `finish` once."""

    def __init__(self, *, seed: int, settings: dict[str, str] | None = None) -> None:
        self.seed = seed
        self.broker = WatchedBroker({**SETTINGS, **(settings or {})})
        self.resident_before = 0
        self.resident_max = 0
        self.counted_before: dict[ApiKey, int] = {}

    def __enter__(self) -> Self:
        self.broker.start()
        try:
            topic_ids = asyncio.run(_create_topics(self.broker.port))
            self.storm = Storm(self.broker.port, Frames(Seeds(topic_ids), self.seed))
            self.calm = subprocess.Popen(
                [sys.executable, "-m", "tests.hostile.calm_client", str(self.broker.port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            assert self.calm.stdout is not None
            if self.calm.stdout.readline().strip() != "ready":
                raise AssertionError(f"the calm client failed before the storm:\n{self.calm.communicate()[1]}")
            self.resident_before = self.resident_bytes()
            self.counted_before = self.counted()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        calm = getattr(self, "calm", None)
        if calm is not None and calm.poll() is None:
            calm.kill()
            calm.communicate()
        self.broker.close()

    @property
    def tally(self) -> Tally:
        return self.storm.tally

    def send(self, start: int, count: int) -> None:
        """Send frames `start` to `start + count` and wait for what becomes of them."""
        asyncio.run(self.storm.run(start, count))
        self.resident_max = max(self.resident_max, self.resident_peak())
        assert self.broker.is_running(), f"the broker died in frames {start} to {start + count} of seed {self.seed}"

    def resident_bytes(self) -> int:
        return _status_kib(self.broker.pid, "VmRSS") << 10

    def resident_left(self) -> int:
        """The resident memory when the storm is over: the first value within bounds, else the one after 60 s.

        The storm leaves a connection that is silent for `stall_s`. A broker on a loaded machine then still unpacks what
        that connection sent, up to 100 MiB in each of two threads, and gives the memory back at the end.
        """
        deadline = time.monotonic() + 60
        while True:
            resident = self.resident_bytes()
            if resident - self.resident_before < RESIDENT_LEFT_MAX or time.monotonic() > deadline:
                return resident
            time.sleep(0.1)

    def resident_peak(self) -> int:
        return _status_kib(self.broker.pid, "VmHWM") << 10

    def counted(self) -> dict[ApiKey, int]:
        """What the broker itself counts: requests given to handlers, by API."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.broker.port}/metrics", timeout=30) as answer:
            page = answer.read().decode()
        return {_NAMES[name]: int(count) for name, count in _COUNTED.findall(page) if name in _NAMES}

    def finish(self) -> dict[str, Any]:
        """Stop the calm client, then the broker; everything known as one dictionary."""
        counted = self.counted()
        resident = self.resident_left()
        try:
            out, errors = self.calm.communicate("", timeout=60)
        except subprocess.TimeoutExpired:
            self.calm.kill()
            out, errors = self.calm.communicate()
        if self.calm.returncode:
            last = "\n".join(self.broker.bad_lines[-40:])
            raise AssertionError(f"the calm client was disturbed:\n{errors}\nbroker:\n{last}")
        calm: dict[str, float] = json.loads(out.splitlines()[-1])
        code = self.broker.terminate()
        tally = self.tally
        # The calm client: three requests each round, and few to begin with.
        own = 3 * int(calm["rounds"])
        handled = sum(counted.values()) - sum(self.counted_before.values()) - own
        return {
            "seed": self.seed,
            "frames": tally.frames,
            "reached_a_handler": tally.reached,
            "share_reached": round(tally.share_reached, 4),
            "counted_by_the_broker": handled,
            "refused": tally.refused,
            "held": tally.held,
            "connections": tally.connections,
            "apis_reached": len(tally.reached_by_key),
            "share_by_mutation": {
                name: round(tally.reached_by_mutation[name] / count, 3)
                for name, count in sorted(tally.by_mutation.items())
            },
            "rss_mib_before": self.resident_before >> 20,
            "rss_mib_peak": self.resident_max >> 20,
            "rss_mib_after": resident >> 20,
            "log_lines": self.broker.lines,
            "bad_log_lines": self.broker.bad_lines,
            "exit_code": code,
            "calm_client": {name: round(value, 3) for name, value in calm.items()},
        }


async def _create_topics(port: int) -> dict[str, bytes]:
    wire = await WireClient.connect("127.0.0.1", port)
    request = CreateTopicsRequest(
        topics=[CreatableTopic(name=name, num_partitions=PARTITIONS, replication_factor=1) for name in TOPICS],
        timeout_ms=9000,
    )
    answer = await wire.ask(request, 7, CreateTopicsResponse)
    assert all(not topic.error_code for topic in answer.topics), answer
    wire.close()
    return {topic.name: topic.topic_id for topic in answer.topics}


def _status_kib(pid: int, name: str) -> int:
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        for line in status:
            if line.startswith(name + ":"):
                return int(line.split()[1])
    raise KeyError(name)
