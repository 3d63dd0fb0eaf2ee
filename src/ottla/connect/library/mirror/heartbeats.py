"""MirrorHeartbeatConnector: a record now and then that says that a mirror is alive; it is copied on, cluster by cluster."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ottla import Admin
from ottla.connect.config_def import ConfigDef
from ottla.connect.connectors import SourceConnector, SourceTask
from ottla.connect.library.mirror.formats import Heartbeat
from ottla.connect.library.mirror.policy import HEARTBEATS
from ottla.connect.library.mirror.settings import CLUSTERS, check_converters, client_of, enabled, interval
from ottla.connect.library.mirror.topics import begin, make_own_topic, own_replicas
from ottla.connect.records import SourceRecord
from ottla.connect.schema import BYTES


class MirrorHeartbeatTask(SourceTask):
    """Beats."""

    def start(self) -> None:
        self._due = 0.0
        begin(self.context, self._begin, lambda: None)

    def _begin(self) -> None:
        servers = self.values["target.cluster.bootstrap.servers"]
        with Admin(servers, config=client_of(self.config, "target", "admin")) as admin:
            make_own_topic(admin, HEARTBEATS, self.values["heartbeats.topic.replication.factor"])

    def poll(self) -> Sequence[SourceRecord] | None:
        wait = self._due - time.monotonic()
        if wait > 0:
            self.context.wait(min(wait, 1.0))
            return None
        self._due = time.monotonic() + self.values["emit.heartbeats.interval.seconds"]
        source, target = self.values["source.cluster.alias"], self.values["target.cluster.alias"]
        beat = Heartbeat(source, target, int(time.time() * 1000))
        place: dict[str, Any] = {"sourceClusterAlias": source, "targetClusterAlias": target}
        return [
            SourceRecord(
                topic=HEARTBEATS,
                partition=0,
                key_schema=BYTES,
                key=beat.key(),
                value_schema=BYTES,
                value=beat.value(),
                timestamp=beat.timestamp_ms,
                source_partition=place,
                source_offset={"offset": 0},
            )
        ]


class MirrorHeartbeatConnector(SourceConnector):
    """Signs of life."""

    CONFIG = ConfigDef(
        *CLUSTERS,
        own_replicas("heartbeats"),
        enabled("emit.heartbeats", "Whether there are any."),
        interval("emit.heartbeats", 1, "How often."),
    )
    Task = MirrorHeartbeatTask

    def task_configs(self, tasks_max: int) -> list[dict[str, str]]:
        check_converters(self.config)
        return [self.config] if self.values["emit.heartbeats.enabled"] else []
