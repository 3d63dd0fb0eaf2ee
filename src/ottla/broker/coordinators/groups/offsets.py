"""Committed offsets: commit, fetch, delete, expire.

Durable state, changed by `replay` only, on the shard's timeline: fetching reads what is committed, deciding sees everything.
Offsets committed in a transaction wait beside the others until its marker (KIP-447): then they take effect, or vanish; if
an offset was committed outside the transaction after it, that one stays, in the order of the log.

Expiry (KIP-211): while a group of members is Empty, its offsets go `offsets.retention.minutes` after it became so; while
it is Stable, those of topics without subscribers, that long after their commit; offsets of a simple group, that long after
their commit. Other types of groups say themselves what holds (`Group.offset_expiry`). An offset with its own expiry
(OffsetCommit v2-4) goes then. A group left without offsets and members goes too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ottla.broker.coordinators.groups import records
from ottla.broker.coordinators.groups.group import Group, OffsetExpiry
from ottla.broker.coordinators.groups.records import NO_TIMESTAMP, CommittedOffset
from ottla.broker.coordinators.shard import NO_PRODUCER_ID, CoordinatorRecord, DeletedTopic
from ottla.broker.coordinators.timeline import Timeline, TimelineDict
from ottla.errors import ErrorCode
from ottla.protocol.messages.group_records import OffsetCommitKey, OffsetCommitValue
from ottla.types import ZERO_UUID

if TYPE_CHECKING:
    from ottla.broker.coordinators.groups.config import GroupConfig

#: OffsetCommit v2-4: keep as long as the broker says.
DEFAULT_RETENTION_MS = -1

PartitionKey = tuple[str, int]
_Offsets = TimelineDict[PartitionKey, CommittedOffset]


class PartitionCommit(NamedTuple):
    """One partition of an OffsetCommit."""

    topic: str
    topic_id: bytes
    partition: int
    offset: int
    leader_epoch: int
    metadata: str | None


class FetchedOffset(NamedTuple):
    """What OffsetFetch knows of one partition; offset -1: nothing committed."""

    offset: int = -1
    leader_epoch: int = -1
    metadata: str = ""
    error_code: ErrorCode = ErrorCode.NONE


_NOT_COMMITTED = FetchedOffset()
_UNSTABLE = FetchedOffset(error_code=ErrorCode.UNSTABLE_OFFSET_COMMIT)


class Offsets:
    """The committed offsets of the groups of one partition."""

    def __init__(self, timeline: Timeline, config: GroupConfig) -> None:
        self._timeline = timeline
        self._config = config
        self._by_group: dict[str, _Offsets] = {}
        #: producer id -> group -> offsets that wait for the marker of the transaction.
        self._pending: TimelineDict[int, dict[str, dict[PartitionKey, CommittedOffset]]] = TimelineDict(timeline)

    def __len__(self) -> int:
        return sum(len(offsets) for offsets in self._by_group.values())

    def snapshot(self) -> dict[tuple[str, str, int], CommittedOffset]:
        """Return everything that is in force, for metrics and tests."""
        return {
            (group_id, topic, partition): committed
            for group_id, offsets in self._by_group.items()
            for (topic, partition), committed in offsets.items()
        }

    # ----------------------------------------------------------------- commit

    def commit(
        self, group_id: str, commits: Sequence[PartitionCommit], retention_ms: int, now_ms: int
    ) -> tuple[list[CoordinatorRecord], list[ErrorCode]]:
        """Return the records of a commit, and an error code per partition of it."""
        # A time the record can hold: Kafka's sum overflows, and what was to be kept forever is expired at once.
        expires_ms = NO_TIMESTAMP if retention_ms == DEFAULT_RETENTION_MS else min(now_ms + retention_ms, 2**63 - 1)
        limit = self._config.offset_metadata_size_max
        written: list[CoordinatorRecord] = []
        codes: list[ErrorCode] = []
        for topic, topic_id, partition, offset, leader_epoch, metadata in commits:
            metadata = metadata or ""
            if len(metadata) > limit or (not metadata.isascii() and _utf16_length(metadata) > limit):
                codes.append(ErrorCode.OFFSET_METADATA_TOO_LARGE)
                continue
            codes.append(ErrorCode.NONE)
            written.append(
                records.offset_commit(
                    group_id,
                    topic,
                    partition,
                    CommittedOffset(offset, leader_epoch, metadata, now_ms, expires_ms, topic_id),
                )
            )
        return written, codes

    # ------------------------------------------------------------------ fetch

    def fetch(
        self, group_id: str, topics: Sequence[tuple[str, bytes, Sequence[int]]], *, stable: bool
    ) -> list[list[FetchedOffset]]:
        """Return what is committed for these partitions.

        `stable` asks for nothing that a pending transaction may change; the caller then also waits for what is being
        written. An offset committed for another topic of the same name (another id) does not count.
        """
        offsets = self._by_group.get(group_id)
        pending = self._pending_partitions(group_id) if stable else ()
        found: list[list[FetchedOffset]] = []
        for topic, topic_id, partitions in topics:
            row: list[FetchedOffset] = []
            for partition in partitions:
                key = (topic, partition)
                if key in pending:
                    row.append(_UNSTABLE)
                    continue
                committed = None
                if offsets is not None:
                    committed = offsets.get(key) if stable else offsets.get_committed(key)
                if committed is None or _is_other_topic(committed.topic_id, topic_id):
                    row.append(_NOT_COMMITTED)
                else:
                    row.append(FetchedOffset(committed.offset, committed.leader_epoch, committed.metadata))
            found.append(row)
        return found

    def fetch_all(self, group_id: str, *, stable: bool) -> dict[str, dict[int, FetchedOffset]]:
        """Return everything that is committed for the group, by topic and partition."""
        offsets = self._by_group.get(group_id)
        if offsets is None:
            return {}
        pending = self._pending_partitions(group_id) if stable else ()
        found: dict[str, dict[int, FetchedOffset]] = {}
        for key, committed in offsets.items() if stable else offsets.items_committed():
            topic, partition = key
            found.setdefault(topic, {})[partition] = (
                _UNSTABLE
                if key in pending
                else FetchedOffset(committed.offset, committed.leader_epoch, committed.metadata)
            )
        return found

    # ----------------------------------------------------------------- delete

    def delete(self, group_id: str, partitions: Sequence[PartitionKey]) -> list[CoordinatorRecord]:
        """Return the tombstones for these partitions, where something is committed or pending."""
        offsets = self._by_group.get(group_id, ())
        pending = self._pending_partitions(group_id)
        return [
            records.offset_commit_tombstone(group_id, *key) for key in partitions if key in offsets or key in pending
        ]

    def delete_all(self, group_id: str) -> list[CoordinatorRecord]:
        """Return the tombstones for everything the group has."""
        keys: dict[PartitionKey, None] = dict.fromkeys(self._by_group.get(group_id, ()))
        keys.update(self._pending_partitions(group_id))
        return [records.offset_commit_tombstone(group_id, *key) for key in keys]

    def on_topics_deleted(self, topics: Sequence[DeletedTopic]) -> list[CoordinatorRecord]:
        """Return the tombstones for everything that was committed for these topics (not for later ones of their name)."""
        deleted = {topic.name: topic.topic_id for topic in topics}

        def is_gone(key: PartitionKey, committed: CommittedOffset) -> bool:
            return key[0] in deleted and committed.topic_id in (ZERO_UUID, deleted[key[0]])

        gone: dict[tuple[str, PartitionKey], None] = {}
        for group_id, offsets in self._by_group.items():
            gone.update(((group_id, key), None) for key, committed in offsets.items() if is_gone(key, committed))
        for groups in self._pending.values():
            for group_id, pending in groups.items():
                gone.update(((group_id, key), None) for key, committed in pending.items() if is_gone(key, committed))
        return [records.offset_commit_tombstone(group_id, *key) for group_id, key in gone]

    # ----------------------------------------------------------------- expiry

    def expire(self, group: Group, now_ms: int) -> tuple[list[CoordinatorRecord], bool]:
        """Return the tombstones of what has expired, and whether the group then has no offsets at all."""
        offsets = self._by_group.get(group.group_id)
        has_pending = bool(self._pending_partitions(group.group_id))
        if offsets is None or not len(offsets):
            return [], not has_pending
        expiry = group.offset_expiry
        if expiry is OffsetExpiry.NEVER:
            return [], False
        retention_ms = self._config.offsets_retention_ms
        pending = self._pending_partitions(group.group_id)
        expired: list[CoordinatorRecord] = []
        for key, committed in offsets.items():
            if group.is_subscribed_to(key[0]) or key in pending:
                continue
            if committed.expire_timestamp_ms != NO_TIMESTAMP:
                is_expired = now_ms >= committed.expire_timestamp_ms
            else:
                is_since_empty = expiry is OffsetExpiry.SINCE_EMPTY
                since_ms = group.empty_since_ms if is_since_empty else committed.commit_timestamp_ms
                is_expired = now_ms - since_ms >= retention_ms
            if is_expired:
                expired.append(records.offset_commit_tombstone(group.group_id, *key))
        return expired, len(expired) == len(offsets) and not has_pending

    # ----------------------------------------------------------------- replay

    def replay(
        self, record_offset: int, producer_id: int, key: OffsetCommitKey, value: OffsetCommitValue | None
    ) -> None:
        """Apply a commit (in a transaction, if there is a producer id) or its tombstone."""
        partition = (key.topic, key.partition)
        if value is None:
            offsets = self._by_group.get(key.group)
            if offsets is not None:
                offsets.pop(partition)
            self._drop_pending(key.group, partition)
            return
        committed = CommittedOffset(
            value.offset,
            value.leader_epoch,
            value.metadata,
            value.commit_timestamp,
            value.expire_timestamp,
            value.topic_id,
            record_offset,
        )
        if producer_id == NO_PRODUCER_ID:
            self._group_offsets(key.group)[partition] = committed
            return
        groups = dict(self._pending.get(producer_id) or {})
        groups[key.group] = {**groups.get(key.group, {}), partition: committed}
        self._pending[producer_id] = groups

    def replay_end_transaction(self, producer_id: int, committed: bool) -> None:
        """A transaction has ended: its offsets take effect, or vanish."""
        groups = self._pending.pop(producer_id)
        if groups is None or not committed:
            return
        for group_id, pending in groups.items():
            offsets = self._group_offsets(group_id)
            for partition, offset in pending.items():
                current = offsets.get(partition)
                if current is None or offset.record_offset > current.record_offset:
                    offsets[partition] = offset

    def _group_offsets(self, group_id: str) -> _Offsets:
        offsets = self._by_group.get(group_id)
        if offsets is None:
            offsets = self._by_group[group_id] = TimelineDict(self._timeline)
        return offsets

    def forget_unused(self, group_id: str) -> None:
        """Let go of the table of a group that has no offsets, in either view."""
        offsets = self._by_group.get(group_id)
        if offsets is not None and offsets.is_unused:
            del self._by_group[group_id]

    def forget_all_unused(self) -> None:
        """Let go of every table that is empty in both views."""
        for group_id in [group_id for group_id, offsets in self._by_group.items() if offsets.is_unused]:
            del self._by_group[group_id]

    def _drop_pending(self, group_id: str, partition: PartitionKey) -> None:
        for producer_id, groups in self._pending.items():
            if partition in groups.get(group_id, ()):
                rest = {key: value for key, value in groups[group_id].items() if key != partition}
                self._pending[producer_id] = {**groups, group_id: rest}

    def _pending_partitions(self, group_id: str) -> dict[PartitionKey, None]:
        if not len(self._pending):
            return {}
        return {key: None for groups in self._pending.values() for key in groups.get(group_id, ())}


def _utf16_length(text: str) -> int:
    return len(text.encode("utf-16-be", "surrogatepass")) // 2


def _is_other_topic(committed_id: bytes, asked_id: bytes) -> bool:
    return committed_id != ZERO_UUID and asked_id != ZERO_UUID and committed_id != asked_id
