"""`ottla serve --connect`: a Connect worker that lives and ends with its broker."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.connect.test_distributed import request
from tests.connect.test_standalone import TEXT, alive, children, file_source, lines, read, until
from tests.support.broker_process import BrokerProcess
from tests.support.ports import free_port

from ottla.broker.settings.listeners import Listener
from ottla.cli import connect_child
from ottla.cli.connect_child import ConnectChild, listener_for_connect

END_S = 100.0


class Pair:
    """A broker with a worker beside it."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self._config = folder / "worker.properties"
        self.url = f"http://127.0.0.1:{port}"
        self.broker = BrokerProcess(
            {"group.initial.rebalance.delay.ms": "0"}, options=("--connect-config", str(self._config))
        )

    def start(self, *, flush_ms: int = 200) -> None:
        """Start both.

        Args:
            flush_ms: how often offsets are written down before the end.
        """
        settings = {
            "listeners": self.url,
            "key.converter": TEXT,
            "value.converter": TEXT,
            "offset.flush.interval.ms": str(flush_ms),
            "task.shutdown.graceful.timeout.ms": "50000",
            "scheduled.rebalance.max.delay.ms": "0",
            "session.timeout.ms": "6000",
            "consumer.session.timeout.ms": "6000",
        }
        self._config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        self.broker.start()
        until(self.is_ready, "a worker in its group")

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=END_S) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def stop(self) -> int:
        self.broker.signal(signal.SIGTERM)
        return self.broker.wait_until_dead(timeout_s=END_S)

    def add(self, **config: str) -> None:
        request(self.url, "POST", "/connectors", {"name": config["name"], "config": config})

    def worker(self) -> int:
        (worker,) = children(self.broker.pid)
        return worker


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    try:
        yield made
    finally:
        made.broker.close()


def written(path: Path, *numbers: int) -> None:
    with path.open("a") as file:
        file.write("".join(f"{number}\n" for number in numbers))


def flow(pair: Pair, folder: Path) -> tuple[Path, Path]:
    """Have lines of one file go through a topic into another file."""
    given, taken = folder / "in.txt", folder / "out.txt"
    given.touch()
    pair.add(**file_source(given, "lines"))
    pair.add(**{"name": "out", "connector.class": "FileStreamSink", "topics": "lines", "file": str(taken)})
    return given, taken


def test_broker_stop_flushes_connect(pair: Pair, tmp_path: Path) -> None:
    """1. Records are on their way in and out.  2. SIGTERM to the broker.  3. After a start each line is there once."""
    pair.start(flush_ms=3_600_000)  # nothing is written down but at the end
    given, taken = flow(pair, tmp_path)
    written(given, *range(5_000))
    until(lambda: bool(lines(taken)), "the first lines")
    written(given, *range(5_000, 20_000))
    assert pair.stop() == 0
    assert "it is killed" not in pair.broker.output
    pair.start()
    written(given, 20_000)
    until(lambda: "20000" in lines(taken), "the last line")
    expected = [str(number) for number in range(20_001)]
    assert [record.value.decode() for record in read(pair.broker, "lines")] == expected
    assert lines(taken) == expected


def test_a_worker_that_was_killed_is_started_again(pair: Pair, tmp_path: Path) -> None:
    """1. The worker is killed.  2. The broker goes on, and starts another one.  3. The connectors are still there."""
    pair.start()
    given, taken = flow(pair, tmp_path)
    written(given, 1)
    until(lambda: lines(taken) == ["1"], "the first line")
    before, broker = pair.worker(), pair.broker.pid
    os.kill(before, signal.SIGKILL)
    said = "Connect has ended with code -9: it is started again in 0.5 s"
    until(lambda: said in pair.broker.output, "a word of it")
    until(pair.is_ready, "another worker")
    assert pair.worker() != before
    written(given, 2)
    until(lambda: "2" in lines(taken), "the second line")
    assert pair.broker.pid == broker
    assert pair.broker.is_running()
    assert sorted(request(pair.url, "GET", "/connectors")) == ["out", "source-lines"]


def test_a_killed_broker_leaves_no_worker(pair: Pair, tmp_path: Path) -> None:
    pair.start()
    _, taken = flow(pair, tmp_path)
    until(taken.exists, "a task")
    worker = pair.worker()
    (nursery,) = children(worker)
    family = [worker, nursery, *children(nursery)]
    assert len(family) > 3
    pair.broker.kill()
    until(lambda: not any(alive(process) for process in family), "the end of the worker and its processes")


async def test_a_worker_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = tmp_path / "begun"
    script = (
        "import pathlib, signal, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"pathlib.Path({str(begun)!r}).touch()\n"
        "sys.stdin.read()\n"
        "signal.pause()\n"
    )
    monkeypatch.setattr(connect_child, "python", lambda: [sys.executable, "-c", script])
    child = ConnectChild(None, stop_s=0.1)
    child.start("127.0.0.1:1")
    await asyncio.to_thread(until, begun.exists, "the start")
    process = child._process
    assert process is not None
    await child.stop()
    assert process.returncode == -signal.SIGKILL


PLAIN = Listener("PLAIN", "", 9092, "PLAINTEXT")
SASL = Listener("LOGIN", "", 9093, "SASL_SSL")


@pytest.mark.parametrize(
    ("worker", "found"),
    [
        ({}, PLAIN),
        ({"security.protocol": "sasl_ssl"}, SASL),
        ({"security.protocol": "SSL", "bootstrap.servers": "kafka.example.com:9094"}, SASL),
    ],
)
def test_the_worker_takes_a_listener_where_it_can_log_in(worker: dict[str, str], found: Listener) -> None:
    assert listener_for_connect([SASL, PLAIN], worker) is found


def test_a_worker_that_cannot_log_in_is_refused() -> None:
    said = r"no listener has security\.protocol=PLAINTEXT, there is SASL_SSL\. .*--connect-config"
    with pytest.raises(ValueError, match=said):
        listener_for_connect([SASL], {})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (lambda folder: ["--connect", "--workers", "2"], "--connect is for a single broker"),
        (lambda folder: ["--connect-config", f"{folder}/none"], "cannot read"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(
    tmp_path: Path, options: Callable[[Path], list[str]], said: str
) -> None:
    command = [sys.executable, "-m", "ottla", "serve", "--port", "0", "--data-dir", str(tmp_path / "data")]
    done = subprocess.run([*command, *options(tmp_path)], capture_output=True, text=True, timeout=END_S, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "data").exists()
