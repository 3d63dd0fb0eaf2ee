"""Instances of an application on a broker: results, handing over, restoring, what stops them."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.streams.runtime.conftest import Application, Instance, Start, read_committed, wait_for
from tests.streams.runtime.topologies import CHANGELOG, WORDS, expected, looking_up, word_count

import ottla
from ottla.clock import SystemClock
from ottla.errors import ErrorCode
from ottla.streams import App
from ottla.streams.errors import RecordError, StoreMovingError, StreamsError, TopologyError
from ottla.streams.queries.store import StoreView
from ottla.streams.runtime.reset import reset
from ottla.streams.runtime.run import settings_of
from ottla.streams.runtime.settings import read_settings
from ottla.streams.runtime.tasks import Phase
from ottla.streams.runtime.worker import Worker
from ottla.streams.topology import TaskId
from ottla.testing import Broker
from ottla.types import TopicPartition

LINES = ["the quick fox", "the lazy dog", "the end", "a fox a dog", "quick quick end", "dog"]


def produce(broker: Broker, lines: list[str]) -> None:
    with ottla.Producer(broker.bootstrap_servers) as producer:
        for number, line in enumerate(lines):
            producer.send("lines", line.encode(), partition=number % 2)


def make_topics(broker: Broker) -> None:
    with ottla.Admin(broker.bootstrap_servers) as admin:
        admin.create_topic("lines", partitions=2)
        admin.create_topic("counts", partitions=1)


@pytest.mark.parametrize("guarantee", ["exactly_once_v2", "at_least_once"])
def test_word_count(kafka_broker: Broker, start: Start, guarantee: str) -> None:
    make_topics(kafka_broker)
    produce(kafka_broker, LINES)
    instance = start(word_count(), guarantee=guarantee, commit_interval_ms=100)
    wanted = expected(" ".join(LINES).split())
    wait_for(lambda: read_committed(kafka_broker.bootstrap_servers, "counts") == wanted, "the counts")
    instance.stop()
    with ottla.Admin(kafka_broker.bootstrap_servers) as admin:
        lag = admin.consumer_lag("app")
        assert {where.topic for where in lag} == {"lines", WORDS}
        assert all(each.lag == 0 for each in lag.values())
        changelog = admin.describe_configs("topic", CHANGELOG)
        assert changelog["cleanup.policy"].value == "compact"
        repartition = admin.describe_configs("topic", WORDS)
        assert (repartition["cleanup.policy"].value, repartition["retention.ms"].value) == ("delete", "-1")


@pytest.mark.parametrize(
    ("lose_disk", "home"), [(False, "sqlite"), (True, "sqlite"), (False, "rocksdb"), (True, "rocksdb")]
)
def test_an_instance_goes_on_where_it_was(
    kafka_broker: Broker, start: Start, tmp_path: Path, lose_disk: bool, home: str
) -> None:
    """With its directory, or with the changelogs alone."""
    make_topics(kafka_broker)
    produce(kafka_broker, LINES)
    wanted = expected(" ".join(LINES).split())
    first = start(word_count(), default_dsl_store=home)
    wait_for(lambda: read_committed(kafka_broker.bootstrap_servers, "counts") == wanted, "the counts")
    first.stop()
    assert bool(list((tmp_path / "state").rglob("rocksdb"))) == (home == "rocksdb")
    if lose_disk:
        shutil.rmtree(tmp_path / "state")
    produce(kafka_broker, LINES)
    wanted = expected(" ".join(LINES * 2).split())
    second = start(word_count(), default_dsl_store=home)
    wait_for(lambda: bool(second.worker._engine and second.worker._engine.tasks), "tasks")
    assert bool(second.worker._positions) != lose_disk
    wait_for(lambda: read_committed(kafka_broker.bootstrap_servers, "counts") == wanted, "the counts")
    second.stop()


def test_kept_task_commits_across_rebalance(kafka_broker: Broker, start: Start) -> None:
    """While a second instance joins and leaves, the first one's kept tasks go on; nothing is counted twice or lost."""
    make_topics(kafka_broker)
    first = start(word_count(), heartbeat_interval_ms=300)
    sent: list[str] = []

    def more() -> None:
        produce(kafka_broker, LINES)
        sent.extend(LINES)

    def all_there() -> bool:
        return read_committed(kafka_broker.bootstrap_servers, "counts") == expected(" ".join(sent).split())

    more()
    wait_for(all_there, "the first counts")
    second = start(word_count(), state="other", heartbeat_interval_ms=300)
    for _ in range(5):
        more()
    wait_for(lambda: bool(second.worker._engine and second.worker._engine.tasks), "tasks of the second instance", 40)
    more()
    wait_for(all_there, "the counts of both")
    engine = first.worker._engine
    assert engine is not None
    assert 0 < len(engine.tasks) < 4
    second.stop()
    more()
    wait_for(lambda: len(engine.tasks) == 4, "all tasks back", 40)
    wait_for(all_there, "the counts after the second one left")
    first.stop()


def test_a_copy_takes_over(kafka_broker: Broker, start: Start) -> None:
    """num.standby.replicas=1: the second instance follows the first one's stores, and goes on from them when it leaves."""
    make_topics(kafka_broker)
    produce(kafka_broker, LINES)
    wanted = expected(" ".join(LINES).split())
    both = {"num.standby.replicas": 1, "heartbeat_interval_ms": 300}
    first = start(word_count(), **both)
    wait_for(lambda: read_committed(kafka_broker.bootstrap_servers, "counts") == wanted, "the counts")
    second = start(word_count(), state="other", **both)

    def copied() -> bool:
        """Each instance has what the other one's tasks have; a copy has passed the marker at the end, too."""
        engines = [first.worker._engine, second.worker._engine]
        if any(engine is None or len(engine.tasks) != 2 for engine in engines):
            return False
        return all(
            engine.tasks.keys() | engine.standbys.progress().keys() >= {TaskId(1, 0), TaskId(1, 1)}
            and all(
                engine.standbys.progress()[task] > other.worker._positions.get(str(task), 1 << 60)
                for task in engine.standbys.progress()
            )
            for engine, other in zip(engines, (second, first), strict=True)
            if engine is not None
        )

    wait_for(copied, "copies of both", 40)
    first.stop()
    produce(kafka_broker, LINES)
    wanted = expected(" ".join(LINES * 2).split())
    wait_for(lambda: read_committed(kafka_broker.bootstrap_servers, "counts") == wanted, "the counts of the second one")
    second.stop()


def test_stop_ends_an_app_from_an_operator_of_its_own(kafka_broker: Broker, tmp_path: Path) -> None:
    """`app.stop()` in a function of the app: what was processed is committed, and `run()` returns."""
    make_topics(kafka_broker)
    produce(kafka_broker, ["one", "last"])
    app = App(
        "stopped", kafka_broker.bootstrap_servers, state_dir=str(tmp_path), processing_guarantee="exactly_once_v2"
    )
    app.stop()  # nothing runs: nothing happens

    def look(key: Any, value: str) -> None:
        if value == "last":
            app.stop()

    app.stream("lines", value=str).peek(look).to("counts", value=str)
    thread = threading.Thread(target=app.run, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    with ottla.Admin(kafka_broker.bootstrap_servers) as admin:
        assert (
            sum(each.offset or 0 for each in admin.list_offsets([TopicPartition("counts", 0)], "latest").values()) >= 1
        )
        assert admin.consumer_lag("stopped")


def test_calls_of_map_async_across_a_restart(kafka_broker: Broker, start: Start) -> None:
    """Stopped while calls are in flight, and started again: each result once, in the order of its partition."""
    with ottla.Admin(kafka_broker.bootstrap_servers) as admin:
        admin.create_topic("keyed", partitions=2)
        admin.create_topic("looked-up", partitions=1)
    with ottla.Producer(kafka_broker.bootstrap_servers) as producer:
        for number in range(200):
            producer.send("keyed", str(number).encode(), key=str(number % 2).encode(), partition=number % 2)
    middle = threading.Event()
    called: Counter[str] = Counter()

    async def look_up(value: str) -> str:
        called[value] += 1
        if sum(called.values()) == 100:
            middle.set()
        await asyncio.sleep(0.001 * (int(value) % 7))
        return f"{value}!"

    app = App("app")
    app.stream("keyed", key=str, value=str).map_async(look_up, concurrency=16, value=str).to("looked-up")
    first = start(app.topology(), commit_interval_ms=20)
    assert middle.wait(60)
    first.stop()
    done = read_committed(kafka_broker.bootstrap_servers, "looked-up")
    second = start(app.topology(), commit_interval_ms=20)
    wanted = {key: [f"{number}!" for number in range(int(key), 200, 2)] for key in "01"}
    wait_for(lambda: read_committed(kafka_broker.bootstrap_servers, "looked-up") == wanted, "all results", 60)
    second.stop()
    assert any(done.values())
    assert all(wanted[key][: len(values)] == values for key, values in done.items())


def test_a_record_whose_call_fails_after_stop_comes_again(kafka_broker: Broker, start: Start) -> None:
    """The instance ends with the error, as when a call fails before, and its record is not committed."""
    with ottla.Admin(kafka_broker.bootstrap_servers) as admin:
        admin.create_topic("keyed")
    with ottla.Producer(kafka_broker.bootstrap_servers) as producer:
        producer.send("keyed", b"x", key=b"a")
    begun, release = threading.Event(), threading.Event()
    closed: list[str] = []

    class Closing:
        def process(self, record: Any) -> None:
            """Take a record, and forward nothing."""

        def close(self) -> None:
            closed.append("operator")

    async def fails(value: str) -> str:
        begun.set()
        await asyncio.to_thread(release.wait, 30)
        raise ValueError("no such thing")

    app = App("app")
    app.stream("keyed", key=str, value=str).map_async(fails, value=str).process(Closing)
    instance = start(app.topology(), commit_interval_ms=100)
    wait_for(begun.is_set, "the call")
    instance.worker.stop()
    release.set()
    with pytest.raises(RecordError, match="no such thing"):
        instance.join()
    assert closed == ["operator"]
    with ottla.Admin(kafka_broker.bootstrap_servers) as admin:
        assert not admin.list_group_offsets("app"), "its record comes again"


def test_another_look_at_copies_is_asked_for_once(tmp_path: Path) -> None:
    """Its time is set on the client's thread: it may be taken back while the stream thread looks whether it has come."""
    asked: list[str] = []
    taken_back: list[bool] = []

    class Clock(SystemClock):
        def monotonic_ms(self) -> int:
            if taken_back:
                worker._probe_ms = None
            return 5_000

    app = Application(word_count(), "127.0.0.1:1", {"state_dir": str(tmp_path)})
    worker = Worker(app, settings_of(app), clock=Clock())
    worker._cluster = SimpleNamespace(consumer=SimpleNamespace(enforce_rebalance=asked.append))  # type: ignore[assignment]
    worker._probe_ms = 5_001
    worker._maybe_probe()
    assert not asked
    for time_ms in (4_000, 5_000):
        worker._probe_ms = time_ms
        worker._maybe_probe()
        worker._maybe_probe()
    assert len(asked) == 2
    taken_back.append(True)
    worker._probe_ms = 4_500
    worker._maybe_probe()
    assert worker._probe_ms is None


def test_paused_does_not_starve_idle(kafka_broker: Broker, start: Start) -> None:
    """Two partitions are full and paused; the third, which the task waits for (max.task.idle.ms), is fetched all the same.

    What is fetched of a paused partition stays in the consumer's buffer: that has room for three fetches of each partition,
    whatever `fetch.max.bytes` says.
    """
    with ottla.Admin(kafka_broker.bootstrap_servers) as admin:
        for topic in ("full", "fuller", "idle", "out"):
            admin.create_topic(topic)
    with ottla.Producer(kafka_broker.bootstrap_servers, batch_size=20_000) as producer:
        for number in range(200):
            for topic in ("full", "fuller"):
                producer.send(topic, b"x" * 1_000, key=b"%d" % number, timestamp=1_000 + number)
    app = App("app")
    app.stream("full", "fuller", "idle").to("out")
    started = time.monotonic()
    instance = start(
        app.topology(),
        commit_interval_ms=100,
        max_task_idle_ms="10m",
        buffered_records_per_partition=10,
        **{
            "main.consumer.max.partition.fetch.bytes": 20_000,
            "main.consumer.fetch.max.bytes": 15_000,
            "main.consumer.fetch.max.wait.ms": 10,
        },
    )
    wait_for(lambda: _waiting(instance) >= 20, "records that wait")
    with ottla.Producer(kafka_broker.bootstrap_servers) as producer:
        producer.send("idle", b"late", key=b"late", timestamp=2_000)
    wait_for(lambda: len(read_committed(kafka_broker.bootstrap_servers, "out")) == 200, "what is before it", 30)
    assert time.monotonic() - started < 600
    cluster = instance.worker._cluster
    assert cluster is not None
    assert cluster.consumer._settings.fetch_max_bytes >= 3 * 3 * 20_000
    instance.stop()


def _waiting(instance: Instance) -> int:
    engine = instance.worker._engine
    return sum(len(task.queues or ()) for task in list(engine.tasks.values())) if engine is not None else 0


def test_a_topic_that_is_not_there_stops_at_the_start(kafka_broker: Broker, start: Start) -> None:
    instance = start(word_count())
    with pytest.raises(TopologyError, match="do not exist: lines"):
        instance.join()


def test_a_changed_number_of_partitions_stops_at_the_start(kafka_broker: Broker, start: Start) -> None:
    make_topics(kafka_broker)
    with ottla.Admin(kafka_broker.bootstrap_servers) as admin:
        admin.create_topic(CHANGELOG, partitions=5)
    instance = start(word_count())
    with pytest.raises(TopologyError, match=f"{CHANGELOG} has 5 partitions, and {WORDS} has 2"):
        instance.join()


def test_a_group_of_another_kind_is_refused(kafka_broker: Broker, start: Start) -> None:
    make_topics(kafka_broker)
    with ottla.Consumer(kafka_broker.bootstrap_servers, group_id="app", topics=["lines"]) as other:
        other.poll(timeout=0.5)
        wait_for(lambda: bool(other.assignment) or not other.poll(timeout=0.2), "the other member")
        instance = start(word_count())
        with pytest.raises(Exception, match="members of another kind") as raised:
            instance.join()
    assert raised.value.__cause__ is not None
    assert getattr(raised.value.__cause__, "code", None) is ErrorCode.INCONSISTENT_GROUP_PROTOCOL


def test_a_global_table_is_whole_before_anything_starts(kafka_broker: Broker, start: Start) -> None:
    """Every record finds its key, in whatever partition of the table's topic that is; a later value is seen, too."""
    with ottla.Admin(kafka_broker.bootstrap_servers) as admin:
        admin.create_topic("names", partitions=3)
        admin.create_topic("keyed")
        admin.create_topic("counts")
    with ottla.Producer(kafka_broker.bootstrap_servers) as producer:
        for number in range(30):
            producer.send("names", f"name{number}", key=str(number))
            producer.send("keyed", "x", key=str(number))
    instance = start(looking_up())
    servers = kafka_broker.bootstrap_servers
    wanted = {str(number): [f"name{number}"] for number in range(30)}
    wait_for(lambda: read_committed(servers, "counts") == wanted, "the names")
    with ottla.Producer(kafka_broker.bootstrap_servers) as producer:
        producer.send("names", "other", key="7")
        producer.flush()

        def seen() -> bool:
            producer.send("keyed", "x", key="7")
            producer.flush()
            return read_committed(servers, "counts")["7"][-1] == "other"

        wait_for(seen, "the new name")
    instance.stop()


def test_an_instance_warns_while_it_has_no_tasks_and_tells_when_it_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[int] = []
    now = SimpleNamespace(ms=0)
    clock: Any = SimpleNamespace(monotonic_ms=lambda: now.ms)
    app = Application(word_count(), None, {"state_dir": str(tmp_path)})
    worker = Worker(app, settings_of(app), on_tasks=told.append, clock=clock)
    engine: Any = SimpleNamespace(tasks={})
    worker._engine = engine

    def turn(ms: int) -> int:
        """Let the instance look at a moment; return how often it has warned so far."""
        now.ms = ms
        worker._tell_tasks()
        return caplog.text.count("no tasks yet")

    assert [turn(ms) for ms in (0, 4999, 5000, 64_999, 65_000)] == [0, 0, 1, 1, 2]
    engine.tasks = {TaskId(0, 0): SimpleNamespace(phase=Phase.RESTORING)}
    turn(65_001)
    assert told == []
    engine.tasks = {TaskId(0, 0): SimpleNamespace(phase=Phase.RUNNING)}
    turn(65_002)
    turn(65_003)
    assert told == [1]
    engine.tasks[TaskId(0, 1)] = SimpleNamespace(phase=Phase.RUNNING)
    turn(65_004)
    assert told == [1, 2]


def test_any_instance_answers_for_all(kafka_broker: Broker, start: Start) -> None:
    """Two instances share the tasks: each answers for every word over HTTP, and to `app.store`, by one hop where it must."""
    make_topics(kafka_broker)
    produce(kafka_broker, LINES)
    words = " ".join(LINES).split()
    instances = [
        start(
            word_count(),
            state=f"state{number}",
            heartbeat_interval_ms=300,
            **{"application.server": "127.0.0.1:0"},
        )
        for number in range(2)
    ]

    def shared() -> bool:
        engines = [instance.worker._engine for instance in instances]
        return all(
            engine is not None and engine.tasks and all(task.phase is Phase.RUNNING for task in engine.tasks.values())
            for engine in engines
        )

    wait_for(shared, "both have tasks", 60)
    wait_for(lambda: read_committed(kafka_broker.bootstrap_servers, "counts") == expected(words), "the counts")

    def answers(instance: Instance) -> dict[str, Any]:
        server = instance.worker._server
        assert server is not None
        found = {}
        for word in set(words):
            try:
                with urllib.request.urlopen(f"http://{server.endpoint}/stores/counts/{word}", timeout=30) as response:
                    found[word] = json.load(response)["value"]
            except urllib.error.HTTPError as error:
                if error.code != 503:  # moving
                    raise
        return found

    wanted = {word: str(words.count(word)) for word in words}
    for instance in instances:
        wait_for(lambda instance=instance: answers(instance) == wanted, "the answers over HTTP", 60)  # type: ignore[misc]
        desk = instance.app.desk
        assert desk is not None
        view = StoreView(desk, desk.routes.spec("counts"))
        assert {word: view[word] for word in words} == wanted
        assert dict(view.range()) == wanted
    for instance in instances:
        instance.stop()
        assert instance.app.desk is None


def test_reset_with_old_directory(kafka_broker: Broker, start: Start, tmp_path: Path) -> None:
    """State from before a reset, as another machine may have it, is not believed: the application starts over."""
    make_topics(kafka_broker)
    produce(kafka_broker, LINES)
    once = expected(" ".join(LINES).split())
    first = start(word_count())
    wait_for(lambda: read_committed(kafka_broker.bootstrap_servers, "counts") == once, "the counts")
    first.stop()
    shutil.copytree(tmp_path / "state", tmp_path / "old")
    removed = reset(word_count(), settings_of(first.app))
    assert set(removed.topics) == {CHANGELOG, WORDS}
    second = start(word_count(), state="old")
    twice = {word: counts + counts for word, counts in once.items()}
    wait_for(lambda: read_committed(kafka_broker.bootstrap_servers, "counts") == twice, "the counts from the beginning")
    second.stop()


IN_A_THREAD = """
import sys, threading, time
from ottla.streams import App

app = App("beside", sys.argv[1], state_dir=sys.argv[2], commit_interval_ms="10m")
seen = []
lines = app.stream("lines", value=str).peek(lambda key, line: seen.append(line))
lines.group_by(lambda key, line: line).count(store="counts")
threading.Thread(target=app.run, daemon=True).start()
deadline = time.monotonic() + 60
while len(seen) < int(sys.argv[3]):
    assert time.monotonic() < deadline, seen
    time.sleep(0.05)
"""


def test_end_of_process_ends_app_in_daemon_thread(kafka_broker: Broker, tmp_path: Path) -> None:
    """It commits and hands over, although nobody stopped it."""
    make_topics(kafka_broker)
    produce(kafka_broker, LINES)
    arguments = [kafka_broker.bootstrap_servers, str(tmp_path / "state"), str(len(LINES))]
    ended = subprocess.run(
        [sys.executable, "-c", IN_A_THREAD, *arguments], capture_output=True, text=True, timeout=90, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    with ottla.Admin(kafka_broker.bootstrap_servers) as admin:
        lag = admin.consumer_lag("beside")
        assert sum(each.lag or 0 for where, each in lag.items() if where.topic == "lines") == 0
        assert {where.topic for where in lag} >= {"lines"}


#: For groups that the broker shares out (KIP-1071).
QUICK_GROUPS = {
    "group.streams.heartbeat.interval.ms": 200,
    "group.streams.min.heartbeat.interval.ms": 100,
    "group.streams.initial.rebalance.delay.ms": 0,
}


@pytest.mark.parametrize("kafka_broker_settings", [QUICK_GROUPS])
def test_the_broker_shares_out_tasks(kafka_broker: Broker, start: Start) -> None:
    """group.protocol=streams: tasks move while they work, a copy takes over, any instance answers; nothing twice or lost."""
    make_topics(kafka_broker)
    with ottla.Admin(kafka_broker.bootstrap_servers) as admin:
        admin.alter_configs("group", "app", {"streams.num.standby.replicas": "1"})
    sent: list[str] = []
    options = {"group_protocol": "streams", "application_server": "127.0.0.1:0"}

    def more() -> None:
        produce(kafka_broker, LINES)
        sent.extend(LINES)

    def all_there() -> bool:
        return read_committed(kafka_broker.bootstrap_servers, "counts") == expected(" ".join(sent).split())

    def asked(instance: Instance) -> list[str | None]:
        assert instance.app.desk is not None
        view = StoreView(instance.app.desk, instance.app.desk.routes.spec("counts"))
        try:
            return [view.get(word) for word in sorted({word for line in LINES for word in line.split()})]
        except StoreMovingError:
            return []

    first = start(word_count(), **options)
    more()
    wait_for(all_there, "the first counts")
    second = start(word_count(), state="other", **options)
    engines = [first.worker._engine, second.worker._engine]

    def shared() -> bool:
        engines[:] = [first.worker._engine, second.worker._engine]
        return all(engine is not None and len(engine.tasks) == 2 for engine in engines)

    wait_for(shared, "two tasks each", 40)
    wait_for(lambda: all(engine and engine.standbys.progress() for engine in engines), "copies", 40)
    more()
    wait_for(all_there, "the counts of both")
    counts = Counter(" ".join(sent).split())
    wanted = [str(counts[word]) for word in sorted(counts)]
    for instance in (first, second):
        wait_for(lambda instance=instance: asked(instance) == wanted, "the same answers at both")  # type: ignore[misc]
    first.stop()
    more()
    wait_for(all_there, "the counts after the first one left", 40)
    with ottla.Admin(kafka_broker.bootstrap_servers) as admin:
        assert all(each.lag == 0 for each in admin.consumer_lag("app").values())
    second.stop()


@pytest.mark.parametrize("kafka_broker_settings", [QUICK_GROUPS])
def test_a_streams_group_keeps_its_topology(kafka_broker: Broker, start: Start) -> None:
    """Kafka takes no other topology for a group: what it says is told, and what to do."""
    make_topics(kafka_broker)
    first = start(word_count(), group_protocol="streams")
    wait_for(lambda: bool(first.worker._engine and first.worker._engine.tasks), "tasks")
    first.stop()
    app = App("app")
    app.stream("lines", value=str).to("counts", value=str)
    second = start(app.topology(), group_protocol="streams")
    with pytest.raises(StreamsError, match="keeps the topology of its first member"):
        second.join()


@pytest.mark.parametrize("key", ["num.standby.replicas", "main.consumer.group.instance.id", "session.timeout.ms"])
def test_what_the_broker_decides_is_refused_with_group_protocol_streams(key: str) -> None:
    with pytest.raises(ottla.ConfigurationError, match=r"group\.protocol=streams"):
        read_settings("app", {"group.protocol": "streams", key: "1"})
