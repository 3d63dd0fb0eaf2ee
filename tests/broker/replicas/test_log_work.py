"""Roles change at once; logs are made and deleted beside them, and a disk that hangs holds up only what lies on it."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.broker.story import ORDERS, log_of, produce, started

from ottla.broker.replicas.log_work import LogWork
from ottla.cluster.decisions.configs import Alteration
from ottla.cluster.image import TOPICS, ConfigResource
from ottla.errors import ErrorCode
from ottla.offload import InlineOffload
from ottla.testing.virtual_loop import VirtualLoop, run_virtual


class HangingOffload(InlineOffload):
    """Runs nothing before it is let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def run(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        await self.go.wait()
        return function(*args, **kwargs)


def test_a_log_creation_that_hangs_holds_up_neither_the_image_nor_the_controller() -> None:
    """The finding: one creation that hung froze the image for everybody, a change of leader was not applied in 661 s."""

    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop)
        broker = node.broker
        assert broker is not None
        assert await produce(node, client) == ErrorCode.NONE
        hanging = HangingOffload()
        directory = next(iter(broker.logs.directories))
        broker.replicas._work[directory] = LogWork(hanging)
        creation = asyncio.create_task(broker.controller.ensure_topic("new"))
        await asyncio.sleep(1)
        assert not creation.done()
        assert "new" in broker.image.topics
        assert broker.replicas.partition("new", 0) is None
        assert broker.replicas.error("new", 0) == ErrorCode.NOT_LEADER_OR_FOLLOWER
        # Other topics are served, changed and led elsewhere meanwhile.
        assert await produce(node, client) == ErrorCode.NONE
        changed = await broker.controller.incremental_alter_configs(
            ConfigResource(TOPICS, "orders"), [Alteration("retention.ms", 0, "1234567")]
        )
        assert changed is None
        assert log_of(node).config.retention_ms == 1_234_567
        await broker.controller.stop()  # else it elects this broker again: no broker 7 is registered
        now = broker.image.partition(ORDERS)
        assert now is not None
        elsewhere = now._replace(leader=7, leader_epoch=now.leader_epoch + 1, isr=(7,), isr_epochs=(0,))
        await broker.controller.update_partitions({ORDERS: elsewhere})
        await asyncio.sleep(1)
        assert broker.replicas.partition(*ORDERS) is None
        # The answer waits no longer than ten seconds, and the topic is led when its disk answers.
        await asyncio.sleep(10)
        assert creation.done()
        hanging.go.set()
        await broker.replicas.settled(["new"])
        assert broker.replicas.partition("new", 0) is not None
        await node.stop()

    run_virtual(1, story)


def test_a_topic_that_is_deleted_and_made_again_gets_a_new_log_though_the_deletion_is_slow() -> None:
    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop)
        broker = node.broker
        assert broker is not None
        assert await produce(node, client) == ErrorCode.NONE
        directory = next(iter(broker.logs.directories))
        hanging = HangingOffload()
        broker.replicas._work[directory] = LogWork(hanging)
        await broker.controller.delete_topics(["orders"])
        assert broker.replicas.partition(*ORDERS) is None
        assert await produce(node, client) != ErrorCode.NONE
        creation = asyncio.create_task(broker.controller.ensure_topic("orders"))
        await asyncio.sleep(1)
        hanging.go.set()
        assert (await creation).error == ErrorCode.NONE
        partition = broker.replicas.partition(*ORDERS)
        assert partition is not None
        assert (partition.log.log_end_offset, partition.topic_id) == (0, broker.image.topics["orders"].topic_id)
        await node.stop()

    run_virtual(1, story)


async def test_jobs_of_a_directory_run_in_order_and_each_is_reported() -> None:
    hanging = HangingOffload()
    work = LogWork(hanging)
    done: list[object] = []

    def fail() -> None:
        raise OSError("no")

    work.add(lambda: done.append(1), lambda error: done.append(("first", error)))
    work.add(fail, lambda error: done.append(("second", str(error))))
    hanging.go.set()
    for _ in range(3):
        await asyncio.sleep(0)
    work.add(lambda: done.append(3), lambda error: done.append(("third", error)))
    for _ in range(3):
        await asyncio.sleep(0)
    assert done == [1, ("first", None), ("second", "no"), 3, ("third", None)]
    await work.stop()
