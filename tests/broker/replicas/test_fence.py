"""A partition takes appends in the epoch in which this broker leads it, and in no other; resigned, it takes none."""

from __future__ import annotations

import asyncio
import threading

import pytest
from tests.broker.replicas.test_partition import Bench, batch
from tests.broker.story import ORDERS, fetch, log_of, produce, started
from tests.storage.log_support import NOW, append, open_log
from tests.storage.log_support import batch as record_batch

from ottla.broker.replicas.disk_pace import SLOW_MS
from ottla.errors import ErrorCode, NotLeaderOrFollowerError
from ottla.offload import ThreadOffload
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
