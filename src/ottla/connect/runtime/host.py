"""The process of one connector: it finds the connector, runs its tasks in threads, and tells the worker what happens.

What comes in on standard input, and goes out on the descriptor in the first argument, is JSON, a line each:

    in:   {"worker": {...}, "config": {...}, "offsets": [[key, value], ...]}, then {"stop": true}
    out:  {"event": "running", "tasks": n} | {"event": "refused", "message"} | {"event": "failed", "task", "trace"}
          | {"event": "offsets", "entries": [[key, value], ...]} | {"event": "ended"}

Keys and values of offsets are base 64. When the input ends the worker is gone, and so is this process, at once: nobody
would write its offsets down.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import traceback
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import IO, Any

from ottla.connect.connectors import SinkTask, SourceTask
from ottla.connect.errors import ConnectError
from ottla.connect.runtime.finding import connector_class
from ottla.connect.runtime.offsets import KeptOffsets
from ottla.connect.runtime.sink_runner import SinkRunner
from ottla.connect.runtime.source_runner import SourceRunner
from ottla.connect.settings import settings_of
from ottla.errors import KafkaError

log = logging.getLogger("ottla.connect")  # __name__ is __main__ here
Entries = list[tuple[str, str | None]]


def encode_entry(key: bytes, value: bytes | None) -> tuple[str, str | None]:
    """Return an offset's key and value as they go through the pipe."""
    return b64encode(key).decode(), None if value is None else b64encode(value).decode()


def decode_entry(key: str, value: str | None) -> tuple[bytes, bytes | None]:
    """Undo `encode_entry`."""
    return b64decode(key), None if value is None else b64decode(value)


class Host:
    """One connector at work.

    Args:
        tell: gives an event to the worker.
    """

    def __init__(self, order: dict[str, Any], tell: Any) -> None:
        self._worker: dict[str, str] = order["worker"]
        self._config: dict[str, str] = order["config"]
        self._tell = tell
        self._kept = KeptOffsets(dict(decode_entry(*entry) for entry in order["offsets"]))
        self._name = self._config["name"]
        self._lock = threading.Lock()
        self._runners: list[SourceRunner | SinkRunner] = []
        self._threads: list[threading.Thread] = []
        self._failed: set[int] = set()
        self.stopping = threading.Event()

    def start(self) -> None:
        """Make the tasks and start them.

        Raises:
            ConnectError: the configuration cannot be accepted.
        """
        modules = [name for name in self._worker.get("plugin.modules", "").split(",") if name.strip()]
        kind = connector_class(self._config.get("connector.class", ""), [name.strip() for name in modules])
        common, values = settings_of(kind, self._config)
        connector = kind(self._config, values)
        for number, config in enumerate(connector.task_configs(common["tasks.max"])[: common["tasks.max"]]):
            task = kind.Task(config, kind.CONFIG.parse(config))
            self._runners.append(self._runner(number, task, common))
        for number, runner in enumerate(self._runners):
            thread = threading.Thread(
                target=self._run, args=(number, runner), name=f"{self._name}-{number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        self._tell({"event": "running", "tasks": len(self._runners)})

    def _runner(self, number: int, task: Any, values: dict[str, Any]) -> SourceRunner | SinkRunner:
        if isinstance(task, SourceTask):
            return SourceRunner(self._name, task, self._worker, self._config, values, self._kept)
        assert isinstance(task, SinkTask)
        return SinkRunner(self._name, number, task, self._worker, self._config, values)

    def _run(self, number: int, runner: SourceRunner | SinkRunner) -> None:
        try:
            runner.run()
        except BaseException as error:
            self._fail(number, error)

    def _fail(self, number: int, error: BaseException) -> None:
        with self._lock:
            if number in self._failed:
                return
            self._failed.add(number)
        self._runners[number].stop()
        trace = "".join(traceback.format_exception(error))
        if not isinstance(
            error, ConnectError | KafkaError
        ):  # a fault in the connector's code: its author needs the place
            log.error("task %s-%d raised an error that is none of ottla's:\n%s", self._name, number, trace)
        self._tell({"event": "failed", "task": number, "message": str(error), "trace": trace})

    def write_offsets(self) -> None:
        """Tell the worker the offsets that may be written down."""
        entries: Entries = []
        for number, runner in enumerate(self._runners):
            if not isinstance(runner, SourceRunner) or number in self._failed:
                continue
            try:
                entries += [encode_entry(*self._kept.set(self._name, *found)) for found in runner.take_offsets()]
            except Exception as error:
                self._fail(number, error)
        if entries:
            self._tell({"event": "offsets", "entries": entries})

    def work(self) -> None:
        """Write offsets down from time to time, until all tasks have ended."""
        interval_s = int(self._worker.get("offset.flush.interval.ms", 60000)) / 1000
        waits = threading.Thread(target=self._wait_for_tasks, daemon=True)
        waits.start()
        while waits.is_alive():
            waits.join(interval_s)
            self.write_offsets()
        self.write_offsets()

    def _wait_for_tasks(self) -> None:
        for thread in self._threads:
            thread.join()

    def stop(self) -> None:
        """Have all tasks end."""
        self.stopping.set()
        for runner in self._runners:
            runner.stop()


def die_with_parent() -> None:
    """Have the system kill this process when its parent ends (Linux)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


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

    host = Host(json.loads(sys.stdin.readline()), tell)
    try:
        host.start()
    except ConnectError as error:
        tell({"event": "refused", "message": str(error)})
        return 1
    except Exception as error:
        tell({"event": "refused", "message": f"{type(error).__name__}: {error}\n{traceback.format_exc()}"})
        return 1
    threading.Thread(target=_obey, args=(host,), daemon=True).start()
    host.work()
    tell({"event": "ended"})
    return 0


def _obey(host: Host) -> None:
    for line in sys.stdin:
        if json.loads(line).get("stop"):
            host.stop()
    if not host.stopping.is_set():
        os._exit(1)  # the worker is gone


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
