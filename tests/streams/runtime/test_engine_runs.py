"""A stream thread with caches and operators over columns, on the model of a cluster: killed, and with refused outputs."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from tests.streams.runtime.model import Killed, World
from tests.streams.runtime.test_engine import Thread
from tests.streams.runtime.topologies import CHANGELOG

from ottla.errors import MessageTooLargeError
from ottla.streams import App, col, count, tumbling
from ottla.streams.caching import CacheBudget
from ottla.streams.handlers import DeadLetter, Handlers
from ottla.streams.topology import TaskId
from ottla.types import TopicPartition


def windows() -> App:
    app = App("app")
    rows = app.stream("in", key=str, columns=True).with_columns(twice=col("n") + col("n"))
    table = rows.group_by_key().windowed_by(tumbling("1s", grace="1h")).agg(count(), col("twice").sum(), store="counts")
    table.to_stream().to("out")
    return app


def written(world: World, number: int = 60) -> dict[bytes, dict[str, int]]:
    """Write rows of two partitions; return what each window holds at the end, by its key's bytes."""
    dice = random.Random(5)
    expected: dict[bytes, dict[str, int]] = {}
    for index in range(number):
        partition = dice.randrange(2)
        key = f"{'ab'[partition]}{dice.randrange(2)}".encode()
        timestamp = index * 100
        world.write("in", key, json.dumps({"n": index}).encode(), timestamp, partition)
        found = expected.setdefault(key + (timestamp // 1000 * 1000).to_bytes(8, "big"), {"count": 0, "twice_sum": 0})
        found["count"] += 1
        found["twice_sum"] += 2 * index
    return expected


def last(world: World) -> dict[bytes | None, Any]:
    """The last committed result of each window."""
    records = world.committed_records(TopicPartition("out", 0))
    return {record.key: json.loads(record.value or b"null") for record in records}


@pytest.mark.parametrize("seed", range(12))
def test_kills_at_random_steps_with_caches_and_runs(seed: int) -> None:
    """What caches hold dies with the process or is committed whole: results are those of the batch computation."""
    dice = random.Random(seed)
    world = World({"in": 2, CHANGELOG: 2, "out": 1}, seed)
    expected = written(world)
    topology = windows().topology()
    for _ in range(6):
        world.kill_at = world.steps + dice.randrange(1, 80)
        try:
            Thread(world, topology, cache=CacheBudget(10 << 20)).run(25)
        except Killed:
            if dice.random() < 0.3:
                world.disk.clear()
        world.held.clear()
    world.kill_at = None
    thread = Thread(world, topology, cache=CacheBudget(10 << 20))
    thread.run(120)
    world.tick()

    assert last(world) == expected
    assert thread.engine.aborts == 0


def test_a_refused_output_of_a_run_is_found_by_going_record_by_record() -> None:
    app = App("app")
    app.stream("in", key=str, columns=True).filter(col("n") >= 0).to("out")
    world = World({"in": 1, "out": 1, "dead": 1})
    for key in (b"a", b"poison", b"b"):
        world.write("in", key, b'{"n":1}')
    world.refuse["out", b"poison"] = MessageTooLargeError("too large")
    thread = Thread(world, app.topology(), handlers=Handlers(production=DeadLetter("dead")))
    thread.run(30)

    assert [record.key for record in world.committed_records(TopicPartition("out", 0))] == [b"a", b"b"]
    assert [record.key for record in world.committed_records(TopicPartition("dead", 0))] == [b"poison"]
    core = thread.engine.tasks[TaskId(0, 0)].core
    assert core is not None
    assert core.takes_runs("in"), "what was refused is behind"
