"""A standalone worker with a real broker: connectors in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.broker_process import RunningBroker

import ottla
from ottla.connect.config_def import ConfigError
from ottla.connect.runtime.host import encode_entry
from ottla.connect.runtime.runs import HostView
from ottla.connect.runtime.standalone import OffsetFile, StandaloneWorker

#: Seconds: far longer than anything takes.
LIMIT_S = 90.0
TEXT = "org.apache.kafka.connect.storage.StringConverter"
PLUGINS = '''
import os, time
from pathlib import Path
from ottla import connect

FOLDER = Path(os.environ["CONNECT_TEST_FOLDER"])

def note(name, text):
    with (FOLDER / name).open("a") as file:
        file.write(f"{text}\\n")

@connect.sink("slow")
def slow(batch):
    """The first call takes far longer than max.poll.interval.ms."""
    if not (FOLDER / "slow").exists():
        time.sleep(7)
    for record in batch.records:
        note("slow", record.value)

@connect.sink("picky")
def picky(batch):
    """Rejects what says bad; fails when it sees the end, after the rejects."""
    for index, record in enumerate(batch.records):
        if record.value == "bad":
            batch.reject(index, ValueError("it says so"))
        else:
            note("picky", record.value)

@connect.sink("shy")
def shy(batch):
    """Fails twice with an error that may be gone next time."""
    note("shy-calls", len(batch))
    if len((FOLDER / "shy-calls").read_text().splitlines()) < 3:
        raise connect.RetriableError("not yet")
    for record in batch.records:
        note("shy", record.value)

@connect.sink("weak")
def weak(batch):
    """Fails twice for good, each time in another process."""
    note("weak-processes", os.getpid())
    if len(set((FOLDER / "weak-processes").read_text().split())) < 3:
        raise RuntimeError("too weak")
    for record in batch.records:
        note("weak", record.value)

@connect.sink("never")
def never(batch):
    """Always asks for another attempt."""
    note("never", len(batch))
    raise connect.RetriableError("not yet")

@connect.sink("moody")
def moody(batch):
    """Rejects a record, then fails."""
    batch.reject(0, ValueError("it says so"))
    raise RuntimeError("no more")

class Careful(connect.SinkConnector):
    """Keeps what it was given up to the last even offset, and where it stands, in files of its own."""

    class Task(connect.SinkTask):
        def open(self, partitions):
            self.held = []
            for where in partitions:
                note("careful-ids", self.context.topic_id(where.topic))
                if (FOLDER / "careful").exists():
                    self.context.seek(where, len((FOLDER / "careful").read_text().splitlines()))

        def put(self, records):
            self.held += records

        def pre_commit(self, offsets):
            even, self.held = [r for r in self.held if r.offset < self.held[-1].offset // 2 * 2], self.held[-1:]
            for record in even:
                note("careful", f"{record.offset}={record.value}")
            return {where: end // 2 * 2 for where, end in offsets.items()}

@connect.sink("deaf")
def deaf(batch):
    """Does not return."""
    note("deaf", len(batch))
    while True:
        time.sleep(60)
'''


@pytest.fixture(autouse=True)
def _plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "connect_test_plugins.py").write_text(PLUGINS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("CONNECT_TEST_FOLDER", str(tmp_path))


def worker_config(broker: RunningBroker, folder: Path, **more: str) -> dict[str, str]:
    return {
        "bootstrap.servers": broker.address,
        "key.converter": TEXT,
        "value.converter": TEXT,
        "offset.storage.file.filename": str(folder / "connect.offsets"),
        "offset.flush.interval.ms": "200",
        "task.shutdown.graceful.timeout.ms": "60000",
        "plugin.modules": "connect_test_plugins",
        "listeners": "",
    } | {name.replace("_", "."): value for name, value in more.items()}


class Running:
    """A worker in a thread of the test."""

    def __init__(self, config: dict[str, str], *connectors: dict[str, str]) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.worker = StandaloneWorker(config, connectors, lambda name, event: self.events.append((name, event)))
        self.code: int | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self.code = self.worker.run()

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.worker.stop()
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [event for _, event in self.events if event["event"] == kind]


def until(condition: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> None:
    """Wait for a condition. The longer it takes to ask, the more seldom it is asked: what it asks needs the processor."""
    deadline = time.monotonic() + limit_s
    asked = time.monotonic()
    while not condition():
        now = time.monotonic()
        assert now < deadline, f"{what} did not happen within {limit_s:g} s"
        time.sleep(max(0.05, min(1.0, 5 * (now - asked))))
        asked = time.monotonic()


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def fill(broker: RunningBroker, topic: str, *values: str | None) -> None:
    with ottla.Producer(broker.address) as producer:
        for value in values:
            producer.send(topic, value)


def read(broker: RunningBroker, topic: str) -> list[Any]:
    with ottla.Consumer(broker.address, topics=[topic], auto_offset_reset="earliest") as consumer:
        return list(consumer.records(until="end"))


def file_source(path: Path, topic: str) -> dict[str, str]:
    return {"name": f"source-{topic}", "connector.class": "FileStreamSource", "file": str(path), "topic": topic}


def sink(name: str, topic: str, **more: str) -> dict[str, str]:
    return {"name": f"{name}-{topic}", "connector.class": name, "topics": topic} | more


def test_lines_go_through_a_topic_into_a_file(broker: RunningBroker, tmp_path: Path) -> None:
    """1. Source and sink run.  2. Both are stopped, and go on where they were: no line is lost, none comes twice."""
    given, taken = tmp_path / "in.txt", tmp_path / "out.txt"
    given.write_text("one\ntwo\n")
    connectors = (
        file_source(given, "through"),
        sink("org.apache.kafka.connect.file.FileStreamSinkConnector", "through", file=str(taken)) | {"name": "out"},
    )
    config = worker_config(broker, tmp_path)
    with Running(config, *connectors) as running:
        until(lambda: lines(taken) == ["one", "two"], "two lines in the file")
    assert running.code == 0
    with given.open("a") as file:
        file.write("three\n")
    with Running(config, *connectors):
        until(lambda: len(lines(taken)) >= 3, "a third line")
    assert lines(taken) == ["one", "two", "three"]


def test_worker_killed_leaves_no_task(broker: RunningBroker, tmp_path: Path) -> None:
    """1. A worker is killed with -9.  2. Its host ends.  3. A new worker goes on: every line is there at least once."""
    given = tmp_path / "in.txt"
    given.write_text("".join(f"{number}\n" for number in range(100)))
    config, source = tmp_path / "worker.properties", tmp_path / "source.properties"
    settings = worker_config(broker, tmp_path)
    config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    source.write_text("".join(f"{name}={value}\n" for name, value in file_source(given, "killed").items()))
    command = [sys.executable, "-m", "ottla", "connect", "run", str(config), str(source)]
    worker = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        until(lambda: (tmp_path / "connect.offsets").exists(), "offsets in the file")
        (nursery,) = children(worker.pid)
        hosts = children(nursery)
        assert len(hosts) == 2  # the connector's, and the one that knows plugins
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    until(lambda: not any(alive(host) for host in hosts), "the end of the host")
    with given.open("a") as file:
        file.write("last\n")
    with Running(settings, file_source(given, "killed")):
        until(lambda: "last" in {record.value.decode() for record in read(broker, "killed")}, "the last line")
    found = [record.value.decode() for record in read(broker, "killed")]
    assert set(found) == {*map(str, range(100)), "last"}


def children(pid: int) -> list[int]:
    done = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=True)
    return [int(line) for line in done.stdout.split()]


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_put_longer_than_poll_interval(broker: RunningBroker, tmp_path: Path) -> None:
    """The member stays in its group while `put` runs: the records come once."""
    fill(broker, "slow-topic", "a", "b")
    config = worker_config(broker, tmp_path, consumer_max_poll_interval_ms="3000")
    with Running(config, sink("slow", "slow-topic")) as running:
        until(lambda: bool(lines(tmp_path / "slow")), "the first put")
        fill(broker, "slow-topic", "c")
        until(lambda: "c" in lines(tmp_path / "slow"), "the second put")
        assert running.told("failed") == []
    assert lines(tmp_path / "slow") == ["a", "b", "c"]


def test_rejected_and_unreadable_records_are_dead_letters(broker: RunningBroker, tmp_path: Path) -> None:
    """What a sink rejects, and what does not convert, goes to the topic of dead letters with headers that say why."""
    fill(broker, "mixed", '"good"', '"bad"', "no json", '"fine"')
    connector = sink("picky", "mixed") | {
        "value.converter": "JsonConverter",
        "value.converter.schemas.enable": "false",
        "errors.tolerance": "all",
        "errors.deadletterqueue.topic.name": "mixed-dead",
        "errors.deadletterqueue.topic.replication.factor": "1",
        "errors.deadletterqueue.context.headers.enable": "true",
    }
    with Running(worker_config(broker, tmp_path), connector):
        until(lambda: lines(tmp_path / "picky") == ["good", "fine"], "the good records")
        until(lambda: len(read(broker, "mixed-dead")) == 2, "two dead letters")
    told = {record.value: dict(record.headers) for record in read(broker, "mixed-dead")}
    assert told[b"no json"]["__connect.errors.stage"] == b"VALUE_CONVERTER"
    assert told[b'"bad"']["__connect.errors.stage"] == b"TASK_PUT"
    assert told[b'"bad"']["__connect.errors.exception.message"] == b"it says so"
    assert told[b'"bad"']["__connect.errors.offset"] == b"1"


def test_a_record_that_does_not_convert_fails_the_task(broker: RunningBroker, tmp_path: Path) -> None:
    """Nothing after it is put, its offset is not committed, and the worker ends because nothing runs any more."""
    fill(broker, "strict", '"good"', "no json")
    connector = sink("picky", "strict") | {
        "value.converter": "JsonConverter",
        "value.converter.schemas.enable": "false",
    }
    with Running(worker_config(broker, tmp_path), connector) as running:
        until(lambda: running.code is not None, "the end of the worker")
    assert running.code == 1
    assert "Tolerance exceeded in error handler: VALUE_CONVERTER" in running.told("failed")[0]["message"]
    with ottla.Admin(broker.address) as admin:
        offsets = admin.list_group_offsets("connect-picky-strict")
    assert all(found.offset < 2 for found in offsets.values())


def test_a_retriable_error_has_the_same_records_come_again(broker: RunningBroker, tmp_path: Path) -> None:
    fill(broker, "shy-topic", "a", "b")
    with Running(worker_config(broker, tmp_path), sink("shy", "shy-topic")):
        until(lambda: bool(lines(tmp_path / "shy")), "a put that works")
    assert sorted(lines(tmp_path / "shy")) == ["a", "b"]


def test_stop_during_retry(broker: RunningBroker, tmp_path: Path) -> None:
    """Stopping never skips: what was not put is not committed."""
    fill(broker, "never-topic", "a")
    with Running(worker_config(broker, tmp_path), sink("never", "never-topic")):
        until(lambda: bool(lines(tmp_path / "never")), "an attempt")
    with ottla.Admin(broker.address) as admin:
        assert admin.list_group_offsets("connect-never-never-topic") == {}


def test_reject_then_raise(broker: RunningBroker, tmp_path: Path) -> None:
    """A record that was rejected by a call that failed is no dead letter: it comes again."""
    fill(broker, "moods", "a")
    letters = {
        "errors.deadletterqueue.topic.name": "moods-dead",
        "errors.deadletterqueue.topic.replication.factor": "1",
    }
    connector = sink("moody", "moods") | letters | {"errors.tolerance": "all"}
    with Running(worker_config(broker, tmp_path), connector) as running:
        until(lambda: running.code is not None, "the end of the worker")
    assert running.told("failed")[0]["message"] == "no more"
    assert read(broker, "moods-dead") == []


def test_a_task_that_holds_records_back_says_where_it_goes_on(broker: RunningBroker, tmp_path: Path) -> None:
    """1. A task keeps two of three records: the offset 2 is committed.  2. The group is set back to 0.
    3. The task seeks to 2 nonetheless: the third comes, the others do not come again."""
    fill(broker, "held", "a", "b", "c")
    connector = sink("connect_test_plugins:Careful", "held") | {"name": "careful"}
    with Running(worker_config(broker, tmp_path), connector):
        until(lambda: lines(tmp_path / "careful") == ["0=a", "1=b"], "two records that are kept")
    with ottla.Admin(broker.address) as admin:
        ((where, found),) = admin.list_group_offsets("connect-careful").items()
        assert found.offset == 2
        admin.alter_group_offsets("connect-careful", {where: 0})
        assert lines(tmp_path / "careful-ids")[0] == admin.describe_topics(["held"])["held"].topic_id
    fill(broker, "held", "d", "e")
    with Running(worker_config(broker, tmp_path), connector):
        until(lambda: len(lines(tmp_path / "careful")) >= 4, "two more")
    assert lines(tmp_path / "careful") == ["0=a", "1=b", "2=c", "3=d"]


def test_task_that_ignores_stop(broker: RunningBroker, tmp_path: Path) -> None:
    """Its process is killed when task.shutdown.graceful.timeout.ms is over."""
    fill(broker, "deaf-topic", "a")
    config = worker_config(broker, tmp_path) | {"task.shutdown.graceful.timeout.ms": "500"}
    with Running(config, sink("deaf", "deaf-topic")) as running:
        until(lambda: bool(lines(tmp_path / "deaf")), "the call that does not return")
    assert running.code == 0
    assert running.told("killed")[0]["code"] == -signal.SIGKILL


def test_what_is_wrong_with_a_connector_is_said_at_once(broker: RunningBroker, tmp_path: Path) -> None:
    wrong = sink("picky", "t") | {"tasks.max": "0", "errors.tolerance": "some"}
    with Running(worker_config(broker, tmp_path), wrong) as running:
        until(lambda: running.code is not None, "the end of the worker")
    message = running.told("refused")[0]["message"]
    assert "Invalid value 0 for configuration tasks.max: Value must be at least 1" in message
    assert "Invalid value some for configuration errors.tolerance: String must be one of: none, all" in message


def test_dead_letters_that_need_more_brokers_name_their_key(broker: RunningBroker, tmp_path: Path) -> None:
    """The default is 3 replicas, as in Java."""
    letters = {"errors.deadletterqueue.topic.name": "lonely-dead", "errors.tolerance": "all"}
    with Running(worker_config(broker, tmp_path), sink("picky", "lonely") | letters) as running:
        until(lambda: running.code is not None, "the end of the worker")
    message = running.told("failed")[0]["message"]
    assert "lonely-dead" in message
    assert "errors.deadletterqueue.topic.replication.factor" in message


def test_a_failed_task_is_started_again_if_asked(broker: RunningBroker, tmp_path: Path) -> None:
    """1. A sink fails twice.  2. Its third run, in a process of its own, takes the record."""
    fill(broker, "again", "a")
    with Running(worker_config(broker, tmp_path), sink("weak", "again") | {"errors.restart.enable": "true"}) as running:
        until(lambda: lines(tmp_path / "weak") == ["a"], "the record")
    assert [event["again_s"] for event in running.told("failed")] == [1, 2]
    assert running.code == 0


def test_two_connectors_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Connector a already exists"):
        StandaloneWorker({"offset.storage.file.filename": str(tmp_path / "o")}, [{"name": "a"}, {"name": "a"}])


def test_a_misspelled_key_of_the_worker_is_refused(tmp_path: Path) -> None:
    """Left out, it would have the worker go to the default cluster."""
    worker = {"offset.storage.file.filename": str(tmp_path / "offsets"), "bootstrap.serverz": "localhost:1"}
    with pytest.raises(ConfigError, match=r"Did you mean 'bootstrap\.servers'"):
        StandaloneWorker(worker, [sink("picky", "t")])
    of_java = {"offset.flush.timeout.ms": "5000", "plugin.path": "x", "rest.port": "1", "listeners": "http://:1"}
    StandaloneWorker({"offset.storage.file.filename": str(tmp_path / "offsets")} | of_java, [sink("picky", "t")])


def test_a_strange_file_of_offsets_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "o"
    path.write_text("something else")
    with pytest.raises(Exception, match="is not Java's map of bytes"):
        StandaloneWorker({"offset.storage.file.filename": str(path)}, [{"name": "a"}])
    assert path.read_text() == "something else"


def test_a_signal_to_the_whole_process_group_ends_connectors_in_order(broker: RunningBroker, tmp_path: Path) -> None:
    """systemd and terminals send SIGTERM and Ctrl-C to hosts, too: the worker stops them, and offsets are written down."""
    given = tmp_path / "in.txt"
    given.write_text("one\n")
    settings = worker_config(broker, tmp_path) | {"offset.flush.interval.ms": "600000"}
    config, source = tmp_path / "worker.properties", tmp_path / "source.properties"
    config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    source.write_text("".join(f"{name}={value}\n" for name, value in file_source(given, "grouped").items()))
    command = [sys.executable, "-m", "ottla", "connect", "run", str(config), str(source)]
    worker = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        until(lambda: len(read(broker, "grouped")) == 1, "the line in the topic")
        os.killpg(worker.pid, signal.SIGTERM)
        assert worker.wait(LIMIT_S) == 0
    finally:
        worker.kill()
        worker.wait()
    assert (tmp_path / "connect.offsets").exists()


def test_offsets_that_cannot_be_written_are_written_next_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The disk fails once: the log says so, and the next offsets bring the first ones with them."""
    folder = tmp_path / "state"
    worker = StandaloneWorker({"offset.storage.file.filename": str(folder / "offsets"), "listeners": ""})
    view = HostView(connector="a", runs={})

    def take(key: bytes) -> None:
        worker._take(1, view, {"event": "offsets", "entries": [encode_entry(key, b"1")], "id": 1})

    try:
        take(b"first")
        assert "offsets" in caplog.text
        folder.mkdir()
        take(b"second")
        assert OffsetFile(folder / "offsets").entries == {b"first": b"1", b"second": b"1"}
    finally:
        worker._nursery.close()


def test_offsets_may_be_read_while_others_are_written(tmp_path: Path) -> None:
    file = OffsetFile(tmp_path / "offsets")
    file.update({b"a": b"1", b"b": b"1"})
    reading = iter(file.entries.items())
    next(reading)
    file.update({b"c": b"1"})
    assert len(list(reading)) == 1
    assert file.entries.keys() == {b"a", b"b", b"c"}
