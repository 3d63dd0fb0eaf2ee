"""Sources exactly once (KIP-618), with a real broker: what is committed in the topic is what the source had."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.connect.test_distributed import LIMIT_S, running, settings
from tests.connect.test_standalone import TEXT, file_source, until
from tests.support.broker_process import RunningBroker

import ottla
from ottla import connect
from ottla.connect.config_def import ConfigDef
from ottla.connect.distributed.fencing import Question, Questions
from ottla.connect.runtime.exactly_once import ExactlyOnce, ExactlyOnceRunner, Step
from ottla.connect.runtime.herder import HerderError
from ottla.connect.runtime.offsets import is_of
from ottla.connect.runtime.runs import Wanted
from ottla.connect.runtime.validation import validate
from ottla.connect.settings import SOURCE
from ottla.errors import KafkaError, ProducerFencedError

PLUGINS = """
from ottla import connect

class Halves(connect.SourceConnector):
    '''The first task has the numbers of a file, others have nothing.'''
    def task_configs(self, tasks_max):
        return [self.config | {"number": str(number)} for number in range(tasks_max)]

    class Task(connect.SourceTask):
        def start(self):
            self.next = (self.context.offset({"part": 1}) or {"at": 0})["at"]
        def poll(self):
            if self.config["number"] != "0" or self.next >= 10:
                self.context.wait(0.1)
                return None
            self.next += 1
            return [connect.SourceRecord(topic=self.config["topic"], value=str(self.next),
                                         source_partition={"part": 1}, source_offset={"at": self.next})]
"""


def committed(broker: RunningBroker, topic: str) -> list[str]:
    """Return what readers of committed records see."""
    config = {"isolation.level": "read_committed"}
    with ottla.Consumer(broker.address, topics=[topic], auto_offset_reset="earliest", config=config) as consumer:
        return [(record.value or b"").decode() for record in consumer.records(until="end")]


def check(broker: RunningBroker, topic: str, wanted: list[str]) -> None:
    """Check what readers of committed records see; a commit that was answered is on its way to the topic."""
    until(lambda: len(committed(broker, topic)) >= len(wanted), "the committed records")
    assert committed(broker, topic) == wanted


def offsets(broker: RunningBroker, connector: str) -> dict[bytes, bytes | None]:
    """Return the offsets of a connector that are committed."""
    config = {"isolation.level": "read_committed"}
    with ottla.Consumer(broker.address, topics=["offsets"], auto_offset_reset="earliest", config=config) as consumer:
        return {
            record.key: record.value
            for record in consumer.records(until="end")
            if record.key is not None and is_of(record.key, connector)
        }


class Numbers(connect.SourceTask):
    """Numbers in batches of three; `gate` opens for each batch."""

    def __init__(self, last: int, topic: str) -> None:
        super().__init__({}, {})
        self.last, self.topic = last, topic
        self.done = threading.Event()
        self.told: list[str] = []

    def start(self) -> None:
        self.next = (self.context.offset({"numbers": 1}) or {"at": 0})["at"]

    def record(self, number: int) -> connect.SourceRecord:
        return connect.SourceRecord(
            topic=self.topic, value=str(number), source_partition={"numbers": 1}, source_offset={"at": number}
        )

    def poll(self) -> list[connect.SourceRecord] | None:
        if self.next >= self.last:
            self.done.set()
            self.context.wait(60)
            return None
        found = [self.record(number) for number in range(self.next + 1, min(self.last, self.next + 3) + 1)]
        self.next += len(found)
        return found

    def commit_record(self, record: connect.SourceRecord) -> None:
        self.told.append(f"record {record.value}")

    def commit(self, offsets: Any) -> None:
        self.told.append(f"offset {offsets[0][1]['at']}")


class Run:
    """A run of a task, whose worker is the test: `may` says whether it may take a step."""

    def __init__(
        self,
        broker: RunningBroker,
        name: str,
        task: connect.SourceTask,
        may: Callable[[Step], bool] = lambda step: True,
        **config: str,
    ) -> None:
        self.error: BaseException | None = None
        self.may_fail = False
        self.begun = threading.Event()
        self.asked: list[str] = []

        def ask(step: Step) -> None:
            self.asked.append(step)
            if may(step):
                self.runner.allow(step, offsets(broker, name) if step == "go" else {})

        texts = {key.replace("_", "."): text for key, text in config.items()}
        values = {"errors.tolerance": "none", "errors.log.enable": False, "errors.log.include.messages": False}
        values |= {"errors.retry.timeout": 0, "errors.retry.delay.max.ms": 1} | ConfigDef(*SOURCE).parse(texts)
        worker = {"bootstrap.servers": broker.address, "key.converter": TEXT, "value.converter": TEXT}
        self.runner = ExactlyOnceRunner(
            name, 0, task, worker, {"name": name} | texts, values, lambda topic: None,
            ExactlyOnce(group="runs", topic="offsets"), ask=ask, begun=self.begun.set, fail=self.fail,
        )  # fmt: skip
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def fail(self, error: BaseException) -> None:
        self.error = self.error or error
        self.runner.stop()

    def _run(self) -> None:
        try:
            self.runner.run()
        except Exception as error:
            self.error = self.error or error

    def stop(self) -> None:
        self.runner.stop()
        self.thread.join(LIMIT_S)
        assert not self.thread.is_alive()
        if not self.may_fail:
            assert self.error is None, repr(self.error)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def test_each_batch_is_a_transaction_with_its_offsets(broker: RunningBroker) -> None:
    """1. Seven numbers, in batches of three.  2. Another run goes on where the first has ended: nothing comes twice."""
    first = Numbers(7, "polled")
    with Run(broker, "polled", first):
        assert first.done.wait(LIMIT_S)
        check(broker, "polled", [str(number) for number in range(1, 8)])
    assert first.told[:5] == ["offset 3", "record 1", "record 2", "record 3", "offset 6"]
    second = Numbers(9, "polled")
    with Run(broker, "polled", second):
        assert second.done.wait(LIMIT_S)
    check(broker, "polled", [str(number) for number in range(1, 10)])
    until(lambda: list(offsets(broker, "polled").values()) == [b'{"at":9}'], "the offset")


def test_generator_blocks_with_open_transaction(broker: RunningBroker) -> None:
    """What was polled is committed when its interval is over, although the task still waits for more."""
    task = Numbers(2, "waiting")
    with Run(broker, "waiting", task, transaction_boundary="interval", transaction_boundary_interval_ms="300") as run:
        until(lambda: committed(broker, "waiting") == ["1", "2"], "the transaction's end")
        assert run.error is None
        assert task.done.is_set()  # it waits in `poll`, for a minute


def test_an_open_interval_is_committed_at_the_end(broker: RunningBroker) -> None:
    task = Numbers(4, "ended")
    with Run(broker, "ended", task, transaction_boundary="INTERVAL", transaction_boundary_interval_ms="600000"):
        assert task.done.wait(LIMIT_S)
        assert committed(broker, "ended") == []
    check(broker, "ended", ["1", "2", "3", "4"])


def test_a_task_says_where_transactions_end(broker: RunningBroker) -> None:
    """Up to 2 is committed. 3 and 4 are dropped, and do not come again. 5 is neither, at the end: it comes again."""

    class Task(Numbers):
        def poll(self) -> list[connect.SourceRecord] | None:
            found = super().poll()
            transaction = self.context.transaction
            assert transaction is not None
            for record in found or ():
                if record.value == "2":
                    transaction.commit_transaction(record)
                elif record.value == "4":
                    transaction.abort_transaction(record)
            return found

    first = Task(5, "told-by-task")
    with Run(broker, "told-by-task", first, transaction_boundary="connector"):
        assert first.done.wait(LIMIT_S)
    check(broker, "told-by-task", ["1", "2"])
    until(lambda: list(offsets(broker, "told-by-task").values()) == [b'{"at":4}'], "the offset")
    second = Numbers(6, "told-by-task")
    with Run(broker, "told-by-task", second):
        assert second.done.wait(LIMIT_S)
    check(broker, "told-by-task", ["1", "2", "5", "6"])


def test_zombie_inits_after_fence(broker: RunningBroker) -> None:
    """1. A run may take its id, and its worker stands still.  2. The task is given to another worker; its run sends the first
    numbers.  3. The first run takes its id after all: its worker sees that the task is not its own. It sends nothing, and the
    second run is shut out.  4. The next run goes on: each number is there once."""
    thawed = threading.Event()

    def late(step: Step) -> bool:
        return thawed.wait(LIMIT_S) and step == "init"  # its worker knows better by "go"

    zombie, owner = Numbers(9, "zombie"), Numbers(9, "zombie")
    with Run(broker, "zombie", zombie, may=late) as late_run:
        owner.last = 4
        with Run(broker, "zombie", owner) as run:
            assert owner.done.wait(LIMIT_S)
            thawed.set()
            until(lambda: late_run.asked == ["init", "go"], "the zombie's question")
            assert not late_run.begun.is_set()
            run.may_fail = True
            with pytest.raises(KafkaError):
                run.runner._deliver([owner.record(5)])  # it was shut out
        with Run(broker, "zombie", Numbers(9, "zombie")):
            until(lambda: len(committed(broker, "zombie")) == 9, "the rest")
    assert committed(broker, "zombie") == [str(number) for number in range(1, 10)]


def test_a_killed_run_leaves_nothing_that_counts(broker: RunningBroker) -> None:
    """A transaction that nobody ends is ended by the next run, at once, before it looks where to go on."""
    with ottla.Producer(broker.address, config={"transactional.id": "runs-killed-run-0"}) as producer:
        producer.init_transactions()
        producer.begin_transaction()
        producer.send("killed-run", b"0").result(LIMIT_S)
        task = Numbers(3, "killed-run")
        with Run(broker, "killed-run", task):
            assert task.done.wait(LIMIT_S)
            check(broker, "killed-run", ["1", "2", "3"])
        with pytest.raises(ProducerFencedError):
            producer.commit_transaction()


def test_task_count_shrinks_with_open_transaction(
    broker: RunningBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. A connector has two tasks.  2. The second one's id has an open transaction when the connector gets one task: it is
    shut out before that begins.  3. The first task goes on where it was."""
    (tmp_path / "halves_plugin.py").write_text(PLUGINS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    config = settings(broker, "shrinks", exactly_once_source_support="enabled", plugin_modules="halves_plugin")
    connector = {"name": "halves", "connector.class": "halves_plugin:Halves", "topic": "halves", "tasks.max": "2"}
    with running(config) as (worker,):
        worker.ask("POST", "/connectors", {"name": "halves", "config": connector})
        until(lambda: len(committed(broker, "halves")) == 10, "the numbers")
        reader = worker.served.worker._reader  # type: ignore[attr-defined]
        assert reader.fenced == {"halves": 2}
        zombie: ottla.Producer[Any, Any] = ottla.Producer(
            broker.address, config={"transactional.id": "shrinks-halves-1"}
        )
        with zombie:
            zombie.begin_transaction()
            zombie.send("halves", b"of a zombie").result(LIMIT_S)
            worker.ask("PUT", "/connectors/halves/config", connector | {"tasks.max": "1"})
            until(lambda: reader.fenced == {"halves": 1}, "the count")
            with pytest.raises(ProducerFencedError):
                zombie.commit_transaction()
        until(lambda: [state for state, _ in worker.states("halves")] == ["RUNNING"], "the task")
    assert committed(broker, "halves") == [str(number) for number in range(1, 11)]


def test_leader_killed_between_fence_and_count(broker: RunningBroker, tmp_path: Path) -> None:
    """1. The leader shuts producers out, and ends before it writes how many there are. No task has begun.  2. The next leader
    does both; tasks run, and each line is there once."""
    (tmp_path / "in.txt").write_text("one\ntwo\n")
    config = settings(broker, "between", exactly_once_source_support="enabled")
    connector = file_source(tmp_path / "in.txt", "between") | {"exactly.once.support": "required"}
    tried = threading.Event()
    with running(config) as (first,):
        configs = first.served.worker._configs  # type: ignore[attr-defined]
        write = configs.write

        def write_no_count(rows: list[Any]) -> None:
            if rows[0][0].startswith("tasks-fencing-"):
                tried.set()
                raise HerderError(500, "it has ended")
            write(rows)

        configs.write = write_no_count
        first.ask("POST", "/connectors", {"name": connector["name"], "config": connector})
        assert tried.wait(LIMIT_S)
        assert first.states(connector["name"])[0][0] != "RUNNING"
    assert committed(broker, "between") == []
    with running(config) as (second,):
        until(lambda: committed(broker, "between") == ["one", "two"], "the lines")
        # A connector of the same configuration keeps its tasks: their producers are not shut out.
        second.ask("PUT", f"/connectors/{connector['name']}/config", connector)
        second.ask("POST", f"/connectors/{connector['name']}/restart")
        with (tmp_path / "in.txt").open("a") as file:
            file.write("three\n")
        until(lambda: committed(broker, "between") == ["one", "two", "three"], "the third line")
        assert second.states(connector["name"])[0][0] == "RUNNING"
        second.ask("PUT", f"/connectors/{connector['name']}/stop")
        (row,) = second.ask("GET", f"/connectors/{connector['name']}/offsets")["offsets"]
        assert row["offset"]["position"] == len("one\ntwo\nthree\n")
        second.ask("DELETE", f"/connectors/{connector['name']}/offsets")
        second.ask("PUT", f"/connectors/{connector['name']}/resume")
        until(lambda: Counter(committed(broker, "between")) == {"one": 2, "two": 2, "three": 2}, "all again")


def test_a_step_is_for_the_run_that_is_wanted_and_fenced() -> None:
    """Questions of older runs, of other workers' tasks and of connectors whose tasks before may write are not granted."""
    asked = Questions()
    for number, (connector, run) in enumerate([("a", 1), ("a", 2), ("b", 3), ("c", 4)]):
        asked.ask((number, 0), Question(connector, run, "init"))
    wanted: Mapping[tuple[str, int], Wanted] = {
        (name, 0): Wanted(run=run, is_paused=False, config={}) for name, run in (("a", 2), ("b", 3))
    }
    assert list(asked.granted({0, 1, 2, 3}, wanted, {"b"})) == [(1, 0)]
    asked.answered((1, 0))
    assert list(asked.granted({0, 1, 2}, wanted, set())) == [(2, 0)]
    assert asked.granted(set(), wanted, set()) == {}


def test_what_cannot_be_exactly_once_is_refused() -> None:
    """As Java: required, but the workers or the class do not give it; boundaries of a class that has none."""

    class Silent(connect.SourceConnector):
        pass

    class Never(Silent):
        def exactly_once_support(self) -> bool:
            return False

    class Able(Silent):
        def exactly_once_support(self) -> bool:
            return True

        def can_define_transaction_boundaries(self) -> bool:
            return True

    def errors(kind: type[connect.SourceConnector], support: str, **props: str) -> dict[str, str]:
        worker = {"config.storage.topic": "c", "offset.storage.topic": "o", "exactly.once.source.support": support}
        given = {"name": "x", "connector.class": "x"} | {name.replace("_", "."): text for name, text in props.items()}
        rows = validate(kind, given, worker)["configs"]
        return {row["value"]["name"]: row["value"]["errors"][0] for row in rows if row["value"]["errors"]}

    required = {"exactly_once_support": "required"}
    assert "does not have exactly-once source support enabled" in json.dumps(errors(Able, "preparing", **required))
    assert "does not implement the API" in errors(Silent, "enabled", **required)["exactly.once.support"]
    assert "does not support exactly-once semantics" in errors(Never, "enabled", **required)["exactly.once.support"]
    assert errors(Able, "ENABLED", **required, transaction_boundary="connector") == {}
    assert (
        "does not support connector-defined"
        in errors(Silent, "enabled", transaction_boundary="connector")["transaction.boundary"]
    )
    assert list(errors(Able, "enabled", offsets_storage_topic="mine")) == ["offsets.storage.topic"]
