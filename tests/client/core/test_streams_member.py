"""Members of a streams group (KIP-1071) on a real broker: tasks are assigned, handed over, taken back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Any, cast

import pytest

from ottla.client._core.client import ClientMachine, CoreSettings
from ottla.client._core.coordinator import Coordinator
from ottla.client._core.streams_member import Assignment, StreamsMember, StreamsSettings
from ottla.client.runtime import Runtime
from ottla.errors import StreamsInvalidTopologyEpochError
from ottla.network.channel import ChannelSettings
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.streams_group_heartbeat import Subtopology, Topology
from ottla.testing import Broker
from ottla.testing.pytest_plugin import kafka_broker

__all__ = ["kafka_broker"]


@pytest.fixture
def kafka_broker_settings() -> dict[str, object]:
    return {
        "group.streams.heartbeat.interval.ms": 100,
        "group.streams.min.heartbeat.interval.ms": 100,
        "group.streams.initial.rebalance.delay.ms": 0,
    }


class Program:
    """One member, and what waits for its news."""

    def __init__(self, broker: Broker, *, epoch: int = 0) -> None:
        topology = Topology(epoch=epoch, subtopologies=[Subtopology(subtopology_id="0", source_topics=["in"])])
        host, _, port = broker.bootstrap_servers.rpartition(":")
        self.machine = ClientMachine(CoreSettings(), [(host, int(port))], random.Random())
        coordinator = Coordinator(self.machine, "s")
        self.member = StreamsMember(self.machine, coordinator, StreamsSettings("s", topology, "process"))
        self.machine.parts += [self.member, coordinator]
        self.runtime = Runtime(self.machine, ChannelSettings(client_id="streams"), nullcontext())

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                news = asyncio.Event()
                self.machine.waiters.append(news.set)
                self.runtime.wake()
                await news.wait()

    def active(self) -> tuple[int, ...]:
        return () if self.member.assignment is None else self.member.assignment.active.get("0", ())

    def run_what_is_assigned(self) -> None:
        self.member.own(self.member.assignment or Assignment())
        self.runtime.wake()


@asynccontextmanager
async def program(broker: Broker, *, epoch: int = 0) -> AsyncIterator[Program]:
    made = Program(broker, epoch=epoch)
    made.member.join()
    made.runtime.wake()
    try:
        yield made
    finally:
        await made.runtime.stop()


async def test_tasks_are_shared_and_go_to_another_only_once_they_are_given_up(kafka_broker: Broker) -> None:
    """1. one runs all; 2. another joins: the first is told, and keeps them until it says so; 3. the first one leaves."""
    await asyncio.to_thread(kafka_broker.create_topic, "in", partitions=4)
    async with program(kafka_broker) as first, program(kafka_broker) as second:
        second.member.leave()
        await first.until(lambda: len(first.active()) == 4)
        assert first.member.status in ((), [])
        first.run_what_is_assigned()
        second.member.join()
        second.runtime.wake()
        await first.until(lambda: len(first.active()) == 2)
        assert second.active() == ()
        first.run_what_is_assigned()
        await second.until(lambda: len(second.active()) == 2)
        assert sorted(first.active() + second.active()) == [0, 1, 2, 3]
        second.run_what_is_assigned()
        first.member.leave()
        first.runtime.wake()
        await first.until(lambda: first.member.left)
        await second.until(lambda: len(second.active()) == 4)


async def test_what_the_group_lacks_is_told(kafka_broker: Broker) -> None:
    async with program(kafka_broker) as made:
        await made.until(lambda: bool(made.member.status))
        ((_, words),) = made.member.status
        assert "in" in words
        assert made.active() == ()


async def test_a_fenced_member_runs_nothing_and_joins_again(kafka_broker: Broker) -> None:
    await asyncio.to_thread(kafka_broker.create_topic, "in", partitions=1)
    async with program(kafka_broker) as made:
        await made.until(lambda: made.active() == (0,))
        made.run_what_is_assigned()
        kafka_broker.fail("StreamsGroupHeartbeat", error="FENCED_MEMBER_EPOCH", times=1)
        await made.until(lambda: made.member.assignment is None)
        assert made.member.epoch == 0
        await made.until(lambda: made.active() == (0,))


async def test_an_older_topology_is_refused_in_words(kafka_broker: Broker) -> None:
    await asyncio.to_thread(kafka_broker.create_topic, "in", partitions=1)
    kafka_broker.fail("StreamsGroupHeartbeat", error="STREAMS_INVALID_TOPOLOGY_EPOCH", times=1)
    async with program(kafka_broker) as made:
        await made.until(lambda: made.member.error is not None)
        assert isinstance(made.member.take_error(), StreamsInvalidTopologyEpochError)


class Unanswered:
    """Stands for the client: keeps what it is asked, and loses it when the test says so."""

    def __init__(self) -> None:
        self.random = random.Random(1)
        self.node_id = 0
        self.asked: list[tuple[Any, Callable[[], None]]] = []

    def ask(
        self, now_ms: float, actions: Any, node_id: int, api: ApiKey, build: Any, answered: Any, failed: Any
    ) -> None:
        self.asked.append((build(0), lambda: failed(None, ConnectionError(), now_ms)))

    def reach(self, now_ms: float, actions: Any) -> None:
        return None

    def lose(self, now_ms: float) -> None:
        pass

    def wake(self) -> None:
        pass

    def delay_ms(self, failures: int) -> float:
        return 100.0


@pytest.mark.parametrize("lost", [False, True])
def test_a_member_leaves_that_may_have_joined_without_an_answer(lost: bool) -> None:
    """1. the join gets no answer, now or ever; 2. the member leaves: the group is told, since it may know the member."""
    client = Unanswered()
    settings = StreamsSettings("s", Topology(epoch=0, subtopologies=[]), "process")
    member = StreamsMember(cast(ClientMachine, client), cast(Coordinator, client), settings)
    member.join()
    member.poll(0.0, [])
    if lost:
        client.asked[0][1]()
    member.leave()

    assert not member.left
    member.poll(0.0, [])
    assert [request.member_epoch for request, _ in client.asked] == [0, -1]
    client.asked[1][1]()
    assert member.left, "nobody waits for an answer to a farewell that was lost"


def test_a_member_that_was_never_told_of_has_left_at_once() -> None:
    client = Unanswered()
    settings = StreamsSettings("s", Topology(epoch=0, subtopologies=[]), "process")
    member = StreamsMember(cast(ClientMachine, client), cast(Coordinator, client), settings)
    member.join()
    member.leave()

    assert member.left
    assert not client.asked
