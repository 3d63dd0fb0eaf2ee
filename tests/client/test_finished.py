"""What is finished is committed: each way to leave a loop or a block, and each way to say that something is finished."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from tests.client.others import new_topic
from tests.client.test_groups import WAIT_S, committed, fill, member, new_group, poll_until
from tests.support.broker_process import RunningBroker

import ottla
from ottla.client._core.classic_group import ClassicMembership
from ottla.types import TopicPartition


@pytest.fixture
def topic(broker: RunningBroker) -> str:
    name = new_topic(broker.address)
    fill(broker.address, name, 10)
    return name


def test_the_record_of_the_body_is_unfinished_when_an_exception_leaves(broker: RunningBroker, topic: str) -> None:
    group = new_group()

    def work() -> None:
        with member(broker, group, topic) as consumer:
            for record in consumer:
                if record.offset == 3:
                    raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert committed(broker, group, topic) == 3


@pytest.mark.parametrize("way", ["break", "stop", "end"])
def test_the_end_of_the_block_finishes_the_record(broker: RunningBroker, topic: str, way: str) -> None:
    group = new_group()
    with member(broker, group, topic) as consumer:
        if way == "end":
            assert len(list(consumer.records(until="end"))) == 10
        else:
            for record in consumer:
                if record.offset == 3:
                    if way == "break":
                        break
                    consumer.stop()
    assert committed(broker, group, topic) == (10 if way == "end" else 4)


def test_return_finishes_the_record(broker: RunningBroker, topic: str) -> None:
    group = new_group()

    def first() -> bytes | None:
        with member(broker, group, topic) as consumer:
            for record in consumer:
                return record.value
        raise AssertionError

    assert first() == b"0"
    assert committed(broker, group, topic) == 1


def test_close_by_itself_does_not_finish_the_record(broker: RunningBroker, topic: str) -> None:
    group = new_group()
    consumer = member(broker, group, topic)
    assert [next(consumer).offset for _ in range(3)] == [0, 1, 2]
    consumer.close()
    assert committed(broker, group, topic) == 2
    consumer = member(broker, group, topic)
    consumer.mark(next(consumer))
    consumer.close()
    assert committed(broker, group, topic) == 3


def test_looping_again_goes_on_behind_and_rewind_brings_it_back(broker: RunningBroker, topic: str) -> None:
    group = new_group()
    with member(broker, group, topic) as consumer:
        for record in consumer:
            if record.offset == 3:
                break
        assert next(consumer).offset == 4
        consumer.rewind()
        assert next(consumer).offset == 4
        batch = next(consumer.batches(max_records=3, max_wait=5))
        assert [record.offset for record in batch] == [5, 6, 7]
        consumer.rewind()
        assert next(consumer).offset == 5
        consumer.commit()
        assert committed(broker, group, topic) == 6
        consumer.rewind()  # nothing is unfinished
        assert next(consumer).offset == 6
        consumer.mark(record)
        consumer.rewind()
        assert next(consumer).offset == 6


def test_a_batch_is_finished_when_the_next_one_is_asked_for(broker: RunningBroker, topic: str) -> None:
    group = new_group()

    def work() -> None:
        with member(broker, group, topic, auto_commit_interval_ms=50) as consumer:
            batches = consumer.batches(max_records=4, max_wait=5)
            assert [len(next(batches)) for _ in range(2)] == [4, 4]
            deadline = time.monotonic() + WAIT_S
            while committed(broker, group, topic) != 4:  # by the clock
                assert time.monotonic() < deadline
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert committed(broker, group, topic) == 4


def test_records_that_are_marked_are_committed_up_to_the_first_that_is_not(broker: RunningBroker, topic: str) -> None:
    group = new_group()
    with member(broker, group, topic, commit="marked") as consumer:
        records = list(consumer.records())
        for number in (0, 1, 3, 4):
            threading.Thread(target=consumer.mark, args=(records[number],)).start()
        deadline = time.monotonic() + WAIT_S
        while committed(broker, group, topic) != 2:
            assert time.monotonic() < deadline
            consumer.commit()
        consumer.rewind()
        assert next(consumer).offset == 2
        for record in records[3:]:
            consumer.mark(record)  # they were taken back, and are not handed out yet
    assert committed(broker, group, topic) == 2


@pytest.mark.parametrize("options", [{"commit": "manual"}, {"enable_auto_commit": False}])
def test_manual_means_only_you(broker: RunningBroker, topic: str, options: dict[str, Any]) -> None:
    group = new_group()
    with member(broker, group, topic, auto_commit_interval_ms=1, **options) as consumer:
        assert len(consumer.poll(max_records=4, timeout=30)) == 4
        consumer.commit()
        assert len(consumer.poll(max_records=4, timeout=30)) == 4
        consumer.rewind()
        assert [record.offset for record in consumer.poll(max_records=2, timeout=30)] == [4, 5]
    assert committed(broker, group, topic) == 4
    with pytest.raises(ottla.ConfigurationError, match=r"commit= and enable.auto.commit are given"):
        member(broker, group, topic, commit="processed", enable_auto_commit=True)


def test_what_is_finished_is_committed_before_a_rebalance_and_on_revoked_may_commit(
    broker: RunningBroker, topic: str
) -> None:
    group = new_group()
    seen: list[int] = []

    def on_revoked(partitions: list[TopicPartition]) -> None:
        seen.append(committed(broker, group, topic))
        first.commit({TopicPartition(topic, 0): 7})

    first = member(broker, group, topic, on_revoked=on_revoked, auto_commit_interval_ms=60_000)
    with first:
        assert [next(first).offset for _ in range(3)] == [0, 1, 2]
        first.enforce_rebalance()
        assert next(first).offset == 7  # from where on_revoked has committed
        assert seen == [3]
        # Its own farewell commits 7 again.


#: A job that a shell started in the background ignores SIGINT, and so would what it starts.
INTERRUPTED = """
import signal, sys, time, ottla
signal.signal(signal.SIGINT, signal.default_int_handler)
with ottla.Consumer(sys.argv[1], group_id=sys.argv[3], topics=[sys.argv[2]], auto_offset_reset="earliest") as consumer:
    for record in consumer:
        if record.offset == 3:
            print("ready", flush=True)
            while True:  # a signal that comes just before a sleep begins waits for its end
                time.sleep(0.1)
"""

STOPPED = """
import signal, sys, ottla
with ottla.Consumer(sys.argv[1], group_id=sys.argv[3], topics=[sys.argv[2]], auto_offset_reset="earliest") as consumer:
    with consumer.stopping_on(signal.SIGTERM):
        for record in consumer:
            if record.offset == 9:
                print("ready", flush=True)
    print("end", flush=True)
"""


@pytest.mark.parametrize(
    ("script", "number", "expected"), [(INTERRUPTED, signal.SIGINT, 3), (STOPPED, signal.SIGTERM, 10)]
)
def test_signals(broker: RunningBroker, topic: str, script: str, number: signal.Signals, expected: int) -> None:
    """Ctrl-C leaves the record unfinished; a signal that stops ends the loop normally."""
    group = new_group()
    program = subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", script, broker.address, topic, group],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    program.send_signal(number)
    output, errors = program.communicate(timeout=60)
    assert ("KeyboardInterrupt" in errors) == (number == signal.SIGINT), errors
    assert output == ("end\n" if number == signal.SIGTERM else "")
    assert committed(broker, group, topic) == expected


async def test_cancellation_leaves_the_record_unfinished_and_loses_none(broker: RunningBroker, topic: str) -> None:
    group = new_group()
    waiting = asyncio.Event()
    settings: dict[str, Any] = {"group_id": group, "topics": [topic], "auto_offset_reset": "earliest"}

    async def work() -> None:
        async with ottla.aio.Consumer(broker.address, **settings) as consumer:
            async for record in consumer:
                if record.offset == 3:
                    waiting.set()
                    await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert committed(broker, group, topic) == 3
    async with ottla.aio.Consumer(broker.address, **settings) as consumer:
        batches = consumer.batches(max_records=1_000, max_wait="1h")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(batches), 1)
        assert (await anext(consumer)).offset == 3
        assert [record.offset async for record in consumer.records()] == list(range(4, 10))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(consumer), 0.2)
    assert committed(broker, group, topic) == 10


def test_a_fork_is_told(broker: RunningBroker, topic: str) -> None:
    with member(broker, new_group(), topic) as consumer:
        next(consumer)
        child = os.fork()
        if not child:
            code = 1
            try:
                consumer.poll(timeout=0)
            except ottla.ForkedError:
                code = 0
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_program_that_is_away_for_too_long_is_told(
    broker: RunningBroker, topic: str, caplog: Any, protocol: str
) -> None:
    """In the log, by on_lost, by the next commit; the loop goes on, and does not repeat what is finished."""
    group = new_group()
    lost: list[list[TopicPartition]] = []
    with member(
        broker,
        group,
        topic,
        max_poll_interval_ms=1_000,
        session_timeout_ms=10_000,
        auto_commit_interval_ms=60_000,
        on_lost=lost.append,
        group_protocol=protocol,
    ) as consumer:
        for record in consumer:
            if record.offset == 3:
                break
        time.sleep(1.6)
        with pytest.raises(ottla.PollIntervalExceededError, match=r"longer than max\.poll\.interval\.ms") as caught:
            consumer.commit()
        assert caught.value.where == (TopicPartition(topic, 0), 3)
        assert 100 < caught.value.exceeded_ms < 20_000
        assert not lost
        assert next(consumer).offset == 4  # nothing was committed, yet what is finished stays finished
        assert lost == [[TopicPartition(topic, 0)]]
        consumer.commit()
    assert committed(broker, group, topic) == 5
    assert any("longer than max.poll.interval.ms" in record.getMessage() for record in caplog.records)


def test_progress_without_calls_into_the_core_counts(broker: RunningBroker, topic: str) -> None:
    """Records of one batch are handed out for longer than the interval, each within it."""
    lost: list[object] = []
    with member(broker, new_group(), topic, max_poll_interval_ms=1_500, on_lost=lost.append) as consumer:
        for record in consumer.records():
            time.sleep(0.3)
            assert record.offset < 10
        consumer.commit()
    assert not lost


async def test_a_body_that_blocks_the_loop_is_named(broker: RunningBroker, topic: str, caplog: Any) -> None:
    async def work() -> None:
        async with ottla.aio.Consumer(
            broker.address, group_id=new_group(), topics=[topic], auto_offset_reset="earliest"
        ) as consumer:
            await anext(consumer)
            time.sleep(1.7)  # noqa: ASYNC251
            await asyncio.sleep(0.1)

    await asyncio.create_task(work(), name="the blocker")
    (warning,) = [record for record in caplog.records if "event loop was blocked" in record.getMessage()]
    assert "the task the blocker" in warning.getMessage()
    assert warning.levelno == logging.WARNING


def test_a_member_that_was_thrown_out_cannot_commit(broker: RunningBroker, topic: str) -> None:
    """1. its offsets are refused; 2. it learns that its partitions are lost; 3. it joins again."""
    group = new_group()
    lost: list[object] = []
    with member(
        broker, group, topic, on_lost=lost.append, heartbeat_interval_ms=9_000, session_timeout_ms=30_000
    ) as consumer:
        assert next(consumer).offset == 0
        group_client = consumer._machine.group
        assert group_client is not None
        membership = group_client.membership
        assert isinstance(membership, ClassicMembership)
        membership._member.member_id = "somebody else"
        membership._take_identity()
        with pytest.raises(ottla.CommitFailedError, match="The offsets were not committed"):
            consumer.commit()
        assert not lost
        poll_until(consumer, lambda: bool(lost))
