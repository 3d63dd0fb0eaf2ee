"""partition.metadata names another topic id than the coordination tree: never an empty log in the place of the records."""

from __future__ import annotations

import pytest
from tests.broker.story import ORDERS, fetch, log_of, produce, started
from tests.broker.test_damaged_log import page

from ottla.errors import ErrorCode
from ottla.storage.checkpoints import encode_partition_metadata
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop, run_virtual
from ottla.types import uuid_to_text

OTHER_ID = bytes(range(16))
METADATA = "data/orders-0/partition.metadata"
CHECKPOINTS = ("recovery-point-offset-checkpoint", "replication-offset-checkpoint", "log-start-offset-checkpoint")


async def with_other_id(loop: VirtualLoop) -> tuple[SimulatedBroker, bytes]:
    """Return a broker that was stopped with 5 records, 2 of them deleted, had another topic id written, and runs again."""
    node, client = await started(loop)
    for _ in range(5):
        assert await produce(node, client) == ErrorCode.NONE
    log_of(node).advance_log_start(2)
    topic_id = log_of(node).topic_id
    client.close()
    await node.stop()
    node.files.write_atomic(METADATA, encode_partition_metadata(OTHER_ID))
    await node.start()
    return node, topic_id


def contents(node: SimulatedBroker) -> dict[str, bytes]:
    names = [f"data/orders-0/{name}" for name in node.files.listdir("data/orders-0")]
    return {name: node.files.read_bytes(name) for name in [*names, *(f"data/{name}" for name in CHECKPOINTS)]}


def test_the_partition_is_refused_its_files_stay_and_everybody_who_looks_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def story(loop: VirtualLoop) -> None:
        node, topic_id = await with_other_id(loop)
        client = await node.connect()
        assert (await fetch(client)).error_code == ErrorCode.KAFKA_STORAGE_ERROR
        assert await produce(node, client) == ErrorCode.KAFKA_STORAGE_ERROR
        advice = f"write 'topic_id: {uuid_to_text(topic_id)}' into that file"
        assert METADATA in caplog.text
        assert uuid_to_text(OTHER_ID) in caplog.text
        assert advice in caplog.text
        front = (await page(node, "/"))[1].replace("&#x27;", "'")
        assert advice in front
        metrics = (await page(node, "/metrics"))[1]
        assert 'ottla_log_unreadable_bytes{partition="0",topic="orders"} -1' in metrics
        assert "ottla_log_unreadable_partitions 1\n" in metrics
        assert not [name for name in node.files.listdir("data") if "-stray" in name or "-delete" in name]
        client.close()
        await node.stop()

    run_virtual(1, story)


@pytest.mark.parametrize("starts", [1, 2])
def test_with_the_right_id_everything_is_as_it_was(starts: int) -> None:
    """What the checkpoints say of the partition outlives the starts without it: deleted records do not come back."""

    async def story(loop: VirtualLoop) -> None:
        node, topic_id = await with_other_id(loop)
        await node.stop()
        before = contents(node)
        for _ in range(starts - 1):
            await node.start()
            await node.stop()
        assert contents(node) == before
        node.files.write_atomic(METADATA, encode_partition_metadata(topic_id))
        broker = await node.start()
        log = log_of(node)
        assert (log.log_start_offset, log.high_watermark, log.log_end_offset) == (2, 5, 5)
        assert not log.recovered_bytes
        assert not broker.logs.unusable
        client = await node.connect()
        assert await produce(node, client) == ErrorCode.NONE
        assert log.log_end_offset == 6
        client.close()
        await node.stop()

    run_virtual(1, story)


def test_when_the_topic_is_deleted_the_files_are_set_aside() -> None:
    async def story(loop: VirtualLoop) -> None:
        node, _ = await with_other_id(loop)
        records = node.files.read_bytes(f"data/orders-0/{0:020d}.log")
        assert node.broker is not None
        await node.broker.controller.delete_topics(["orders"])
        await node.broker.controller.ensure_topic("orders")
        await node.broker.replicas.settled()
        (kept,) = [name for name in node.files.listdir("data") if name.endswith("-stray")]
        assert node.files.read_bytes(f"data/{kept}/{0:020d}.log") == records
        assert log_of(node).log_end_offset == 0
        assert ORDERS not in node.broker.logs.unusable
        await node.stop()

    run_virtual(1, story)


def test_a_directory_whose_topic_is_known_to_be_deleted_is_deleted() -> None:
    """The directory was away while its topic was deleted and made again."""

    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop)
        assert await produce(node, client) == ErrorCode.NONE
        client.close()
        old = log_of(node).topic_id
        broker = node.broker
        assert broker is not None
        await broker.controller.delete_topics(["orders"])
        await broker.controller.ensure_topic("orders")
        await broker.replicas.settled()
        await node.stop()
        node.files.write_atomic(METADATA, encode_partition_metadata(old))
        broker = await node.start()
        assert not broker.logs.unusable
        assert log_of(node).topic_id == broker.image.topics["orders"].topic_id != old
        assert not [name for name in node.files.listdir("data") if name.endswith("-stray")]
        await node.stop()

    run_virtual(1, story)
