"""MirrorCheckpointConnector: where groups of the source would go on in the target.

A group's offset is translated by the pairs that MirrorSourceConnector has written down; what has no pair at or before it is
left out. `sync.group.offsets.enabled` also commits the translated offsets in the target, for groups that have no member
there, and never behind what they have committed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

from ottla import Admin, TopicPartition
from ottla.connect.config_def import ConfigDef
from ottla.connect.connectors import SourceConnector, SourceTask
from ottla.connect.distributed.topics import LogRecord, TopicLog
from ottla.connect.errors import RetriableError
from ottla.connect.library.mirror.formats import Checkpoint, read_offset_sync
from ottla.connect.library.mirror.settings import (
    CLUSTERS,
    GROUPS,
    TOPICS,
    Names,
    check_converters,
    client_of,
    enabled,
    interval,
    policy_of,
)
from ottla.connect.library.mirror.syncs import Pair, Translation
from ottla.connect.library.mirror.topics import begin, make_own_topic, own_replicas
from ottla.connect.records import SourceRecord
from ottla.connect.schema import BYTES
from ottla.errors import KafkaError

log = logging.getLogger(__name__)
#: Groups of the target whose offsets may be set: nobody reads for them.
_WITHOUT_MEMBERS = ("empty", "dead", "")


class MirrorCheckpointTask(SourceTask):
    """Translates the offsets of its share of the groups."""

    def start(self) -> None:
        values, config = self.values, self.config
        self._source, self._target = values["source.cluster.alias"], values["target.cluster.alias"]
        self._number, self._count = int(config.get("task.number", 0)), int(config.get("task.count", 1))
        self._policy = policy_of(values)
        self._groups = Names(values["groups"], values["groups.exclude"])
        self._topics = Names(values["topics"], values["topics.exclude"])
        self._checkpoints_topic = self._policy.checkpoints_topic(self._source)
        self._translation = Translation()
        self._translating = threading.Lock()
        self._due = self._sync_due = 0.0
        #: What was said last of each group and partition.
        self._said: dict[tuple[str, str, int], tuple[int, int]] = {}
        begin(self.context, self._begin, self.stop)

    def _begin(self) -> None:
        values, config = self.values, self.config
        self._source_admin = Admin(
            values["source.cluster.bootstrap.servers"], config=client_of(config, "source", "admin")
        )
        self._target_admin = Admin(
            values["target.cluster.bootstrap.servers"], config=client_of(config, "target", "admin")
        )
        make_own_topic(self._target_admin, self._checkpoints_topic, values["checkpoints.topic.replication.factor"])
        where = values["offset-syncs.topic.location"]
        keeper, of = (self._source_admin, self._target) if where == "source" else (self._target_admin, self._source)
        syncs = self._policy.offset_syncs_topic(of)
        make_own_topic(keeper, syncs, values["offset-syncs.topic.replication.factor"])
        client = {"bootstrap.servers": ",".join(values[f"{where}.cluster.bootstrap.servers"])}
        self._log = TopicLog(syncs, 1, client | client_of(config, where, "consumer"), self._take)
        self._log.start()
        self._log.read_to_end()

    def stop(self) -> None:
        if hasattr(self, "_log"):
            self._log.stop()
        for client in ("_source_admin", "_target_admin"):
            if hasattr(self, client):
                getattr(self, client).close()

    def _take(self, records: list[LogRecord]) -> None:
        for record in records:
            if record.key is None or record.value is None:
                continue
            sync = read_offset_sync(record.key, record.value)
            with self._translating:
                is_void = self._translation.add(sync.topic, sync.partition, Pair(sync.upstream, sync.downstream))
            if is_void:
                log.warning(
                    "%s-%d begins anew in %s or %s: offsets of before are translated no more",
                    sync.topic, sync.partition, self._source, self._target,
                )  # fmt: skip

    def poll(self) -> Sequence[SourceRecord] | None:
        if self._log.failure is not None:
            raise self._log.failure
        wait = self._due - time.monotonic()
        if wait > 0:
            self.context.wait(min(wait, 1.0))
            return None
        try:
            found = self._checkpoints()
            if self.values["sync.group.offsets.enabled"] and time.monotonic() >= self._sync_due:
                self._commit_in_target(found)
                self._sync_due = time.monotonic() + self.values["sync.group.offsets.interval.seconds"]
        except KafkaError as error:
            if not error.retriable:
                raise
            raise RetriableError(str(error)) from error
        self._due = time.monotonic() + self.values["emit.checkpoints.interval.seconds"]
        news = [each for each in found if self._said.get(each[:3]) != (each.upstream, each.downstream)]
        self._said = {each[:3]: (each.upstream, each.downstream) for each in found}
        return [self._record(checkpoint) for checkpoint in news] or None

    def _checkpoints(self) -> list[Checkpoint]:
        groups = [
            group.group_id
            for group in self._source_admin.list_groups()
            if group.type in ("classic", "consumer", "")
            and group.group_id in self._groups
            and crc32(group.group_id.encode()) % self._count == self._number
        ]
        found = []
        for group in groups:
            for where, committed in self._source_admin.list_group_offsets(group).items():
                if where.topic not in self._topics:
                    continue
                with self._translating:  # pairs are added in the thread of their log
                    downstream = self._translation.downstream(where.topic, where.partition, committed.offset)
                if downstream is not None:
                    remote = self._policy.remote_topic(self._source, where.topic)
                    found.append(
                        Checkpoint(
                            group, remote, where.partition, committed.offset, downstream, committed.metadata or ""
                        )
                    )
        return found

    def _record(self, checkpoint: Checkpoint) -> SourceRecord:
        return SourceRecord(
            topic=self._checkpoints_topic,
            partition=0,
            key_schema=BYTES,
            key=checkpoint.key(),
            value_schema=BYTES,
            value=checkpoint.value(),
            timestamp=int(time.time() * 1000),
            source_partition={
                "group": checkpoint.group, "partition": checkpoint.partition, "topic": checkpoint.topic,
            },
            source_offset={"offset": 0},
        )  # fmt: skip

    def _commit_in_target(self, checkpoints: Sequence[Checkpoint]) -> None:
        by_group: dict[str, list[Checkpoint]] = {}
        for each in checkpoints:
            by_group.setdefault(each.group, []).append(each)
        states = {group.group_id: group.state for group in self._target_admin.list_groups()}
        for group, rows in by_group.items():
            if states.get(group, "").lower() not in _WITHOUT_MEMBERS:
                continue
            have = self._target_admin.list_group_offsets(group) if group in states else {}
            new: dict[TopicPartition, int] = {}
            for row in rows:
                where = TopicPartition(row.topic, row.partition)
                if where not in have or have[where].offset < row.downstream:
                    new[where] = row.downstream
            if new:
                self._alter(group, new)

    def _alter(self, group: str, offsets: Mapping[TopicPartition, Any]) -> None:
        try:
            self._target_admin.alter_group_offsets(group, offsets)
        except KafkaError as error:  # a member has come meanwhile, or a topic has gone
            log.warning("the offsets of the group %s cannot be set in %s now: %s", group, self._target, error)


class MirrorCheckpointConnector(SourceConnector):
    """Group offsets."""

    CONFIG = ConfigDef(
        *CLUSTERS,
        *TOPICS,
        *GROUPS,
        own_replicas("checkpoints"),
        enabled("emit.checkpoints", "Whether groups' offsets are translated."),
        interval("emit.checkpoints", 60, "How often."),
        enabled("sync.group.offsets", "Whether they are committed in the target, too.", default=False),
        interval("sync.group.offsets", 60, "How often."),
    )
    Task = MirrorCheckpointTask

    def task_configs(self, tasks_max: int) -> list[dict[str, str]]:
        check_converters(self.config)
        if not self.values["emit.checkpoints.enabled"]:
            return []
        return [self.config | {"task.number": str(number), "task.count": str(tasks_max)} for number in range(tasks_max)]
