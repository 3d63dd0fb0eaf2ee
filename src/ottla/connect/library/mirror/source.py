"""MirrorSourceConnector: another cluster's topics, record by record.

Each task lists the topics of the source now and then and takes its share of the partitions, which depends on a partition's
name alone: nothing has to be shared out anew when topics come. Before a partition is read its topic is there, with as many
partitions. Records keep partition, key, value, headers and timestamp; only committed ones are read.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from zlib import crc32

from ottla import Admin, Consumer, Producer, TopicPartition
from ottla.connect.config_def import ConfigDef, ConfigError, ConfigKey, ConfigType, Importance, at_least
from ottla.connect.connectors import SourceConnector, SourceTask
from ottla.connect.errors import RetriableError
from ottla.connect.library.mirror.copying import TopicCopies, is_single_way
from ottla.connect.library.mirror.formats import OffsetSync
from ottla.connect.library.mirror.settings import (
    CLUSTERS,
    TOPICS,
    check_converters,
    client_of,
    enabled,
    interval,
    policy_of,
)
from ottla.connect.library.mirror.syncs import Pair, PairsToWrite
from ottla.connect.library.mirror.topics import begin, make_own_topic
from ottla.connect.records import Header, SourceRecord
from ottla.connect.schema import OPTIONAL_BYTES
from ottla.errors import KafkaError

if TYPE_CHECKING:
    from ottla import RecordMetadata
    from ottla.client.admin_results import TopicListing

log = logging.getLogger(__name__)
_POLL_S = 0.5
_BATCH = 1000
#: The newest pair of each partition is written down after so long.
_PAIRS_S = 1.0


class MirrorSourceTask(SourceTask):
    """Copies its share of the partitions."""

    def start(self) -> None:
        values, config = self.values, self.config
        self._source, self._target = values["source.cluster.alias"], values["target.cluster.alias"]
        self._number, self._count = int(config.get("task.number", 0)), int(config.get("task.count", 1))
        self._policy = policy_of(values)
        self._refreshed_at = self._synced_at = self._rules_at = self._written_at = -1e9
        self._pairs: dict[tuple[str, int], PairsToWrite] = {}
        begin(self.context, self._begin, self.stop)

    def _begin(self) -> None:
        values, config = self.values, self.config
        #: Where each partition is read on, and the id of its topic.
        self._next: dict[TopicPartition, int] = {}
        self._ids: dict[str, str] = {}
        self._source_admin = Admin(
            values["source.cluster.bootstrap.servers"], config=client_of(config, "source", "admin")
        )
        self._target_admin = Admin(
            values["target.cluster.bootstrap.servers"], config=client_of(config, "target", "admin")
        )
        self._copies = TopicCopies(self._source_admin, self._target_admin, values, self._policy)
        self._consumer: Consumer[bytes, bytes] = Consumer(
            values["source.cluster.bootstrap.servers"],
            # A topic that was deleted in the source is not to come back because its mirror asks for it.
            config={
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "allow.auto.create.topics": "false",
            }
            | client_of(config, "source", "consumer"),
        )
        where = values["offset-syncs.topic.location"]
        self._syncs_topic = self._policy.offset_syncs_topic(self._target if where == "source" else self._source)
        self._producer: Producer[bytes, bytes] = Producer(
            values[f"{where}.cluster.bootstrap.servers"], config=client_of(config, where, "producer")
        )
        keeper = self._source_admin if where == "source" else self._target_admin
        make_own_topic(keeper, self._syncs_topic, values["offset-syncs.topic.replication.factor"])
        self._refresh()

    def stop(self) -> None:
        for client in ("_consumer", "_producer", "_source_admin", "_target_admin"):
            if hasattr(self, client):
                getattr(self, client).close()

    def preview(self, rows: int) -> Sequence[SourceRecord] | None:
        return None  # to look would make topics

    def poll(self) -> Sequence[SourceRecord] | None:
        try:
            self._work_in_time()
            if not self._next:
                self.context.wait(_POLL_S)
                return None
            records = self._consumer.poll(_BATCH, timeout=_POLL_S)
        except KafkaError as error:
            if not error.retriable:
                raise
            log.warning("the cluster %s cannot be read now: %s", self._source, error)
            raise RetriableError(str(error)) from error
        found = []
        for record in records:
            where = TopicPartition(record.topic, record.partition)
            if record.offset < self._next[where]:  # the topic was made anew, and is read from its beginning
                self._ids |= {topic.name: topic.topic_id for topic in self._copies.find() if topic.name == where.topic}
            self._next[where] = record.offset + 1
            found.append(self._record(record))
        return found or None

    def _record(self, record: Any) -> SourceRecord:
        return SourceRecord(
            topic=self._policy.remote_topic(self._source, record.topic),
            partition=record.partition,
            key_schema=OPTIONAL_BYTES,
            key=record.key,
            value_schema=OPTIONAL_BYTES,
            value=record.value,
            timestamp=record.timestamp_ms if record.timestamp_ms >= 0 else None,
            headers=tuple(Header(name, OPTIONAL_BYTES, value) for name, value in record.headers.multi_items()),
            source_partition=self._place(TopicPartition(record.topic, record.partition)),
            source_offset={"offset": record.offset, "topic.id": self._ids[record.topic]},
        )

    def _place(self, where: TopicPartition) -> dict[str, Any]:
        return {"cluster": self._source, "partition": where.partition, "topic": where.topic}

    # -- topics

    def _work_in_time(self) -> None:
        now, values = time.monotonic(), self.values
        if now - self._written_at >= _PAIRS_S:
            self._written_at = now
            self._write_rest()
        if values["refresh.topics.enabled"] and now - self._refreshed_at >= values["refresh.topics.interval.seconds"]:
            self._refresh()
        if self._number:
            return
        if (
            values["sync.topic.configs.enabled"]
            and now - self._synced_at >= values["sync.topic.configs.interval.seconds"]
        ):
            self._synced_at = now
            self._copies.sync_configs(self._ids)
        if values["sync.topic.acls.enabled"] and now - self._rules_at >= values["sync.topic.acls.interval.seconds"]:
            self._rules_at = now
            self._copies.sync_rules(self._ids)

    def _refresh(self) -> None:
        """Look which topics there are, have those of this task in the target, and read them."""
        topics = self._copies.find()
        ids: dict[str, str] = {}  # taken over together with the offsets: an error in between leaves both as they were
        wanted: dict[TopicPartition, int] = {}
        for topic in topics:
            is_new = self._ids.get(topic.name) != topic.topic_id
            mine = [
                TopicPartition(topic.name, number)
                for number in range(topic.partitions)
                if self._is_mine(topic.name, number)
            ]
            if not mine and self._number:
                continue
            self._copies.make(topic)
            for where in mine:
                wanted[where] = (
                    self._next[where] if where in self._next and not is_new else self._beginning(where, topic)
                )
            ids[topic.name] = topic.topic_id
        self._read(wanted)
        self._ids = ids
        self._refreshed_at = time.monotonic()

    def _read(self, wanted: dict[TopicPartition, int]) -> None:
        """Read these partitions, each from its offset on."""
        if wanted == self._next:
            return
        moved = {where: offset for where, offset in wanted.items() if self._next.get(where) != offset}
        self._consumer.assign(wanted)
        for where, offset in moved.items():
            self._consumer.seek(where, offset if offset else "beginning")
        self._next = wanted

    def _is_mine(self, topic: str, partition: int) -> bool:
        return crc32(f"{topic}-{partition}".encode()) % self._count == self._number

    def _beginning(self, where: TopicPartition, topic: TopicListing) -> int:
        """Return where reading begins: behind what was copied, or at the beginning if that was another topic of the name."""
        kept = None if where in self._next else self.context.offset(self._place(where))
        if where in self._next or (kept is not None and kept.get("topic.id", topic.topic_id) != topic.topic_id):
            log.warning(
                "the topic %s of %s was made anew: partition %d is copied from its beginning, behind what was copied before",
                where.topic,
                self._source,
                where.partition,
            )
            return 0
        return 0 if kept is None else int(kept["offset"]) + 1

    # -- pairs of offsets

    def commit_record_at(self, record: SourceRecord, where: RecordMetadata | None) -> None:
        if where is None or record.source_offset is None:
            return
        topic, partition = record.source_partition["topic"], record.source_partition["partition"]
        pair = Pair(record.source_offset["offset"], where.offset)
        pairs = self._pairs.setdefault((topic, partition), PairsToWrite(self.values["offset.lag.max"]))
        if pairs.add(pair):
            self._write(topic, partition, pair)

    def _write_rest(self) -> None:
        for (topic, partition), pairs in self._pairs.items():
            rest = pairs.take_rest()
            if rest is not None:
                self._write(topic, partition, rest)

    def _write(self, topic: str, partition: int, pair: Pair) -> None:
        sync = OffsetSync(topic, partition, *pair)
        self._producer.send(self._syncs_topic, sync.value(), key=sync.key(), partition=0)


class MirrorSourceConnector(SourceConnector):
    """Another cluster's topics."""

    CONFIG = ConfigDef(
        *CLUSTERS,
        *TOPICS,
        ConfigKey(
            name="replication.factor",
            type=ConfigType.INT,
            default=2,
            importance=Importance.LOW,
            documentation="Replicas of the topics that are made in the target; -1: as many as its brokers say.",
        ),
        ConfigKey(
            name="config.properties.exclude",
            type=ConfigType.LIST,
            default=[
                r"follower\.replication\.throttled\.replicas",
                r"leader\.replication\.throttled\.replicas",
                r"message\.timestamp\.difference\.max\.ms",
                r"message\.timestamp\.type",
                r"unclean\.leader\.election\.enable",
                r"min\.insync\.replicas",
            ],
            importance=Importance.LOW,
            documentation="Keys of topics' configurations that are not copied: regular expressions.",
        ),
        ConfigKey(
            name="offset.lag.max",
            type=ConfigType.LONG,
            default=100,
            validator=at_least(0),
            importance=Importance.LOW,
            documentation="A pair of offsets is written down after so many records.",
        ),
        enabled("refresh.topics", "Whether new topics and partitions are looked for."),
        interval("refresh.topics", 600, "How often."),
        enabled("sync.topic.configs", "Whether topics' configurations are copied."),
        interval("sync.topic.configs", 600, "How often."),
        enabled("sync.topic.acls", "Whether rules about topics are copied; never the right to write."),
        interval("sync.topic.acls", 600, "How often."),
    )
    Task = MirrorSourceTask

    def exactly_once_support(self) -> bool:
        return True

    def task_configs(self, tasks_max: int) -> list[dict[str, str]]:
        check_converters(self.config)
        if self.values["offset-syncs.topic.location"] not in ("source", "target"):
            raise ConfigError.of(
                "offset-syncs.topic.location", self.values["offset-syncs.topic.location"], "source or target is needed"
            )
        is_single_way(self.config, self.values, policy_of(self.values))
        return [self.config | {"task.number": str(number), "task.count": str(tasks_max)} for number in range(tasks_max)]
