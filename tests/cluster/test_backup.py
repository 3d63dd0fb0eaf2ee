"""The coordination tree as a file, and what becomes of it when it is restored."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cluster.cluster_support import CLUSTER, running
from tests.support.broker_process import BrokerProcess

from ottla.cluster.backup import (
    EPOCHS_SKIPPED,
    IDS_SKIPPED,
    Backup,
    BadBackupError,
    RestoreRefusedError,
    backup_of,
    decode,
    encode,
    read_tree,
    restore,
    restored,
)
from ottla.cluster.controller import NewTopic
from ottla.cluster.decisions.registration import Identity, next_epoch
from ottla.cluster.image import NO_LEADER
from ottla.cluster.loading import load_image
from ottla.cluster.nodes import (
    CLUSTER_ID,
    CONTROLLER_EPOCH,
    PRODUCER_ID_BLOCK,
    BrokerEpochNode,
    ControllerEpochNode,
    ProducerIdBlockNode,
    TopicAssignment,
    TopicNode,
)
from ottla.cluster.tree import Create, Operation, Result, SetData
from ottla.cluster.trees.memory import MemoryStore, MemoryTree
from ottla.cluster.trees.sqlite_nodes import read_file

NODES = st.dictionaries(st.text(min_size=1), st.binary(max_size=30), max_size=8)


@given(nodes=NODES, taken_ms=st.integers(0, 2**50))
def test_what_is_written_is_read(nodes: dict[str, bytes], taken_ms: int) -> None:
    backup = Backup(cluster_id=CLUSTER, taken_ms=taken_ms, nodes=nodes)
    assert decode(encode(backup)) == backup


@given(nodes=NODES.filter(bool), data=st.data())
def test_a_file_that_is_damaged_or_cut_off_is_refused(nodes: dict[str, bytes], data: st.DataObject) -> None:
    backup = Backup(cluster_id=CLUSTER, taken_ms=5, nodes=nodes)
    whole = b"".join(encode(backup))
    place = data.draw(st.integers(0, len(whole) - 2))
    if data.draw(st.booleans()):
        spoilt = whole[:place]
    else:
        spoilt = whole[:place] + bytes([whole[place] ^ data.draw(st.integers(1, 255))]) + whole[place + 1 :]
    try:
        found = decode(spoilt.splitlines(keepends=True))
    except BadBackupError:
        return
    assert found == backup


class Torn(MemoryTree):
    """A session in which the third transaction fails."""

    count = 0

    async def multi(self, operations: list[Operation] | tuple[Operation, ...]) -> tuple[Result, ...]:  # type: ignore[override]
        self.count += 1
        if self.count == 3:
            raise RuntimeError("torn")
        return await super().multi(operations)


async def some_cluster(store: MemoryStore) -> Backup:
    """One broker, and a topic whose second replicas are on another one that left the ISR."""
    async with running(store) as cluster:
        new = NewTopic(name="orders", num_partitions=3, replication_factor=1, configs={"retention.ms": "77"})
        (made,) = await cluster.controller.create_topics([new])
        topic = await cluster.tree.get(TopicNode.path("orders"))
        two = TopicAssignment(topic_id=made.topic_id, partitions=((1, 2),) * 3)
        await cluster.tree.multi(
            [
                SetData(TopicNode.path("orders"), TopicNode.encode(two), topic.stat.version),
                Create(PRODUCER_ID_BLOCK, ProducerIdBlockNode.encode(1, range(1000, 2000))),
            ]
        )
        return backup_of(await read_tree(cluster.tree), 1)


async def test_restored_leaders_and_ids_are_above_all_that_were_given_out() -> None:
    backup = await some_cluster(MemoryStore())
    target = MemoryStore().session()
    await restore(target, restored(backup))
    image = await load_image(target)
    assert image.cluster_id == CLUSTER
    assert image.topic_config("orders") == {"retention.ms": "77"}
    assert not image.brokers
    for partition in image.topics["orders"].partitions:
        assert partition.leader == NO_LEADER
        assert partition.leader_epoch >= EPOCHS_SKIPPED
        assert sorted(partition.isr) == sorted(partition.replicas) == [1, 2]
    assert ProducerIdBlockNode.decode((await target.get(PRODUCER_ID_BLOCK)).data).start == 1000 + IDS_SKIPPED
    assert ControllerEpochNode.decode((await target.get(CONTROLLER_EPOCH)).data) > EPOCHS_SKIPPED
    assert await target.children("/changes") == []


async def test_no_registration_continues_what_was_in_sync_before_the_backup() -> None:
    """Not even one of directories that were closed cleanly: they may have been cut off, or left the ISR, since."""
    nodes = restored(await some_cluster(MemoryStore()))
    stored = BrokerEpochNode.decode(1, nodes[BrokerEpochNode.path(1)])
    clean = Identity(node_id=1, endpoints=(), directories=stored.directories, was_clean=True)
    _, registered = next_epoch(clean, stored, 0)
    target = MemoryStore().session()
    await restore(target, nodes)
    for partition in (await load_image(target)).topics["orders"].partitions:
        assert registered.continues > partition.admitted()[1]


async def test_a_restore_that_was_interrupted_can_be_repeated_and_has_no_cluster_until_then() -> None:
    backup = await some_cluster(MemoryStore())
    nodes = {f"/many{number:03}": b"x" for number in range(500)} | restored(backup)
    store = MemoryStore()
    torn = store.session()
    torn.__class__ = Torn
    with pytest.raises(RuntimeError, match="torn"):
        await restore(torn, nodes)
    target = store.session()
    assert (await target.get_many([CLUSTER_ID])) == [None]
    await restore(target, nodes)
    assert {p: (await target.get(p)).data for p in nodes} == nodes


async def test_a_tree_with_a_cluster_is_not_restored_into() -> None:
    backup, store = await some_cluster(MemoryStore()), MemoryStore()
    await some_cluster(store)
    with pytest.raises(RestoreRefusedError, match="there is a cluster already"):
        await restore(store.session(), restored(backup))


def test_a_file_is_read_while_its_broker_runs(tmp_path: Path) -> None:
    with BrokerProcess(data_dir=tmp_path):
        assert CLUSTER_ID in read_file(str(tmp_path / "ottla.sqlite"))
