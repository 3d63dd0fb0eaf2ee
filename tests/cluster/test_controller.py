"""The controller: its own start, one transaction per wish, everything fenced, nothing half done."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from tests.cluster.cluster_support import CLUSTER, ENDPOINT, running
from tests.cluster.tree_support import paths_below, subtree

from ottla.cluster.controller import (
    Controller,
    ControllerSettings,
    InconsistentClusterIdError,
    NewTopic,
    cluster_id_of,
    prepare_tree,
)
from ottla.cluster.decisions.configs import Alteration
from ottla.cluster.decisions.features import FeatureUpdate
from ottla.cluster.decisions.recovery import FoundPartition
from ottla.cluster.image import BROKERS, DEFAULT_ENTITY, GROUPS, TOPICS, ConfigResource
from ottla.cluster.nodes import (
    CHANGE_PREFIX,
    CHANGES,
    CONTROLLER_EPOCH,
    DELETED,
    Change,
    ChangeNode,
    ConfigNode,
    DeletedNode,
    DeletedTopic,
    StateNode,
)
from ottla.cluster.topic_writer import DELETED_AGE_MAX_MS
from ottla.cluster.tree import Create, Delete, SetData
from ottla.cluster.trees.memory import MemoryStore
from ottla.errors import CoordinatorLoadInProgressError, ErrorCode, KafkaStorageError, NotControllerError
from ottla.types import GROUP_METADATA_TOPIC, TopicPartition


async def test_a_tree_belongs_to_one_cluster() -> None:
    tree = MemoryStore().session()
    assert await cluster_id_of(tree) is None
    assert await prepare_tree(tree, CLUSTER) == CLUSTER
    assert await prepare_tree(tree, CLUSTER) == CLUSTER
    assert await cluster_id_of(tree) == CLUSTER
    with pytest.raises(InconsistentClusterIdError, match=f"cluster {CLUSTER}, the data directories to cluster other"):
        await prepare_tree(tree, "other")


async def test_a_broker_registers_and_becomes_controller() -> None:
    store = MemoryStore()
    async with running(store, node_id=7) as c:
        assert c.image.controller_id == 7
        assert c.image.brokers[7].endpoints == (ENDPOINT,)
        assert c.controller.epoch == 1
        assert (await c.tree.get(CONTROLLER_EPOCH)).data == b"1"
    async with running(store, node_id=7) as c:
        assert c.controller.epoch == 2


async def test_topics_are_made_with_their_settings_and_a_leader() -> None:
    async with running() as c:
        results = await c.controller.create_topics(
            [NewTopic(name="t", num_partitions=3, configs={"retention.ms": "5"}), NewTopic(name="bad/name")]
        )
        assert [result.error for result in results] == [ErrorCode.NONE, ErrorCode.INVALID_TOPIC_EXCEPTION]
        topic = c.image.topics["t"]
        assert results[0].topic_id == topic.topic_id
        assert [(p.replicas, p.isr, p.leader, p.leader_epoch) for p in topic.partitions] == [((1,), (1,), 1, 0)] * 3
        assert c.image.topic_config("t") == {"retention.ms": "5"}


async def test_validate_only_changes_nothing() -> None:
    async with running() as c:
        before = await subtree(c.tree)
        assert (await c.controller.create_topics([NewTopic(name="t")], validate_only=True))[0].error is ErrorCode.NONE
        await c.controller.create_topics([NewTopic(name="u")])
        await c.controller.delete_topics(["u"])
        before = await subtree(c.tree, "/brokers")
        assert (await c.controller.create_partitions("t", 5, validate_only=True)).error is not ErrorCode.NONE
        refusal = await c.controller.incremental_alter_configs(
            ConfigResource(BROKERS, DEFAULT_ENTITY), [Alteration("log.retention.ms", 0, "5")], validate_only=True
        )
        assert refusal is None
        assert c.image.config(BROKERS, DEFAULT_ENTITY) == {}
        assert await subtree(c.tree, "/brokers") == before


async def test_a_deleted_topic_leaves_only_the_note_that_it_is_deleted() -> None:
    async with running(partitions_per_multi=2) as c:
        before = [path for path in await paths_below(c.tree) if not path.startswith(CHANGES)]
        await c.controller.create_topics([NewTopic(name="t", num_partitions=5, configs={"flush.ms": "1"})])
        topic_id = c.image.topics["t"].topic_id
        results = await c.controller.delete_topics(["t", "none"])
        assert [r.error for r in results] == [ErrorCode.NONE, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
        after = [path for path in await paths_below(c.tree) if not path.startswith(CHANGES)]
        assert after == sorted([*before, DeletedNode.path(topic_id)])
        assert (await c.controller.create_topics([NewTopic(name="t")]))[0].error is ErrorCode.NONE


async def test_a_deletion_that_was_interrupted_is_finished() -> None:
    """`half_deleted_topic`: no partition of a topic that is half gone is led, and none comes back."""
    store = MemoryStore()
    async with running(store) as c:
        await c.controller.create_topics([NewTopic(name="t", num_partitions=3), NewTopic(name="u", num_partitions=3)])
        for name in ("t", "u"):
            data = DeletedNode.encode(DeletedTopic(name=name, timestamp_ms=c.clock.now_ms))
            await c.tree.multi([Create(DeletedNode.path(c.image.topics[name].topic_id), data)])
        await c.tree.multi([Delete(StateNode.path("t", 1)), Delete(StateNode.partition_path("t", 1))])
        # A name that is being freed can be given again: by the same controller, or ...
        assert (await c.controller.create_topics([NewTopic(name="t")]))[0].error is ErrorCode.TOPIC_ALREADY_EXISTS
        await c.tree.multi([Create(CHANGE_PREFIX, ChangeNode.encode(Change(topics=("t", "u")), 0), sequential=True)])
        await c.follower.applied(c.image.epoch + 1)
        assert c.image.topics == {}
        assert (await c.controller.create_topics([NewTopic(name="t")]))[0].error is ErrorCode.NONE
        assert len(c.image.topics["t"].partitions) == 1
    async with running(store) as c:  # ... by the next one
        assert list(c.image.topics) == ["t"]
        assert not any("/topics/u" in path for path in await paths_below(c.tree))


async def test_deletions_are_remembered_for_a_week() -> None:
    store = MemoryStore()
    async with running(store) as c:
        await c.controller.create_topics([NewTopic(name="t")])
        await c.controller.delete_topics(["t"])
        topics, fence = c.controller._topics, c.controller._office.fence
        await topics.finish_deletions(fence=fence())
        assert len(await c.tree.children(DELETED)) == 1
        c.clock.now_ms += DELETED_AGE_MAX_MS + 1
        await topics.finish_deletions(fence=fence())
        assert await c.tree.children(DELETED) == []


async def test_a_new_topic_does_not_inherit_settings_left_by_an_old_one() -> None:
    async with running() as c:
        await c.controller.create_topics([NewTopic(name="t", configs={"flush.ms": "1"})])
        # A release that crashed between two transactions might have left this.
        await c.controller.delete_topics(["t"])
        await c.tree.multi([_create_config("t", {"retention.ms": "1"})])
        await c.controller.create_topics([NewTopic(name="t")])
        assert await c.tree.get_many([ConfigNode.path(TOPICS, "t")]) == [None]


def _create_config(topic: str, config: dict[str, str]) -> Create:
    return Create(ConfigNode.path(TOPICS, topic), ConfigNode.encode(config))


async def test_very_many_partitions_are_several_transactions() -> None:
    async with running(partitions_per_multi=4) as c:
        await c.controller.create_topics([NewTopic(name="t", num_partitions=10)])
        await c.controller.create_partitions("t", 19)
        assert [p.leader for p in c.image.topics["t"].partitions] == [1] * 19


async def test_very_many_topics_are_several_transactions() -> None:
    async with running(partitions_per_multi=4) as c:
        before = c.image.epoch
        results = await c.controller.create_topics([NewTopic(name=f"t{n}", num_partitions=2) for n in range(7)])
        assert [result.error for result in results] == [ErrorCode.NONE] * 7
        assert c.image.epoch - before == 4
        await c.controller.delete_topics([f"t{n}" for n in range(7)])
        assert c.image.topics == {}


async def test_hundreds_of_topics_are_deleted_in_a_few_transactions() -> None:
    """A broker that had passed the request on waited in vain: each topic took seven round trips."""
    async with running() as c:
        names = [f"t{n}" for n in range(300)]
        await c.controller.create_topics([NewTopic(name=name, configs={"flush.ms": "1"}) for name in names])
        before = [path for path in await paths_below(c.tree) if path.startswith("/brokers/topics/")]
        assert len(before) == 300 * 4
        epoch = c.image.epoch
        await c.controller.delete_topics(names)
        assert c.image.epoch - epoch <= 10
        assert [
            path for path in await paths_below(c.tree) if path.startswith(("/brokers/topics/", "/config/topics/"))
        ] == []


async def test_leader_epochs_grow_after_a_crash_and_stay_after_a_clean_stop() -> None:
    store = MemoryStore()
    async with running(store) as c:
        await c.controller.create_topics([NewTopic(name="t")])
    async with running(store, start=False) as c:
        await c.controller.start([ENDPOINT], clean=True)
        assert c.image.topics["t"].partitions[0].leader_epoch == 0
    async with running(store, start=False) as c:
        await c.controller.start([ENDPOINT], clean=False)
        assert c.image.topics["t"].partitions[0].leader_epoch == 1


async def test_a_controller_that_lost_its_office_writes_nothing() -> None:
    async with running() as c:
        epoch = await c.tree.get(CONTROLLER_EPOCH)
        await c.controller.create_topics([NewTopic(name="t")])
        await c.tree.multi([SetData(CONTROLLER_EPOCH, b"99", epoch.stat.version)])
        with pytest.raises(NotControllerError):
            await c.controller.delete_topics(["t"])
        assert "t" in c.image.topics


async def test_a_tree_that_cannot_be_written_is_an_answer() -> None:
    async with running() as c:
        await c.tree.close()
        with pytest.raises(KafkaStorageError, match="the session has ended"):
            await c.controller.create_topics([NewTopic(name="t")])
        with pytest.raises(CoordinatorLoadInProgressError, match="no producer ids left"):
            await c.controller.allocate_producer_ids()
        assert (await c.controller.ensure_topic("t")).error is ErrorCode.KAFKA_STORAGE_ERROR


async def test_the_offsets_topic_fits_the_brokers_alive() -> None:
    async with running() as c:
        result = await c.controller.ensure_topic(GROUP_METADATA_TOPIC)
        assert (result.error, result.num_partitions, result.replication_factor) == (ErrorCode.NONE, 50, 1)
        assert c.image.topic_config(GROUP_METADATA_TOPIC) == {
            "cleanup.policy": "compact",
            "compression.type": "producer",
            "segment.bytes": "104857600",
        }


async def test_a_topic_is_ensured_once_however_many_ask() -> None:
    async with running() as c:
        results = await asyncio.gather(*[c.controller.ensure_topic("t") for _ in range(5)])
        assert {result.error for result in results} == {ErrorCode.NONE}
        assert len({result.topic_id for result in results}) == 1
        assert (await c.controller.ensure_topic("a/b")).error is ErrorCode.INVALID_TOPIC_EXCEPTION


async def test_producer_ids_are_never_given_out_twice() -> None:
    store = MemoryStore()
    async with running(store) as c:
        other = Controller(
            c.tree,
            c.follower,
            ControllerSettings(node_id=2),
            random=Random(1),
            secret_bytes=Random(1).randbytes,
            clock=c.clock,
        )
        blocks = await asyncio.gather(*[x.allocate_producer_ids() for x in (c.controller, other) * 3])
    async with running(store) as c:
        blocks.append(await c.controller.allocate_producer_ids())
    assert sorted(block.start for block in blocks) == list(range(0, 7000, 1000))


async def test_a_lost_tree_is_rebuilt_from_the_directories() -> None:
    found = [FoundPartition("t", p, b"t" * 16, leader_epoch=4) for p in (0, 2)]
    found += [FoundPartition("u", 0, b"u" * 16), FoundPartition(GROUP_METADATA_TOPIC, 0, b"o" * 16)]
    async with running(start=False) as c:
        notes = await c.controller.start([ENDPOINT], found=found)
        assert notes == (
            "t has no directory for partition 1: made again, empty",
            "the settings of topics were lost: rebuilt topics have retention.bytes=-1, retention.ms=-1 until you set them "
            "again",
        )
        assert c.image.topic_names == {b"t" * 16: "t", b"u" * 16: "u", b"o" * 16: GROUP_METADATA_TOPIC}
        # Nothing that was to be kept is deleted by a default, and offsets are compacted as ever.
        assert c.image.topic_config("t") == {"retention.bytes": "-1", "retention.ms": "-1"}
        assert c.image.topic_config(GROUP_METADATA_TOPIC)["cleanup.policy"] == "compact"
        assert [p.leader_epoch for p in c.image.topics["t"].partitions] == [5, 0, 5]
        # Ids given out before the loss are in the logs; a second owner would be taken for the first.
        assert (await c.controller.allocate_producer_ids()).start >= 1 << 32


async def test_rebuilt_topics_have_the_defaults_if_those_are_known_to_be_right() -> None:
    async with running(start=False) as c:
        assert (
            await c.controller.start([ENDPOINT], found=[FoundPartition("t", 0, b"t" * 16)], keep_everything=False) == ()
        )
        assert c.image.configs == {}


async def test_configurations_are_altered_and_emptied() -> None:
    async with running() as c:
        await c.controller.create_topics([NewTopic(name="t")])
        topic = ConfigResource(TOPICS, "t")
        assert await c.controller.incremental_alter_configs(topic, [Alteration("retention.ms", 0, "5")]) is None
        assert await c.controller.alter_configs(topic, [("flush.ms", "9")]) is None
        assert c.image.topic_config("t") == {"flush.ms": "9"}
        assert await c.controller.incremental_alter_configs(topic, [Alteration("flush.ms", 1, None)]) is None
        assert c.image.configs == {}
        assert await c.tree.get_many([ConfigNode.path(*topic)]) == [None]

        group = ConfigResource(GROUPS, "my/group *")
        await c.controller.incremental_alter_configs(group, [Alteration("consumer.session.timeout.ms", 0, "50000")])
        assert c.image.configs == {group: {"consumer.session.timeout.ms": "50000"}}


async def test_defaults_set_for_all_brokers_count_when_topics_are_checked() -> None:
    async with running() as c:
        await c.controller.create_topics([NewTopic(name="t")])
        default = ConfigResource(BROKERS, DEFAULT_ENTITY)
        await c.controller.incremental_alter_configs(
            default, [Alteration("log.cleaner.max.compaction.lag.ms", 0, "10")]
        )
        refusal = await c.controller.incremental_alter_configs(
            ConfigResource(TOPICS, "t"), [Alteration("min.compaction.lag.ms", 0, "11")]
        )
        assert refusal is not None
        assert (
            refusal.message == "conflict topic config setting min.compaction.lag.ms (11) > max.compaction.lag.ms (10)"
        )


async def test_partitions_are_updated_by_compare_and_set() -> None:
    async with running() as c:
        await c.controller.create_topics([NewTopic(name="t")])
        target = TopicPartition("t", 0)
        partition = c.image.topics["t"].partitions[0]
        wanted = partition._replace(leader_epoch=4)
        assert await c.controller.update_partitions({target: wanted}) == {target: ErrorCode.NONE}
        assert c.image.topics["t"].partitions[0] == wanted._replace(partition_epoch=1)
        assert await c.controller.update_partitions({target: wanted}) == {target: ErrorCode.INVALID_UPDATE_VERSION}


async def test_only_the_newest_changes_are_kept() -> None:
    async with running(changes_kept=40) as c:
        for index in range(160):
            await c.controller.create_topics([NewTopic(name=f"t{index}")])
        await c.controller._log.maybe_purge(now=True)
        numbers = [int(name[-10:]) for name in await c.tree.children(CHANGES)]
        assert numbers == list(range(c.image.epoch - 39, c.image.epoch + 1))


async def test_feature_levels_are_kept_in_the_tree_and_their_epoch_grows() -> None:
    store = MemoryStore()
    async with running(store) as c:
        assert (c.image.features["group.version"], c.image.features_epoch) == (1, 0)
        lower = [FeatureUpdate("group.version", 0, 2)]
        assert await c.controller.update_features(lower, validate_only=True) is None
        assert (c.image.features["group.version"], c.image.features_epoch) == (1, 0)
        assert await c.controller.update_features(lower) is None
        assert (c.image.features["group.version"], c.image.features_epoch) == (0, 1)
        assert c.deltas[-1][1].features_changed
        refusal = await c.controller.update_features([FeatureUpdate("group.version", 5)])
        assert refusal is not None
        assert refusal.error == ErrorCode.INVALID_UPDATE_VERSION
    async with running(store) as c:
        assert (c.image.features["group.version"], c.image.features_epoch) == (0, 1)
