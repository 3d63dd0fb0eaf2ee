"""ShareGroupStates: how share partitions begin and end: what a group writes down around what the share coordinator does.

Each change is in two steps: written down here first, then done by the share coordinator, then written down as done
(`states`). Between the steps anything may happen; so the second step looks at what is still wanted, and the first can be
repeated: what is initializing for too long is asked for again with a heartbeat, what is deleting with the next deletion.
KIP-932; learned from Kafka's GroupMetadataManager (4.4).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ottla.broker.coordinators.groups.modern.assignor import Assignment
from ottla.broker.coordinators.groups.share import records
from ottla.broker.coordinators.groups.share.group import ShareGroup
from ottla.broker.coordinators.groups.share.states import PartitionStates, TopicPartitions, Topics, combined
from ottla.broker.coordinators.shard import CoordinatorRecord, Result
from ottla.broker.coordinators.timeline import Timeline
from ottla.errors import ErrorCode, GroupIdNotFoundError

if TYPE_CHECKING:
    from ottla.broker.coordinators.groups.group import ShardParts
    from ottla.broker.coordinators.shard import DeletedTopic

logger = logging.getLogger(__name__)


class Beginning(NamedTuple):
    """Share partitions that should begin. The group epoch is their state epoch, which fences readers of an older state.

    `offsets` says where; what is not in it begins where `share.auto.offset.reset` says, at the first fetch.
    """

    group_id: str
    state_epoch: int
    topics: Topics
    offsets: Mapping[tuple[bytes, int], int] = {}


class NewOffset(NamedTuple):
    """One partition of an AlterShareGroupOffsets."""

    topic: str
    partition: int
    offset: int


class OffsetDeletion(NamedTuple):
    """What a DeleteShareGroupOffsets comes to: the state to delete, and why not that of other topics."""

    topics: Topics
    refused: Mapping[str, ErrorCode]


class ShareGroupStates:
    """What the groups of one partition know of the states of their share partitions."""

    def __init__(self, parts: ShardParts) -> None:
        self._parts = parts
        self._retry_interval_ms = parts.config.share_initialize_retry_interval_ms
        #: When a topic of a group was last asked to begin. Not durable: after a restart it is asked for again.
        self._attempts: dict[tuple[str, bytes], int] = {}

    # ------------------------------------------------------------------- beginning

    def has_news(self, group: ShareGroup) -> bool:
        """Whether partitions of subscribed topics have begun that are not assigned, or the other way round."""
        if group.is_empty:
            return False
        now = (group.states.value, group.epochs.value)
        known = group.found_quiet
        if known is not None and known[0] is now[0] and known[1] is now[1]:
            return False  # every change of targets and subscriptions comes with an epoch
        if self._is_unassigned(group):
            return True
        group.found_quiet = now
        return False

    def _is_unassigned(self, group: ShareGroup) -> bool:
        initialized = group.states.value.initialized
        image = self._parts.image()
        subscribed = {
            topic_id: topic.partitions
            for topic_id, topic in initialized.items()
            if group.is_subscribed_to(topic.name) and image.topic_by_id(topic_id) is not None
        }
        if not subscribed:
            return False
        assigned: dict[bytes, set[int]] = {}
        for target in group.targets.values():
            for topic_id, partitions in target.items():
                assigned.setdefault(topic_id, set()).update(partitions)
        return any(assigned.get(topic_id, set()) != partitions for topic_id, partitions in subscribed.items())

    def begin(
        self, group: ShareGroup, epoch: int, names: Iterable[str], written: list[CoordinatorRecord], now_ms: int
    ) -> Beginning | None:
        """Write down which partitions of these topics should begin; None if all have, or are about to."""
        states = group.states.value
        image = self._parts.image()
        wanted: dict[bytes, TopicPartitions] = {}
        for name in sorted(names):
            topic = image.topics.get(name)
            if topic is None:
                continue
            known = states.initialized.get(topic.topic_id)
            begun = frozenset() if known is None else known.partitions
            under_way = states.initializing.get(topic.topic_id)
            attempted_ms = self._attempts.get((group.group_id, topic.topic_id))
            if under_way is not None and attempted_ms is not None and now_ms - attempted_ms < self._retry_interval_ms:
                begun |= under_way.partitions
            missing = frozenset(range(len(topic.partitions))) - begun
            if missing:
                wanted[topic.topic_id] = TopicPartitions(name, missing)
        if not wanted:
            return None
        for topic_id in wanted:
            self._attempts[group.group_id, topic_id] = now_ms
        after = self._to_initialize(states, wanted)
        if after != states:
            written.append(records.states(group.group_id, after))
        return Beginning(group.group_id, epoch, wanted)

    def _to_initialize(self, states: PartitionStates, topics: Topics) -> PartitionStates:
        known = self._parts.image().topics
        return states.to_initialize(
            topics, {topic_id: len(known[topic.name].partitions) for topic_id, topic in topics.items()}
        )

    def resumed(self, beginning: Beginning) -> Beginning:
        """Return what is left of it when it is its turn: the group may have been deleted, and made anew, meanwhile."""
        group = self._parts.groups.get_committed(beginning.group_id)
        epoch = group.epochs.committed.group_epoch if isinstance(group, ShareGroup) else beginning.state_epoch
        return beginning._replace(state_epoch=epoch, topics=self._still_wanted(beginning.group_id, beginning.topics))

    def _still_wanted(self, group_id: str, topics: Topics) -> Topics:
        group = self._parts.groups.get(group_id)
        if not isinstance(group, ShareGroup):
            return {}
        initializing = group.states.value.initializing
        found = {}
        for topic_id, topic in topics.items():
            left = topic.partitions & initializing[topic_id].partitions if topic_id in initializing else frozenset()
            if left:
                found[topic_id] = TopicPartitions(topic.name, left)
        return found

    def initialized(self, group_id: str, topics: Topics) -> Result[None]:
        """Share partitions have begun: they can be assigned now. What is not wanted any more is left alone."""
        wanted = self._still_wanted(group_id, topics)
        if not wanted:
            return Result(None)
        states = self._group(group_id).states.value.with_initialized(wanted)
        return Result(None, [records.states(group_id, states)])

    def not_initialized(self, group_id: str, topics: Topics) -> Result[None]:
        """Share partitions could not begin: the next heartbeat asks for them again.

        They stay written down: their state may be there all the same, and must go with the group.
        """
        for topic_id in topics:
            self._attempts.pop((group_id, topic_id), None)
        return Result(None)

    def forget_attempts(self, group_id: str | None = None) -> None:
        """Ask for what is initializing again with the next heartbeat, of one group or of all."""
        if group_id is None:
            self._attempts.clear()
        else:
            for key in [key for key in self._attempts if key[0] == group_id]:
                del self._attempts[key]

    # -------------------------------------------------------------------- offsets

    def alter_offsets(
        self, group_id: str, changes: Sequence[NewOffset], now_ms: int
    ) -> Result[tuple[Beginning, list[ErrorCode]]]:
        """Handle an AlterShareGroupOffsets: partitions begin anew where it says. Answers an error code per change.

        A group that does not exist comes into being.

        Raises:
            KafkaError: GROUP_ID_NOT_FOUND if it is a group of another type, NON_EMPTY_GROUP.
        """
        group = self._parts.groups.get(group_id)
        group = ShareGroup(group_id, Timeline(tracks=False)) if group is None else self._group(group_id)
        group.validate_delete()
        image = self._parts.image()
        codes = []
        offsets: dict[tuple[bytes, int], int] = {}
        topics: dict[bytes, TopicPartitions] = {}
        for change in changes:
            topic = image.topics.get(change.topic)
            if topic is None or not 0 <= change.partition < len(topic.partitions):
                codes.append(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
                continue
            codes.append(ErrorCode.NONE)
            offsets[topic.topic_id, change.partition] = change.offset
            known = topics.get(topic.topic_id) or TopicPartitions(change.topic, frozenset())
            topics[topic.topic_id] = known.plus((change.partition,))
        beginning = Beginning(group_id, group.epochs.value.group_epoch, topics, offsets)
        if not topics:
            return Result((beginning, codes))
        for topic_id in topics:
            self._attempts[group_id, topic_id] = now_ms
        return Result((beginning, codes), [records.states(group_id, self._to_initialize(group.states.value, topics))])

    def begin_deleting_offsets(self, group_id: str, names: Sequence[str]) -> Result[OffsetDeletion]:
        """Handle a DeleteShareGroupOffsets, first step: topics that have begun are written down as deleting.

        Raises:
            KafkaError: GROUP_ID_NOT_FOUND or NON_EMPTY_GROUP.
        """
        group = self._group(group_id)
        group.validate_delete()
        states = group.states.value
        image = self._parts.image()
        refused: dict[str, ErrorCode] = {}
        topics: dict[bytes, TopicPartitions] = {}
        for name in dict.fromkeys(names):
            topic = image.topics.get(name)
            if topic is None:
                refused[name] = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            elif topic.topic_id in states.deleting:
                # An earlier deletion that did not come to its end.
                topics[topic.topic_id] = TopicPartitions(name, frozenset(range(len(topic.partitions))))
            elif topic.topic_id in states.initialized:
                topics[topic.topic_id] = states.initialized[topic.topic_id]
            else:
                refused[name] = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        after = PartitionStates(
            states.initializing,
            {topic_id: topic for topic_id, topic in states.initialized.items() if topic_id not in topics},
            {**states.deleting, **{topic_id: topic.name for topic_id, topic in topics.items()}},
        )
        written = [records.states(group_id, after)] if after != states else []
        return Result(OffsetDeletion(topics, refused), written)

    def offsets_deleted(self, group_id: str, topic_ids: Collection[bytes]) -> Result[None]:
        """Handle a DeleteShareGroupOffsets, second step: the state of these topics is gone."""
        group = self._parts.groups.get(group_id)
        if not isinstance(group, ShareGroup):
            return Result(None)
        states = group.states.value
        deleting = {topic_id: name for topic_id, name in states.deleting.items() if topic_id not in topic_ids}
        if deleting == states.deleting:
            return Result(None)
        after = PartitionStates(states.initializing, states.initialized, deleting)
        return Result(None, [records.states(group_id, after)])

    # ------------------------------------------------------------------- deletions

    def begin_deleting(self, group_id: str) -> Result[Topics]:
        """Handle a DeleteGroups, first step: write down that all state of a share group is to go. Answers what that is.

        A group of another type, or of none, has no such state.

        Raises:
            NonEmptyGroupError: there are members.
        """
        group = self._parts.groups.get(group_id)
        if not isinstance(group, ShareGroup):
            return Result({})
        group.validate_delete()
        states = group.states.value
        candidates = combined(combined(states.initialized, states.initializing), self._left_over(states))
        if not candidates:
            return Result({})
        self.forget_attempts(group_id)
        after = PartitionStates(deleting={topic_id: topic.name for topic_id, topic in candidates.items()})
        return Result(candidates, [records.states(group_id, after)])

    def _left_over(self, states: PartitionStates) -> Topics:
        """What earlier deletions left over, of topics that exist."""
        found = {}
        for topic_id, name in states.deleting.items():
            topic = self._parts.image().topic_by_id(topic_id)
            if topic is not None:
                found[topic_id] = TopicPartitions(name, frozenset(range(len(topic.partitions))))
        return found

    def on_topics_deleted(self, topics: Sequence[DeletedTopic]) -> list[CoordinatorRecord]:
        """Forget topics that are gone; the share coordinator forgets their state by itself."""
        gone = {topic.topic_id for topic in topics}
        written = []
        for group in self._parts.groups.values():
            if isinstance(group, ShareGroup):
                states = group.states.value
                after = states.without_topics(gone)
                if after != states:
                    written.append(records.states(group.group_id, after))
        self._attempts = {key: at_ms for key, at_ms in self._attempts.items() if key[1] not in gone}
        return written

    # ---------------------------------------------------------------------- queries

    def initialized_partitions(self, group_id: str) -> Assignment:
        """Return which share partitions of a group have begun, as committed; nothing if there is no such group."""
        group = self._parts.groups.get_committed(group_id)
        return group.states.committed.assignable if isinstance(group, ShareGroup) else {}

    def _group(self, group_id: str) -> ShareGroup:
        group = self._parts.groups.get(group_id)
        if group is None:
            raise GroupIdNotFoundError(f"Share group {group_id} not found.")
        if not isinstance(group, ShareGroup):
            raise GroupIdNotFoundError(f"Group {group_id} is not a share group.")
        return group
