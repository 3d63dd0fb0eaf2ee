"""Workers that share connectors, with a real broker."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.connect.parity.rest_cases import Case
from tests.connect.parity.rest_parity import ask
from tests.connect.test_standalone import TEXT, file_source, lines, read, sink, until
from tests.support.broker_process import RunningBroker
from tests.support.ports import free_port

import ottla
from ottla.connect.config_def import ConfigError
from ottla.connect.distributed.config_records import Reader
from ottla.connect.distributed.membership import Membership, grace_s
from ottla.connect.distributed.offset_topic import OffsetTopic
from ottla.connect.distributed.sharing import Assignment
from ottla.connect.distributed.topics import prepare
from ottla.connect.distributed.worker import distributed_settings
from ottla.connect.errors import ConnectError
from ottla.connect.runtime.changes import Told
from ottla.connect.runtime.herder import Herder, Standing
from ottla.connect.runtime.serving import ServedGroupWorker

LIMIT_S = 90.0
PLUGINS = '''
import os, time
from pathlib import Path
from types import SimpleNamespace
from ottla.connect import SourceConnector, SourceTask

def parent(process):
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])

class Ticker(SourceConnector):
    """Notes when it runs, and of which worker."""
    class Task(SourceTask):
        def poll(self):
            with (Path(self.config["folder"]) / "ticks").open("a") as file:
                file.write(f"{parent(os.getppid())} {time.monotonic()}\\\\n")
            self.context.wait(0.05)
'''.replace("\\\\n", "\\n")


def settings(broker: RunningBroker, group: str, **more: str) -> dict[str, str]:
    topics = {f"{part}.storage.topic": f"{group}-{part}" for part in ("config", "offset", "status")}
    factors = {f"{part}.storage.replication.factor": "1" for part in ("config", "offset", "status")}
    return (
        {
            "bootstrap.servers": broker.address,
            "group.id": group,
            "listeners": "http://127.0.0.1:0",
            "key.converter": TEXT,
            "value.converter": TEXT,
            "offset.storage.partitions": "3",
            "offset.flush.interval.ms": "200",
            "session.timeout.ms": "45000",
            "heartbeat.interval.ms": "500",
            "scheduled.rebalance.max.delay.ms": "0",
        }
        | topics
        | factors
        | {name.replace("_", "."): value for name, value in more.items()}
    )


def request(url: str, method: str, path: str, body: Any = None) -> Any:
    """Return what a worker answers."""
    data = None if body is None else json.dumps(body).encode()
    headers = {} if body is None else {"Content-Type": "application/json"}
    asked = urllib.request.Request(url + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=LIMIT_S) as answer:
            found = answer.read()
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{method} {path}: {error.code} {error.read().decode()}") from error
    return json.loads(found) if found else None


class Running:
    """A worker in a thread of the test."""

    def __init__(self, config: dict[str, str]) -> None:
        self.error: BaseException | None = None
        self.served = ServedGroupWorker(
            config, tls=ssl.SSLContext, users=lambda path: {}, client_tls=ssl.create_default_context
        )
        self.url = self.served.urls[0]
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.served.run()
        except ConnectError as error:
            self.error = error

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        return request(self.url, method, path, body)

    def states(self, name: str) -> list[tuple[str, str]]:
        return [(task["state"], task["worker_id"]) for task in self.ask("GET", f"/connectors/{name}/status")["tasks"]]


@contextmanager
def running(*configs: dict[str, str]) -> Iterator[list[Running]]:
    """Run workers of a group, all of them members."""
    workers: list[Running] = []
    try:
        for config in configs:
            workers += [Running(config)]
        for worker in workers:
            until(worker.served.worker.is_ready, "a worker in its group")
        yield workers
    finally:
        for worker in workers:
            worker.served.stop()
        for worker in workers:
            worker.thread.join(LIMIT_S)
            assert not worker.thread.is_alive()


def write(broker: RunningBroker, topic: str, *rows: tuple[str, Any]) -> None:
    with ottla.Producer(broker.address) as producer:
        for key, value in rows:
            producer.send(topic, None if value is None else json.dumps(value).encode(), key=key.encode(), partition=0)


def records(broker: RunningBroker, topic: str) -> dict[str, Any]:
    return {row.key.decode(): row.value and json.loads(row.value) for row in read(broker, topic)}


def test_two_workers_share_tasks_and_the_one_that_is_left_goes_on(broker: RunningBroker, tmp_path: Path) -> None:
    """1. Both are asked, either is the leader.  2. Tasks are shared out evenly.  3. One ends: the other has them all, and
    goes on from the offsets.  4. A new worker finds everything in the topics, Java's keys among them."""
    given, taken = tmp_path / "in.txt", tmp_path / "out.txt"
    given.write_text("one\ntwo\n")
    config = settings(broker, "shared")
    with running(config, config) as (first, second):
        for worker, connector in (
            (first, file_source(given, "shared")),
            (second, sink("FileStreamSink", "shared", file=str(taken), **{"tasks.max": "3"})),
        ):
            worker.ask("POST", "/connectors", {"name": connector["name"], "config": connector})
        until(lambda: lines(taken) == ["one", "two"], "two lines")
        names = ("source-shared", "FileStreamSink-shared")
        until(lambda: len({at for name in names for _, at in first.states(name)}) == 2, "tasks on both workers")
        until(lambda: second.states(names[1]) == first.states(names[1]), "one view")
        places = Counter(at for name in names for _, at in first.states(name))
        assert sorted(places.values()) == [2, 2]
        second.served.stop()
        second.thread.join(LIMIT_S)
        until(lambda: all(state == "RUNNING" and at in first.url for state, at in first.states(names[1])), "all on one")
        with given.open("a") as file:
            file.write("three\n")
        until(lambda: lines(taken) == ["one", "two", "three"], "a third line")
    assert records(broker, "shared-config")["commit-source-shared"] == {"tasks": 1}
    assert records(broker, "shared-status")["status-task-source-shared-0"]["state"] == "UNASSIGNED"
    with running(config) as (third,):
        with given.open("a") as file:
            file.write("four\n")
        until(lambda: lines(taken)[3:] == ["four"], "a fourth line")
        assert third.ask("GET", "/connectors/source-shared/topics") == {"source-shared": {"topics": ["shared"]}}
        third.ask("PUT", "/connectors/source-shared/stop")
        until(lambda: third.states("source-shared") == [], "no task")
        third.ask("DELETE", "/connectors/source-shared/offsets")
        assert third.ask("GET", "/connectors/source-shared/offsets") == {"offsets": []}
        third.ask("DELETE", "/connectors/source-shared")
        assert third.ask("GET", "/connectors") == ["FileStreamSink-shared"]


def test_local_file_task_moves(broker: RunningBroker, tmp_path: Path) -> None:
    """A file is on one machine: its task runs on the worker there, and moves only when it is told to.

    1. A connector names one of two workers, and reads there.  2. That worker ends: the task starts nowhere.  3. The worker
    comes back to its address, and reads on: each line is there once.  4. The connector names the other one: the task moves.
    """
    given = tmp_path / "in.txt"
    given.write_text("one\n")
    address = f"127.0.0.1:{free_port()}"
    here = settings(broker, "local", listeners=f"http://{address}")
    with running(settings(broker, "local")) as (other,):
        elsewhere = other.url.removeprefix("http://")
        connector = file_source(given, "local-lines") | {"name": "local", "worker": address}
        with running(here):
            other.ask("PUT", "/connectors/local/config", connector)
            until(lambda: other.states("local") == [("RUNNING", address)], "the task on its worker")
            until(lambda: len(read(broker, "local-lines")) == 1, "the first line")
            session = other.served.worker._session  # type: ignore[attr-defined]
            before = session.generation
        until(lambda: session.generation > before and session.leader_url is not None, "the rebalance")
        with given.open("a") as file:
            file.write("two\n")
        until(lambda: other.states("local") == [("UNASSIGNED", address)], "the end of the task")
        assert not session.assigned
        with running(here):
            until(lambda: other.states("local") == [("RUNNING", address)], "the task on its worker again")
            until(lambda: len(read(broker, "local-lines")) == 2, "the second line")
            other.ask("PUT", "/connectors/local/config", connector | {"worker": elsewhere})
            until(lambda: other.states("local") == [("RUNNING", elsewhere)], "the task on the other worker")
            with given.open("a") as file:
                file.write("three\n")
            until(lambda: len(read(broker, "local-lines")) == 3, "the third line")
        assert [record.value for record in read(broker, "local-lines")] == [b"one", b"two", b"three"]


def test_worker_frozen_tasks_stop_before_reassignment(broker: RunningBroker, tmp_path: Path) -> None:
    """1. The worker with the task is stopped by a signal.  2. The task's process ends by itself; only then does it run
    elsewhere."""
    (tmp_path / "ticking.py").write_text(PLUGINS)
    processes = []
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    try:
        for number in range(2):
            config = settings(broker, "frozen", session_timeout_ms="6000") | {
                "listeners": f"http://127.0.0.1:{free_port()}",
                "plugin.modules": "ticking",
            }
            path = tmp_path / f"worker-{number}.properties"
            path.write_text("".join(f"{name}={value}\n" for name, value in config.items()))
            command = [sys.executable, "-m", "ottla", "connect", "worker", str(path)]
            processes.append(subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment))
        url = config["listeners"]

        def is_ready() -> bool:
            try:
                return ask(url, tmp_path, Case("GET", "/health")).status == 200
            except OSError:
                return False

        until(is_ready, "a worker")
        connector = {"name": "tick", "connector.class": "ticking:Ticker", "folder": str(tmp_path)}
        body = json.dumps({"name": "tick", "config": connector})
        until(lambda: ask(url, tmp_path, Case("POST", "/connectors", body)).status in (201, 409), "the connector")
        ticks = tmp_path / "ticks"
        until(lambda: bool(lines(ticks)), "a tick")
        first = int(lines(ticks)[0].split()[0])
        os.kill(first, signal.SIGSTOP)
        frozen_s = time.monotonic()
        until(lambda: any(line.split()[0] != str(first) for line in lines(ticks)), "ticks of the other worker")
        mine = [float(line.split()[1]) for line in lines(ticks) if line.split()[0] == str(first)]
        others = [float(line.split()[1]) for line in lines(ticks) if line.split()[0] != str(first)]
        assert max(mine) < min(others)
        assert max(mine) < frozen_s + 6.5
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()


def test_partitioned_worker_stops_first() -> None:
    """No answer of the coordinator comes any more: tasks end before the session can have ended that
    began with the last one."""
    member = Membership("http://a:1", 10.0)
    member.on_joined(1, True, Assignment(leader_url="http://a:1", tasks=frozenset({("a", 0)})))
    confirmed_s = 100.0
    assert member.allowed(107.9, confirmed_s) == {("a", 0)}
    assert member.allowed(108.1, confirmed_s) == frozenset()  # they are told to end
    assert member.lease_s(confirmed_s) == 110.0  # and are ended
    member.on_rebalancing()
    assert member.lease_s(confirmed_s) == 110.0 + grace_s(10.0)  # leaders wait for so long


def test_config_topic_with_delete_policy(broker: RunningBroker) -> None:
    """A worker does not start, and says which topic and why."""
    with ottla.Admin(broker.address) as admin:
        admin.create_topic("deleting-config", partitions=1, configs={"cleanup.policy": "compact,delete"})
        admin.create_topic("wide-config", partitions=2, configs={"cleanup.policy": "compact"})
    for group, why in (("deleting", "cleanup.policy=compact,delete"), ("wide", "has 2 partitions")):
        config = settings(broker, group)
        with pytest.raises(ConfigError, match=f"{group}-config.*{why}"):
            prepare(config, distributed_settings(config))


def test_leader_killed_before_commit_record() -> None:
    """Tasks without their commit record do not run; the connector is asked again."""
    herder, reader = Herder("a:1", shares=True), Reader()
    herder.lead(True)

    def take(key: str, value: Any) -> None:
        for event in reader.read(key.encode(), None if value is None else json.dumps(value).encode()):
            if hasattr(event, "name"):
                herder.apply(event)  # type: ignore[arg-type]

    take("connector-c", {"properties": {"name": "c"}})
    take("task-c-0", {"properties": {"n": "0"}})
    take("task-c-1", {"properties": {"n": "1"}})
    assert herder.task_ids() == set()
    assert herder.unasked() == ["c"]
    take("commit-c", {"tasks": 3})  # compaction has left two of three
    assert herder.unasked() == ["c"]
    take("task-c-0", {"properties": {"n": "0"}})
    take("commit-c", {"tasks": 1})
    assert herder.task_ids() == {("c", 0)}
    assert herder.unasked() == []
    take("connector-c", {"properties": {"name": "c", "new": "1"}})
    assert herder.task_ids() == set()  # they are of an older configuration
    assert herder.unasked() == ["c"]
    take("connector-c", None)
    take("connector-c", {"properties": {"name": "c"}})
    assert herder.task_ids() == set()  # a connector that was made anew inherits nothing


def test_restart_record_replayed_at_start(broker: RunningBroker, tmp_path: Path) -> None:
    """1. The topic has a connector without tasks, and a restart, of another time.  2. The worker asks the connector, and its
    task runs once.  3. A restart that comes now is carried out."""
    (tmp_path / "in.txt").write_text("one\n")
    connector = file_source(tmp_path / "in.txt", "replayed")
    config = settings(broker, "replayed")
    prepare(config, distributed_settings(config))
    restart = ("restart-connector-source-replayed", {"only-failed": False, "include-tasks": True})
    write(
        broker,
        "replayed-config",
        ("target-state-source-replayed", {"state": "STARTED"}),
        ("connector-source-replayed", {"properties": connector}),
        ("task-source-replayed-0", {"properties": {"file": "/nowhere"}}),
        restart,
        ("nonsense", 7),
    )
    with running(config) as (worker,):
        until(lambda: len(read(broker, "replayed")) == 1, "the line")
        herder = worker.served.worker.herder
        run = worker.served.worker.ask(lambda herder: dict(herder.known("source-replayed").runs))
        assert herder.known("source-replayed").standings[0].state == "RUNNING"
        write(broker, "replayed-config", restart)
        until(lambda: herder.known("source-replayed").runs != run, "another run")


def test_two_workers_one_url(broker: RunningBroker) -> None:
    """The one that comes second does not start."""
    config = settings(broker, "addressed")
    with running(config) as (worker,):
        port = worker.url.rpartition(":")[2]
        second = Running(config | {"rest.advertised.host.name": "127.0.0.1", "rest.advertised.port": port})
        second.thread.join(LIMIT_S)
        assert "Another worker answers at" in str(second.error)


def test_two_clusters_one_config_topic(broker: RunningBroker) -> None:
    """The leader that was there first ends, and says what is wrong; the groups have names of their own."""
    with running(settings(broker, "one-config")) as (first,):
        other = settings(broker, "other-config") | {"config.storage.topic": "one-config-config"}
        with running(other):
            first.thread.join(LIMIT_S)
            assert "another group of workers has the same config.storage.topic" in str(first.error)


def test_a_status_of_an_older_owner_is_dropped() -> None:
    """What this worker runs it knows better; where it does not run it, the last word counts."""
    herder = Herder("a:1", shares=True)
    herder.put("c", {"name": "c"}, Told(kind="source"), None, may_replace=True)
    herder.set_tasks("c", [{}, {}])
    herder.assign({("c", 0)})
    herder.on_running("c", 0, herder.known("c").runs[0], is_paused=False)
    for number in (0, 1):
        herder.on_told("c", number, Standing("FAILED", "trace", "b:1"))
    told = {task["id"]: (task["state"], task["worker_id"]) for task in herder.status("c")["tasks"]}
    assert told == {0: ("RUNNING", "a:1"), 1: ("FAILED", "b:1")}
    herder.assign({("c", 1)})
    assert set(herder.wanted()) == {("c", 1)}  # it is started anew, although it had failed there


class _Outcomes:
    """Stands in for the producer: the n-th send fails with the n-th error, or gives a delivery with that outcome."""

    def __init__(self, *outcomes: Exception | tuple[Exception | None]) -> None:
        self.outcomes = list(outcomes)
        self.sent: list[tuple[bytes, bytes | None]] = []

    def send(self, _topic: str, value: bytes | None, *, key: bytes) -> Any:
        outcome = self.outcomes.pop(0) if self.outcomes else (None,)
        if isinstance(outcome, Exception):
            raise outcome
        self.sent.append((key, value))

        def result() -> None:
            if outcome[0] is not None:
                raise outcome[0]

        return SimpleNamespace(result=result)


def offset_topic(*outcomes: Exception | tuple[Exception | None]) -> tuple[OffsetTopic, _Outcomes]:
    topic = OffsetTopic("offsets", 1, {"bootstrap.servers": "localhost:1"})
    producer = _Outcomes(*outcomes)
    topic._producer = producer  # type: ignore[assignment]
    return topic, producer


@contextmanager
def writing(topic: OffsetTopic) -> Iterator[None]:
    """Offsets are written, in a thread of their own."""
    topic._thread.start()
    try:
        yield
    finally:
        with topic._changed:
            topic._is_stopping = True
            topic._changed.notify_all()
        topic._thread.join(LIMIT_S)


A, B, OTHER = b'["c",{"p":"a"}]', b'["c",{"p":"b"}]', b'["other",{"p":"a"}]'
NOT_NOW = ottla.errors.RequestTimedOutError("not now")
TOO_LARGE = ottla.RecordTooLargeError("too large")


@pytest.mark.parametrize("outcome", [NOT_NOW, (NOT_NOW,)], ids=["sent in vain", "not acknowledged"])
def test_offsets_that_cannot_be_written_now_are_written_later(outcome: Any) -> None:
    """A task hears that offsets are written when they are, and all before."""
    topic, producer = offset_topic(outcome)
    told: list[str] = []
    topic.update({A: b"1", B: b"1"}, lambda: told.append("first"))
    assert not topic._write()
    assert told == []
    topic.update({A: b"2"}, lambda: told.append("second"))
    assert topic._write()
    assert dict(producer.sent) == {A: b"2", B: b"1"}
    assert told == ["first", "second"]


def test_a_flush_waits_for_offsets_that_could_not_be_written_at_once() -> None:
    """It returned, and a task went to another worker, which began where the task before had been."""
    topic, producer = offset_topic(NOT_NOW, NOT_NOW)
    with writing(topic):
        topic.update({A: b"1"})
        topic.flush(LIMIT_S)
        assert producer.sent == [(A, b"1")]


@pytest.mark.parametrize("outcome", [TOO_LARGE, (TOO_LARGE,)], ids=["by the client", "by the broker"])
def test_a_refused_offset_keeps_nothing_from_other_connectors(outcome: Any) -> None:
    """1. An offset is refused.  2. Others hear that theirs are written.  3. Its connector does later."""
    topic, producer = offset_topic(outcome)
    told: list[str] = []
    with writing(topic):
        topic.update({A: b"far too large"}, lambda: told.append("refused"))
        topic.flush(LIMIT_S)
        topic.update({OTHER: b"1"}, lambda: told.append("other"))
        topic.update({B: b"1"}, lambda: told.append("its connector's next"))
        topic.flush(LIMIT_S)
        assert told == ["other"]
        topic.update({A: b"2"}, lambda: told.append("its next"))
        topic.flush(LIMIT_S, "c")
    assert told == ["other", "its next"]
    assert producer.sent[-3:] == [(OTHER, b"1"), (B, b"1"), (A, b"2")]


def test_who_asks_for_a_connector_hears_that_its_offset_was_refused() -> None:
    topic, _ = offset_topic((TOO_LARGE,))
    with writing(topic):
        topic.update({A: b"far too large"})
        with pytest.raises(ottla.KafkaError, match="too large"):
            topic.flush(LIMIT_S, "c")
        topic.flush(LIMIT_S, "other")


def test_neither_an_update_nor_a_flush_waits_for_a_cluster_that_hangs() -> None:
    """A worker would be dropped from its group while it waits. Sending hangs until the end of this test."""
    topic, producer = offset_topic()
    goes_on = threading.Event()
    hangs = threading.Event()

    def send(_topic: str, _value: bytes | None, *, key: bytes) -> Any:
        hangs.set()
        goes_on.wait(LIMIT_S)
        return SimpleNamespace(result=lambda: None)

    producer.send = send  # type: ignore[method-assign,assignment]
    with writing(topic):
        topic.update({A: b"1"})
        assert hangs.wait(LIMIT_S)
        topic.update({B: b"1"})
        with pytest.raises(TimeoutError, match="are not written after"):
            topic.flush(0.05)
        assert not goes_on.is_set()
        goes_on.set()
        topic.flush(LIMIT_S)


def test_a_task_that_cannot_be_told_keeps_nothing_from_the_others() -> None:
    topic, _ = offset_topic()
    told: list[str] = []

    def fail() -> None:
        raise BrokenPipeError("its process has ended")

    topic.update({A: b"1"}, fail)
    topic.update({B: b"1"}, lambda: told.append("second"))
    assert topic._write()
    assert told == ["second"]
