"""A partition takes appends in the epoch in which this broker leads it, and in no other; resigned, it takes none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest
from tests.broker.replicas.test_partition import Bench, batch
from tests.broker.story import ORDERS, fetch, log_of, produce, started
from tests.storage.log_support import NOW, append, open_log
from tests.storage.log_support import batch as record_batch

from ottla.broker.replicas import partition as partitions
from ottla.broker.replicas.disk_pace import SLOW_MS
from ottla.broker.replicas.follower import Follower
from ottla.cluster.image import PartitionImage
from ottla.errors import ErrorCode, NotLeaderOrFollowerError
from ottla.offload import InlineOffload, ThreadOffload
from ottla.protocol.records.batch import set_offset_and_epoch
from ottla.storage.appending import Append
from ottla.testing.virtual_loop import VirtualLoop, run_virtual


def test_a_partition_that_another_broker_leads_takes_nothing() -> None:
    """The finding: after the tree said that another broker leads, Produce was answered with error 0."""

    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop)
        assert await produce(node, client) == ErrorCode.NONE
        assert node.broker is not None
        await node.broker.controller.stop()  # else it elects this broker again: no broker 7 is registered
        now = node.broker.image.partition(ORDERS)
        assert now is not None
        epoch = now.leader_epoch + 1
        elsewhere = now._replace(leader=7, leader_epoch=epoch, isr=(7,), isr_epochs=(0,))
        await node.broker.controller.update_partitions({ORDERS: elsewhere})
        await asyncio.sleep(1)
        assert node.broker.replicas.partition(*ORDERS) is None
        held = node.broker.replicas.replica(*ORDERS)
        assert held is not None
        with pytest.raises(NotLeaderOrFollowerError):
            await _appended(held.append(batch()))
        assert await produce(node, client) == ErrorCode.NOT_LEADER_OR_FOLLOWER
        assert (await fetch(client)).high_watermark == 1  # what was committed can be read (KIP-392)
        assert log_of(node).log_end_offset == 1
        await node.stop()

    run_virtual(1, story)


async def _appended(info: object) -> object:
    return await info if asyncio.isfuture(info) else info


async def test_append_queued_across_epochs() -> None:
    """A batch that waited for a slow disk while the epoch changed is refused, even if this broker leads again."""
    bench = Bench()
    bench.pace.on_write(SLOW_MS, bench.clock.now)
    waiting = bench.partition.append(batch())
    assert asyncio.isfuture(waiting)
    bench.partition.resign()
    bench.partition.become_leader(5)
    with pytest.raises(NotLeaderOrFollowerError, match="epoch 3"):
        await waiting
    assert bench.log.log_end_offset == 0
    bench.clock.now += 10_000
    assert await _appended(bench.partition.append(batch()))
    assert bench.log.leader_epochs.entries[-1] == (5, 0)


async def test_an_epoch_begins_behind_the_append_that_is_under_way() -> None:
    """The role changes at once though another thread holds the log; appends are taken when that thread lets go."""
    lock = threading.RLock()
    offload = ThreadOffload(1)
    bench = Bench(lock=lock, disk=offload)
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            go.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    await asyncio.to_thread(held.wait, 10)
    bench.partition.become_leader(4)
    assert not bench.partition.is_led
    go.set()
    thread.join()
    assert bench.partition._beginning is not None
    await bench.partition._beginning
    assert (bench.log.led_epoch, bench.partition.leader_epoch) == (4, 4)
    with pytest.raises(NotLeaderOrFollowerError, match="a batch of leader epoch 3"):
        bench.log.append_as_leader_nowait(Append(batch(), 3), bench.clock.now)
    offload.close()


class _LateAnswers(InlineOffload):
    """A function runs when the test says so, and who asked for it hears of that later."""

    def __init__(self) -> None:
        self.run_now: list[Callable[[], object]] = []
        self.answers: list[asyncio.Future[None]] = []

    async def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        found: list[Any] = []
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.run_now.append(lambda: found.append(function(*args, **kwargs)))
        self.answers.append(answer)
        await answer
        return found[0]


class _Held:
    """A log's lock, held by another thread until the test frees it."""

    def __init__(self) -> None:
        self.is_free = True
        #: What happens while somebody waits for it.
        self.meanwhile: Callable[[], object] | None = None

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        return self.is_free or blocking

    def release(self) -> None:
        return None

    def __enter__(self) -> None:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()

    def __exit__(self, *_error: object) -> None:
        return None


async def _held_while_it_is_to_be_led(epoch: int) -> tuple[Bench, _LateAnswers]:
    """Return a partition whose lead in this epoch waits for the log."""
    lock, threads = _Held(), _LateAnswers()
    bench = Bench(lock=cast("threading.RLock", lock), disk=threads)
    lock.is_free = False
    bench.partition.become_leader(epoch)
    lock.is_free = True
    await asyncio.sleep(0)
    assert len(threads.run_now) == 1
    return bench, threads


@pytest.mark.parametrize("ran_before", [True, False], ids=["before", "after"])
async def test_a_lead_that_waited_for_the_log_takes_nothing_from_the_next_one(ran_before: bool) -> None:
    """It fenced the log, whose leader of the next epoch took no records then, for as long as nobody else was elected.

    1. The lead of epoch 4 waits for another thread. 2. It gets the log, before or after 3. this broker leads in epoch 5.
    4. The loop hears of 2.
    """
    bench, threads = await _held_while_it_is_to_be_led(4)
    if ran_before:
        threads.run_now[0]()
    bench.partition.become_leader(5)
    if not ran_before:
        threads.run_now[0]()
    threads.answers[0].set_result(None)
    assert bench.partition._beginning is not None
    await bench.partition._beginning
    assert bench.partition.leader is not None
    assert bench.append().last_offset == 0
    assert bench.log.leader_epochs.entries[-1] == (5, 0)


async def test_both_of_two_leads_wait_for_the_log() -> None:
    """The loop hears of the first one when the second one has got the log."""
    bench, threads = await _held_while_it_is_to_be_led(4)
    lock = cast("_Held", bench.log.lock)
    lock.is_free = False
    bench.partition.become_leader(5)
    await asyncio.sleep(0)
    lock.is_free = True
    first, second = threads.run_now
    first()
    second()
    for answer in threads.answers:
        answer.set_result(None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert bench.partition._beginning is not None
    await bench.partition._beginning
    assert bench.append().last_offset == 0


async def test_a_lead_that_gets_the_log_after_the_next_one_leaves_its_epoch_alone() -> None:
    """The thread of epoch 4 has begun and waits for the lock; epoch 5, which no batch has yet, gets it first.

    It took the epoch of the next one for damage: of the file that says more than the batches.
    """
    bench, threads = await _held_while_it_is_to_be_led(4)
    cast("_Held", bench.log.lock).meanwhile = lambda: bench.partition.become_leader(5)
    with pytest.raises(NotLeaderOrFollowerError) as refused:
        threads.run_now[0]()
    threads.answers[0].set_exception(refused.value)
    assert bench.partition._beginning is not None
    await bench.partition._beginning
    assert bench.log.leader_epochs.entries[-1] == (5, 0)
    assert bench.append().last_offset == 0


@pytest.mark.parametrize("ran_before", [True, False], ids=["before", "after"])
async def test_a_lead_that_waited_for_the_log_takes_nothing_from_a_follower(ran_before: bool) -> None:
    bench, threads = await _held_while_it_is_to_be_led(4)
    if ran_before:
        threads.run_now[0]()
    state = PartitionImage((1, 2), (1, 2), 2, 5, 1)
    bench.partition.become_follower(Follower(1, state))
    if not ran_before:
        threads.run_now[0]()
    threads.answers[0].set_result(None)
    assert bench.partition._beginning is not None
    await bench.partition._beginning
    assert not bench.partition.is_led
    replicated = batch()
    set_offset_and_epoch(replicated, 0, 0, 5)
    assert bench.partition.append_from_leader_nowait(replicated, 5)
    assert bench.log.log_end_offset == 1


async def test_a_lead_that_waited_for_the_log_ends_with_the_role() -> None:
    bench, threads = await _held_while_it_is_to_be_led(4)
    threads.run_now[0]()
    bench.partition.resign()
    threads.answers[0].set_result(None)
    assert bench.partition._beginning is not None
    await bench.partition._beginning
    assert not bench.partition.is_led
    assert bench.partition.leader is None


async def test_a_lead_that_found_no_thread_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "LEAD_AGAIN_SECONDS", 0.001)
    bench, threads = await _held_while_it_is_to_be_led(4)
    threads.answers[0].set_exception(RuntimeError("can't start new thread"))
    async with asyncio.timeout(30):
        while len(threads.run_now) < 2:  # noqa: ASYNC110 - a millisecond
            await asyncio.sleep(0.001)
    threads.run_now[1]()
    threads.answers[1].set_result(None)
    assert bench.partition._beginning is not None
    await bench.partition._beginning
    assert bench.append().last_offset == 0


def test_no_append_ever_lowers_the_epoch() -> None:
    log = open_log()
    append(log, record_batch([b"a"]), leader_epoch=4)
    log.fence()
    with pytest.raises(NotLeaderOrFollowerError):
        log.append_as_leader(Append(record_batch([b"b"]), 4), NOW)
    with pytest.raises(NotLeaderOrFollowerError, match="holds batches of epoch 4"):
        log.lead(3)
    replicated = record_batch([b"c"])
    set_offset_and_epoch(replicated, 0, 1, 3)
    with pytest.raises(NotLeaderOrFollowerError, match="leader epoch 3"):
        log.append_as_follower(replicated)
    log.lead(4)
    with pytest.raises(NotLeaderOrFollowerError, match="is led here"):
        log.append_as_follower(replicated)
    assert log.log_end_offset == 1
