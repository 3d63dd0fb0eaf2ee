"""Share consumers (KIP-932) against real brokers: what is accepted, released, rejected, renewed; who gets what; deaths."""

from __future__ import annotations

import asyncio
import logging
import random
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from tests.client.conftest import make_broker
from tests.client.others import new_topic
from tests.support.broker_process import RunningBroker

import ottla
from ottla.errors import InvalidRecordStateError, KafkaError

LOCK_MS = 1_500
SETTINGS = {
    "group.share.heartbeat.interval.ms": "300",
    "group.share.min.heartbeat.interval.ms": "300",
    "group.share.record.lock.duration.ms": str(LOCK_MS),
    "group.share.min.record.lock.duration.ms": "1000",
}


@pytest.fixture(scope="module", params=["ottla", pytest.param("kafka", marks=pytest.mark.kafka)])
def broker(request: pytest.FixtureRequest) -> Iterator[RunningBroker]:
    running = make_broker(request.param, SETTINGS)
    try:
        running.start()
        yield running
    finally:
        running.close()


def queue_of(broker: RunningBroker, count: int, *, partitions: int = 1) -> tuple[str, str]:
    """Return (a topic with so many jobs, a group that begins with the first of them)."""
    topic, group = new_topic(broker.address, partitions), f"workers-{uuid.uuid4().hex[:8]}"
    with ottla.Admin(broker.address) as admin, ottla.Producer(broker.address) as producer:
        admin.alter_configs("group", group, {"share.auto.offset.reset": "earliest"})
        producer.send_many(topic, [str(number) for number in range(count)])
    return topic, group


def worker(broker: RunningBroker, topic: str, group: str, **options: Any) -> ottla.ShareConsumer:
    return ottla.ShareConsumer(broker.address, group_id=group, topics=[topic], fetch_max_wait_ms=200, **options)


def left(broker: RunningBroker, topic: str, group: str, timeout: float = 3.0) -> list[tuple[int, int]]:
    """Take what a group has left: (number, delivery count)."""
    found: list[tuple[int, int]] = []
    with worker(broker, topic, group) as consumer:
        while jobs := consumer.poll(timeout=timeout):
            found += [(int(job.value or b""), job.delivery_count) for job in jobs]
    return sorted(found)


def test_with_job_accepts_or_releases_and_raises(broker: RunningBroker) -> None:
    topic, group = queue_of(broker, 3)
    seen = []

    def work(consumer: ottla.ShareConsumer) -> None:
        for job in consumer:
            with job:
                seen.append((job.value, job.delivery_count, job.topic, job.partition, job.offset))
                if job.value == b"1":
                    raise ZeroDivisionError
            assert job.acknowledged

    with worker(broker, topic, group) as consumer, pytest.raises(ZeroDivisionError):
        work(consumer)
    assert seen == [(b"0", 1, topic, 0, 0), (b"1", 1, topic, 0, 1)]
    rest = left(broker, topic, group)
    assert [number for number, _ in rest] == [1, 2]
    assert rest[0] == (1, 2)


def test_asking_for_the_next_one_accepts_and_leaving_the_block_releases(broker: RunningBroker) -> None:
    topic, group = queue_of(broker, 4)
    with worker(broker, topic, group) as consumer:
        for job in consumer:
            if job.value == b"2":
                break
    assert [number for number, _ in left(broker, topic, group)] == [2, 3]


def test_what_is_said_inside_the_block_counts(broker: RunningBroker) -> None:
    topic, group = queue_of(broker, 3)
    told: list[tuple[list[int], KafkaError | None]] = []
    with worker(
        broker, topic, group, on_acknowledged=lambda where, offsets, error: told.append((offsets, error))
    ) as consumer:
        for count, job in enumerate(consumer, 1):
            with job:
                if job.value == b"0":
                    job.reject()
                elif job.value == b"1" and job.delivery_count == 1:
                    job.release()
                else:
                    assert not job.acknowledged
            with pytest.raises(InvalidRecordStateError, match="acknowledged already"):
                job.accept()
            if count == 4:
                break
        consumer.commit()
        assert sorted(offset for offsets, _ in told for offset in offsets) == [0, 1, 1, 2]
        assert {error for _, error in told} == {None}
    assert left(broker, topic, group, 0.7) == []


def test_poll_gives_many_and_the_next_poll_accepts_them(broker: RunningBroker) -> None:
    topic, group = queue_of(broker, 20)
    with worker(broker, topic, group) as consumer:
        first: list[ottla.AcquiredRecord] = []
        while not first:
            first = consumer.poll(max_records=8)
        first[0].release()
        rest = len(first)
        while rest < 20:
            rest += len(jobs := consumer.poll())
        assert all(job.acknowledged for job in first)
        assert any(job.value == first[0].value and job.delivery_count == 2 for job in jobs) or rest == 20
        del jobs
    assert len(first) <= 8
    # What the last call gave was released.
    assert left(broker, topic, group)


def test_in_explicit_mode_asking_for_more_says_nothing(broker: RunningBroker) -> None:
    topic, group = queue_of(broker, 3)
    with worker(broker, topic, group, share_acknowledgement_mode="explicit") as consumer:
        jobs = [next(consumer) for _ in range(3)]
        assert not any(job.acknowledged for job in jobs)
        jobs[1].accept()
    assert [number for number, _ in left(broker, topic, group)] == [0, 2]


def test_a_lock_is_renewed_while_the_block_lasts(broker: RunningBroker) -> None:
    topic, group = queue_of(broker, 2)
    other: list[Any] = []
    with worker(broker, topic, group) as consumer:
        first = next(consumer)
        with first, worker(broker, topic, group) as second:
            deadline = time.monotonic() + 2.5 * LOCK_MS / 1000
            while time.monotonic() < deadline:
                other += [job.value for job in second.poll(timeout=0.3)]
        consumer.commit()
        assert consumer.metrics()["acknowledgements-error-total"] == 0
    assert first.value not in other
    assert (int(first.value or b""), 2) not in left(broker, topic, group, 0.7)


def test_a_lock_is_renewed_for_no_longer_than_max_processing(
    broker: RunningBroker, caplog: pytest.LogCaptureFixture
) -> None:
    topic, group = queue_of(broker, 1)
    told: list[KafkaError | None] = []
    with worker(
        broker, topic, group, max_processing=0.5, on_acknowledged=lambda where, offsets, error: told.append(error)
    ) as consumer:
        job = next(consumer)
        with worker(broker, topic, group) as second:
            with job:
                again = next(second)
                assert (again.value, again.delivery_count) == (job.value, 2)
            consumer.commit()
    assert "max_processing" in caplog.text
    # A failed acknowledgement goes to `on_acknowledged` and the log.
    assert [type(error) for error in told] == [InvalidRecordStateError]
    assert "not acknowledged" in caplog.text


def test_renew_by_hand(broker: RunningBroker) -> None:
    topic, group = queue_of(broker, 1)
    with worker(broker, topic, group) as consumer, worker(broker, topic, group) as second:
        job = next(consumer)
        for _ in range(3):
            assert second.poll(timeout=0.5 * LOCK_MS / 1000) == []
            job.renew()
            consumer.commit()
        job.accept()
        consumer.commit()
        assert second.poll(timeout=0.5) == []


def test_a_slow_worker_leaves_the_rest_to_others(broker: RunningBroker) -> None:
    topic, group = queue_of(broker, 60)
    with worker(broker, topic, group) as slow, worker(broker, topic, group) as quick, next(slow):
        done: Counter[int] = Counter()
        while len(done) < 59:
            done.update(int(job.value or b"") for job in quick.poll(timeout=5))
    assert max(done.values()) == 1


def test_run_works_with_several_at_once_and_goes_on_after_failures(
    broker: RunningBroker, caplog: pytest.LogCaptureFixture
) -> None:
    topic, group = queue_of(broker, 200, partitions=3)
    done: Counter[bytes | None] = Counter()
    failed: set[bytes | None] = set()
    names: set[str] = set()
    lock = threading.Lock()
    together = threading.Barrier(4)

    def work(job: ottla.AcquiredRecord) -> None:
        with suppress(threading.BrokenBarrierError):
            together.wait(20)
            together.abort()
        with lock:
            names.add(threading.current_thread().name)
            if (job.value or b"").endswith(b"3") and job.value not in failed:
                failed.add(job.value)
                raise ValueError("cannot be done now")
            done[job.value] += 1
            if len(done) == 200:
                consumer.stop()

    with worker(broker, topic, group) as consumer:
        consumer.run(work, workers=4)
        # `run` may go on.
        consumer.stop()
        consumer.run(work, workers=1)
    assert (len(done), len(failed), max(done.values())) == (200, 20, 1)
    assert len(names) == 4
    assert caplog.text.count("is released: it failed at delivery 1") == 20
    assert left(broker, topic, group, 0.7) == []


def test_the_asynchronous_face(broker: RunningBroker) -> None:
    topic, group = queue_of(broker, 50)
    told: list[int] = []

    async def heard(where: ottla.TopicPartition, offsets: list[int], error: KafkaError | None) -> None:
        assert error is None
        told.extend(offsets)

    async def main() -> None:
        seen: Counter[bytes | None] = Counter()
        consumer = ottla.aio.ShareConsumer(
            broker.address, group_id=group, topics=[topic], fetch_max_wait_ms=200, on_acknowledged=heard
        )
        async with consumer:
            async for job in consumer:
                with job:
                    seen[job.value] += 1
                if len(seen) == 10:
                    break

            async def work(job: ottla.AcquiredRecord) -> None:
                await asyncio.sleep(0)
                if job.delivery_count == 1 and job.value == b"20":
                    raise ValueError("not now")
                seen[job.value] += 1
                if len(seen) == 50:
                    consumer.stop()

            await consumer.run(work, workers=5)
            assert await consumer.poll(timeout=0.3) == []
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await anext(consumer)
            await consumer.commit()
        assert max(seen.values()) == 1

    asyncio.run(main())
    assert sorted(told) == sorted([*range(50), 20])


def test_deserialization_fails_in_the_body_and_releases(broker: RunningBroker) -> None:
    topic, group = queue_of(broker, 1)
    with ottla.Producer(broker.address) as producer:
        producer.send_and_wait(topic, b"no number")

    def work(consumer: ottla.ShareConsumer[Any, int]) -> None:
        for job in consumer:
            with job:
                assert job.value == 0

    def number(topic: str, data: bytes) -> int:
        return int(data)

    with (
        ottla.ShareConsumer(broker.address, group_id=group, topics=[topic], value_deserializer=number) as consumer,
        pytest.raises(ottla.DeserializationError),
    ):
        work(consumer)
    with worker(broker, topic, group) as second:
        job = next(second)
        assert (job.value, job.delivery_count) == (b"no number", 2)


def test_what_is_not_a_share_group_is_said(broker: RunningBroker) -> None:
    topic = new_topic(broker.address)
    with pytest.raises(ottla.ConfigurationError, match="group_id"):
        ottla.ShareConsumer(broker.address, topics=[topic])
    with pytest.raises(ottla.ConfigurationError, match=r"share\.auto\.offset\.reset"):
        ottla.ShareConsumer(broker.address, group_id="g", topics=[topic], config={"auto.offset.reset": "earliest"})
    with pytest.raises(ottla.ConfigurationError, match="topics="), ottla.ShareConsumer(broker.address, group_id="g"):
        pass
    group = f"taken-{uuid.uuid4().hex[:8]}"
    with ottla.Consumer(broker.address, group_id=group, topics=[topic]) as consumer:
        consumer.poll(timeout=0)
        consumer.position(ottla.TopicPartition(topic, 0))
        with worker(broker, topic, group) as shared, pytest.raises(KafkaError):
            shared.poll(timeout=20)


DYING = """
import sys, ottla
with ottla.ShareConsumer(sys.argv[1], group_id=sys.argv[3], topics=[sys.argv[2]]) as worker:
    for job in worker:
        with job:
            print(job.value.decode(), flush=True)
            if job.value == b"3":
                sys.stdin.read()
"""


def test_the_job_of_a_worker_that_is_killed_goes_to_another(broker: RunningBroker) -> None:
    topic, group = queue_of(broker, 6)
    dying = subprocess.Popen(
        [sys.executable, "-c", DYING, broker.address, topic, group],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert dying.stdout is not None
    done = [line.strip() for _, line in zip(range(4), dying.stdout, strict=False)]
    assert done == ["0", "1", "2", "3"]
    dying.kill()
    dying.wait()
    dying.stdout.close()
    assert dying.stdin is not None
    dying.stdin.close()
    rest = left(broker, topic, group)
    # What it had finished before the last fetch was acknowledged with that; job 3 was not finished.
    assert (3, 2) in rest
    assert {number for number, _ in rest} >= {3, 4, 5}


def work_through_kills(kind: str, kills: int, seed: int) -> Counter[str]:
    """Have several workers work on jobs while the broker is killed; every job is done, none after it was accepted."""
    dice = random.Random(seed)
    broker = make_broker(kind, {**SETTINGS, "group.share.delivery.count.limit": "10"})
    broker.start()
    told: Counter[str] = Counter()
    try:
        topic, group = queue_of(broker, 0, partitions=2)
        count = kills * 100
        done: Counter[int] = Counter()
        accepted: set[tuple[int, int]] = set()
        offsets: dict[tuple[int, int], list[int]] = {}
        lock = threading.Lock()
        everything = threading.Event()
        consumers: list[ottla.ShareConsumer] = []

        def heard(where: ottla.TopicPartition, numbers: list[int], error: KafkaError | None) -> None:
            told["acknowledged" if error is None else type(error).__name__] += len(numbers)
            if error is None:
                with lock:
                    accepted.update((where.partition, number) for number in numbers)

        def work(job: ottla.AcquiredRecord) -> None:
            with lock:
                where = job.partition, job.offset
                offsets.setdefault(where, []).append(job.delivery_count)
                assert where not in accepted, f"{where} was accepted and came again"
                done[int(job.value or b"")] += 1
                if len(done) == count:
                    everything.set()

        def serve() -> None:
            with worker(broker, topic, group, on_acknowledged=heard, retry_backoff_max_ms=200) as consumer:
                consumers.append(consumer)
                consumer.run(work, workers=2)

        threads = [threading.Thread(target=serve) for _ in range(3)]
        for thread in threads:
            thread.start()
        with ottla.Producer(broker.address, linger_ms=1, retry_backoff_max_ms=200) as producer:
            for number in range(count):
                producer.send(topic, str(number))
                if number % 100 == 50:
                    time.sleep(dice.random() * 0.5)
                    broker.kill()
                    broker.start()
        assert everything.wait(120), f"{len(done)} of {count} done, {told}"
        for consumer in consumers:
            consumer.stop()
        for thread in threads:
            thread.join(60)
        told["outcomes"] = told.total()  # an acknowledgement that the dead broker took with it has one, too
        told["done again"] = sum(done.values()) - count
    finally:
        broker.close()
    return told


def test_no_job_is_lost_when_the_broker_is_killed() -> None:
    told = work_through_kills("ottla", 3, seed=1)
    assert told["acknowledged"]
    assert told["outcomes"] >= 300


@pytest.mark.kafka
def test_no_job_is_lost_when_apache_kafka_is_killed() -> None:
    told = work_through_kills("kafka", 3, seed=2)
    assert told["acknowledged"]
    assert told["outcomes"] >= 300


@pytest.mark.crash
def test_no_job_is_lost_in_forty_kills(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    assert work_through_kills("ottla", 40, seed=3)["outcomes"] >= 4_000


def test_a_forked_child_gets_a_clear_error(broker: RunningBroker) -> None:
    topic, group = queue_of(broker, 1)
    script = """
import os, sys, ottla
with ottla.ShareConsumer(sys.argv[1], group_id=sys.argv[3], topics=[sys.argv[2]]) as worker:
    next(worker)
    child = os.fork()
    if not child:
        try:
            worker.poll()
        except ottla.ForkedError:
            os._exit(7)
        os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, broker.address, topic, group],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "7\n"


def stopped_by(stop: Callable[[ottla.ShareConsumer], object], consumer: ottla.ShareConsumer) -> None:
    timer = threading.Timer(0.3, stop, [consumer])
    timer.start()
    assert list(consumer) == []
    timer.join()


def test_stop_ends_a_waiting_loop_from_any_thread(broker: RunningBroker) -> None:
    topic, group = queue_of(broker, 0)
    with worker(broker, topic, group) as consumer:
        stopped_by(ottla.ShareConsumer.stop, consumer)
