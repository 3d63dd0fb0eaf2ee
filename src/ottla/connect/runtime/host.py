"""The process with tasks of one connector: it runs them in threads, and tells the worker what happens.

What comes in on standard input, and goes out on the descriptor in the first argument, is JSON, a line each:

    in:   {"worker": {...}, "config": {...}, "offsets": [[key, value], ...], "tasks": [[number, run, config], ...],
           "paused": bool, "levels": {logger: level}, "lease": time or null, "exactly_once": {"group", "topic"} or null}, then
          {"end": [number, ...]} | {"paused": bool} | {"level": [logger, level]} | {"stop": true} | {"written": id}
          | {"lease": time} | {"may": "init" | "go", "task", "offsets": [[key, value], ...]}
    out:  {"event": "refused", "message"} | {"event": "running", "tasks": n}, then
          {"event": "asks", "step": "init" | "go", "task", "run"} | {"event": "begun", "task", "run"} |
          {"event": "failed" | "ended", "task", "run", "message", "trace", "new_offsets"}
          | {"event": "topics", "topics": [...]} | {"event": "paused", "paused": bool} | {"event": "closed"}
          | {"event": "offsets", "entries": [[key, value], ...], "id"}
          | {"event": "counts", "task", "counts": {Kafka's name: number}}

Tasks of a source that are exactly once ask before they begin (`exactly_once.py`), and tell no offsets.
Keys and values of offsets are base 64. Once offsets are written down the worker says their id, which stands for all before.
When the input ends the worker is gone, and so is this process, at once: nobody would write its offsets down.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import IO, Any, Final

from ottla.connect.config_def import Password
from ottla.connect.connectors import Connector, SinkTask, SourceTask
from ottla.connect.errors import ConnectError
from ottla.connect.runtime.environments import enter_environment
from ottla.connect.runtime.exactly_once import ExactlyOnce, ExactlyOnceRunner, Step
from ottla.connect.runtime.finding import connector_class, listed
from ottla.connect.runtime.levels import set_level
from ottla.connect.runtime.offsets import KeptOffsets
from ottla.connect.runtime.process import Lease, die_with_parent, end_out_of_memory, limit_memory, memory_limit
from ottla.connect.runtime.resolving import Redactor, resolved
from ottla.connect.runtime.sink_runner import SinkRunner
from ottla.connect.runtime.source_runner import SourceRunner
from ottla.connect.runtime.validation import secrets_of
from ottla.connect.settings import settings_of
from ottla.errors import KafkaError

log = logging.getLogger("ottla.connect")  # __name__ is __main__ here
#: Seconds between two looks at what tasks have counted.
_COUNTS_S: Final = 2.0
#: Objects made between two looks for garbage: a batch of records, on its way to a sink, is many of them, and none is garbage
#: yet. With Python's 700 the JDBC sink took a fifth more CPU time.
_GC_THRESHOLD: Final = 20_000
Entries = list[tuple[str, str | None]]


def encode_entry(key: bytes, value: bytes | None) -> tuple[str, str | None]:
    """Return an offset's key and value as they go through the pipe."""
    return b64encode(key).decode(), None if value is None else b64encode(value).decode()


def decode_entry(key: str, value: str | None) -> tuple[bytes, bytes | None]:
    """Undo `encode_entry`."""
    return b64decode(key), None if value is None else b64decode(value)


class Host:
    """Tasks of one connector at work.

    Args:
        tell: gives an event to the worker.
    """

    def __init__(self, order: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> None:
        self._worker: dict[str, str] = order["worker"]
        self._raw: dict[str, str] = order["config"]
        self._name = self._raw["name"]
        self._given: list[tuple[int, int, dict[str, str]]] = [tuple(task) for task in order["tasks"]]
        self._is_paused: bool = order.get("paused", False)
        self._tell = tell
        self._kept = KeptOffsets(dict(decode_entry(*entry) for entry in order["offsets"]))
        self._lock = threading.Lock()
        self._runners: dict[int, SourceRunner | SinkRunner] = {}
        self._runs = {number: run for number, run, _ in self._given}
        self._threads: list[threading.Thread] = []
        self._failed: set[int] = set()
        self._has_new_offsets: set[int] = set()
        #: Offsets that the worker was told, by the id of that: whose they are.
        self._told: dict[int, tuple[int, list[tuple[Mapping[str, Any], Mapping[str, Any]]]]] = {}
        self._last_told = 0
        self._counts: dict[int, dict[str, int]] = {}
        self._topics: set[str] = set()
        self._redact = Redactor(())
        self.stopping = threading.Event()
        self._has_started = False
        self._backlog: list[Mapping[str, Any]] = []
        self._exactly_once = None if order.get("exactly_once") is None else ExactlyOnce(**order["exactly_once"])
        self._lease = None if order.get("lease") is None else Lease(order["lease"])

    def start(self) -> None:
        """Make the tasks and start them.

        Raises:
            ConnectError: the configuration cannot be accepted.
        """
        config = self._texts(self._raw)
        self._redact = Redactor(self._elsewhere(config))
        enter_environment(self._worker, self._raw)
        kind = connector_class(config.get("connector.class", ""), listed(self._worker))
        common, values = settings_of(kind, config)
        self._redact = Redactor(self._secrets(config, values))
        for number, _, raw in self._given:
            task_config = self._texts(raw)
            task = kind.Task(task_config, kind.CONFIG.parse(task_config))
            self._runners[number] = self._runner(number, task, config, common)
            if isinstance(task, SourceTask):
                task.context.on_waiting = partial(self._waits, number)
            self._runners[number].pause(self._is_paused)
        if self._lease is not None:
            self._lease.begin()
        for number, runner in self._runners.items():
            thread = threading.Thread(
                target=self._run, args=(number, runner), name=f"{self._name}-{number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        waiting = [number for number, runner in self._runners.items() if isinstance(runner, ExactlyOnceRunner)]
        self._tell({"event": "running", "tasks": len(self._runners), "waiting": waiting})
        self._obey_backlog()

    def _texts(self, raw: Mapping[str, str]) -> dict[str, str]:
        return {name: text for name, text in resolved(self._worker, raw).items() if text is not None}

    def _secrets(self, config: Mapping[str, str], values: Mapping[str, Any]) -> list[str]:
        """Return the texts that nobody is to see: passwords, and what came from elsewhere."""
        found = [value.value for value in values.values() if isinstance(value, Password)]
        found += [config[name] for name in secrets_of(type_of(config, self._worker), config)]
        return found + self._elsewhere(config)

    def _elsewhere(self, config: Mapping[str, str]) -> list[str]:
        """Return the texts that variables stand for."""
        return [text for name, text in config.items() if "${" in self._raw.get(name, "") and text != self._raw[name]]

    def redact(self, text: str) -> str:
        """Return a text without the secrets that are known by now."""
        return self._redact(text)

    def _runner(
        self, number: int, task: Any, config: Mapping[str, str], values: dict[str, Any]
    ) -> SourceRunner | SinkRunner:
        if isinstance(task, SourceTask) and self._exactly_once is not None:
            run = self._runs[number]

            def ask(step: Step) -> None:
                self._tell({"event": "asks", "step": step, "task": number, "run": run})

            return ExactlyOnceRunner(
                self._name, number, task, self._worker, config, values, self._on_topic, self._exactly_once,
                ask=ask,
                begun=lambda: self._tell({"event": "begun", "task": number, "run": run}),
                fail=lambda error: self._fail(number, error),
            )  # fmt: skip
        if isinstance(task, SourceTask):
            return SourceRunner(self._name, task, self._worker, config, values, self._kept, self._on_topic)
        assert isinstance(task, SinkTask)
        return SinkRunner(self._name, number, task, self._worker, config, values, self._on_topic, self._redact)

    def _on_topic(self, topic: str) -> None:
        with self._lock:
            if topic in self._topics:
                return
            self._topics.add(topic)
        self._tell({"event": "topics", "topics": [topic]})

    def _waits(self, number: int, reason: str | None) -> None:
        told = None if reason is None else self._redact(reason)
        self._tell({"event": "waits", "task": number, "run": self._runs[number], "reason": told})

    def _run(self, number: int, runner: SourceRunner | SinkRunner) -> None:
        try:
            runner.run()
        except MemoryError as error:
            end_out_of_memory(error)
        except BaseException as error:
            self._write_offsets_of(number, runner, is_last=True)  # what was acknowledged does not come again
            self._fail(number, error)
        else:
            self._write_offsets_of(number, runner)
            if number not in self._failed:
                self._tell({"event": "ended", "task": number, "run": self._runs[number]})

    def _fail(self, number: int, error: BaseException) -> None:
        with self._lock:
            if number in self._failed:
                return
            self._failed.add(number)
        self._runners[number].stop()
        trace = self._redact("".join(traceback.format_exception(error)))
        if not isinstance(
            error, ConnectError | KafkaError
        ):  # a fault in the connector's code: its author needs the place
            log.error("task %s-%d raised an error that is none of ottla's:\n%s", self._name, number, trace)
        message = self._redact(str(error))
        runner = self._runners[number]
        has_new = number in self._has_new_offsets or runner.has_committed
        told = {"task": number, "run": self._runs[number], "message": message, "trace": trace, "new_offsets": has_new}
        self._tell({"event": "failed", **told})

    def write_offsets(self) -> None:
        """Tell the worker the offsets that may be written down."""
        for number, runner in self._runners.items():
            self._write_offsets_of(number, runner)

    def _write_offsets_of(self, number: int, runner: SourceRunner | SinkRunner, *, is_last: bool = False) -> None:
        """Tell the offsets of one task; what is wrong with them fails it, unless it has failed already (`is_last`)."""
        if not isinstance(runner, SourceRunner) or number in self._failed:
            return
        try:
            with self._lock:
                offsets = runner.take_offsets()
                entries = [encode_entry(*self._kept.set(self._name, *found)) for found in offsets]
                if entries:
                    self._has_new_offsets.add(number)
                    self._last_told += 1
                    self._told[self._last_told] = (number, offsets)
                    # before another thread tells newer ones
                    self._tell({"event": "offsets", "entries": entries, "id": self._last_told})
        except Exception as error:
            if not is_last:
                self._fail(number, error)

    def _written(self, last: int) -> None:
        """Tell tasks whose offsets are written down."""
        with self._lock:
            found = [self._told.pop(number) for number in list(self._told) if number <= last]
        for number, offsets in found:
            runner = self._runners[number]
            if isinstance(runner, SourceRunner) and number not in self._failed:
                try:
                    runner.committed(offsets)
                except Exception as error:
                    self._fail(number, error)

    def work(self) -> None:
        """Write offsets down from time to time, until all tasks have ended."""
        interval_s = int(self._worker.get("offset.flush.interval.ms", 60000)) / 1000
        waits = threading.Thread(target=self._wait_for_tasks, daemon=True)
        waits.start()
        due_s = time.monotonic() + interval_s
        while waits.is_alive():
            waits.join(min(_COUNTS_S, max(0.0, due_s - time.monotonic())))
            self._tell_counts()
            if due_s <= time.monotonic():
                self.write_offsets()
                due_s = time.monotonic() + interval_s
        self.write_offsets()
        self._tell_counts()

    def _tell_counts(self) -> None:
        """Tell what tasks have counted, if that is something new."""
        for number, runner in self._runners.items():
            counts = runner.counts.read()
            if counts != self._counts.get(number):
                self._counts[number] = counts
                self._tell({"event": "counts", "task": number, "counts": counts})

    def _wait_for_tasks(self) -> None:
        for thread in self._threads:
            thread.join()

    def obey(self, command: Mapping[str, Any]) -> None:
        """Do what the worker says: at once what is about the lease, and the rest when the tasks have started."""
        if "lease" in command:
            if self._lease is not None:
                self._lease.extend(command["lease"])
            return
        with self._lock:
            if not self._has_started:
                self._backlog.append(command)
                return
        self._obey(command)

    def _obey_backlog(self) -> None:
        while True:
            with self._lock:
                if not self._backlog:
                    self._has_started = True
                    return
                command = self._backlog.pop(0)
            self._obey(command)

    def _obey(self, command: Mapping[str, Any]) -> None:
        if command.get("stop"):
            self.stopping.set()
            for runner in self._runners.values():
                runner.stop()
        for number in command.get("end", ()):
            if number in self._runners:
                self._runners[number].stop()
        if "paused" in command:
            for runner in self._runners.values():
                runner.pause(command["paused"])
            self._tell({"event": "paused", "paused": command["paused"]})
        if "written" in command:
            self._written(command["written"])
        if "may" in command:
            asking = self._runners.get(command["task"])
            if isinstance(asking, ExactlyOnceRunner):
                asking.allow(command["may"], dict(decode_entry(*entry) for entry in command["offsets"]))
        if "level" in command:
            set_level(*command["level"])


def type_of(config: Mapping[str, str], worker: Mapping[str, str]) -> type[Connector]:
    """Return the class of a connector."""
    return connector_class(config.get("connector.class", ""), listed(worker))


def main(arguments: Sequence[str]) -> int:
    die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):  # they may go to the whole group: the worker stops its hosts itself
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    out: IO[str] = os.fdopen(int(arguments[0]), "w", encoding="utf-8")
    lock = threading.Lock()

    def tell(event: dict[str, Any]) -> None:
        with lock:
            out.write(json.dumps(event) + "\n")
            out.flush()

    order = json.loads(sys.stdin.readline())
    for name, level in order.get("levels", {}).items():
        set_level(name, level)
    limit_memory(memory_limit(order["worker"].get("connector.memory.limit")))
    host = Host(order, tell)
    threading.Thread(target=_obey, args=(host,), daemon=True).start()
    try:
        host.start()
    except MemoryError as error:
        end_out_of_memory(error)
    except ConnectError as error:
        message = host.redact(str(error))
        tell({"event": "refused", "message": message, "trace": message})
        return 1
    except Exception as error:
        message = host.redact(f"{type(error).__name__}: {error}")
        tell({"event": "refused", "message": message, "trace": host.redact(traceback.format_exc())})
        return 1
    gc.freeze()  # what is here now stays
    gc.set_threshold(_GC_THRESHOLD, 20, 20)
    host.work()
    tell({"event": "closed"})
    return 0


def _obey(host: Host) -> None:
    for line in sys.stdin:
        host.obey(json.loads(line))
    if not host.stopping.is_set():
        os._exit(1)  # the worker is gone


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
