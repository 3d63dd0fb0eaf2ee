"""Topics of the source in the target: made, grown, with their configurations and rules."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ottla import Acl, AclFilter, Admin
from ottla.connect.config_def import ConfigError
from ottla.connect.errors import ConnectError
from ottla.connect.library.mirror.policy import IdentityReplicationPolicy, ReplicationPolicy
from ottla.connect.library.mirror.settings import Names, client_of
from ottla.errors import KafkaError, SecurityDisabledError

if TYPE_CHECKING:
    from ottla.client.admin_results import TopicListing

log = logging.getLogger(__name__)


class TopicCopies:
    """Decides which topics are copied, and has them in the target."""

    def __init__(self, source: Admin, target: Admin, values: Mapping[str, Any], policy: ReplicationPolicy) -> None:
        self._source, self._target, self._policy = source, target, policy
        self._alias: str = values["source.cluster.alias"]
        self._target_alias: str = values["target.cluster.alias"]
        self._names = Names(values["topics"], values["topics.exclude"])
        self._kept_back = Names(values["config.properties.exclude"], [])
        self._factor: int = values["replication.factor"]
        self._made: dict[str, int] = {}
        self._has_rules = True

    def is_copied(self, topic: str) -> bool:
        policy = self._policy
        return (
            (topic in self._names or policy.is_heartbeats(topic))
            and not policy.is_internal(topic)
            and not policy.goes_round(topic, self._target_alias)
        )

    def find(self) -> list[TopicListing]:
        """Return the topics of the source that are copied."""
        return [topic for topic in self._source.list_topics() if self.is_copied(topic.name)]

    def remote(self, topic: str) -> str:
        return self._policy.remote_topic(self._alias, topic)

    def make(self, topic: TopicListing) -> None:
        """Have a topic in the target, with as many partitions as in the source.

        Raises:
            ConnectError: that cannot be.
        """
        name = self.remote(topic.name)
        if self._made.get(name, 0) >= topic.partitions:
            return
        try:
            if name not in self._made:
                self._target.create_topic(
                    name,
                    partitions=topic.partitions,
                    replication_factor=None if self._factor == -1 else self._factor,
                    configs=self._configs(topic.name),
                    exists_ok=True,
                )
            there = len(self._target.describe_topic(name).partitions)
            if there < topic.partitions:
                self._target.create_partitions(name, topic.partitions)
            self._made[name] = max(there, topic.partitions)
        except KafkaError as error:
            if error.retriable:
                raise
            raise ConnectError(
                f"The topic {name} cannot be made with {topic.partitions} partitions and {self._factor} replicas "
                f"(replication.factor): {error}"
            ) from error

    def _configs(self, topic: str) -> dict[str, str]:
        """Return what a topic of the source has of its own, and may be copied."""
        return {
            entry.name: entry.value
            for entry in self._source.describe_configs("topic", topic).values()
            if entry.source == "dynamic-topic" and entry.value is not None and entry.name not in self._kept_back
        }

    def sync_configs(self, topics: Iterable[str]) -> None:
        """Give the copies the configurations that their originals have; what these have not goes back to the default."""
        for topic in topics:
            name = self.remote(topic)
            try:
                wanted = self._configs(topic)
                have = {
                    entry.name: entry.value
                    for entry in self._target.describe_configs("topic", name).values()
                    if entry.source == "dynamic-topic" and entry.name not in self._kept_back
                }
                changes: dict[str, str | None] = {key: value for key, value in wanted.items() if have.get(key) != value}
                changes |= dict.fromkeys(have.keys() - wanted.keys())
                if changes:
                    self._target.alter_configs("topic", name, changes)
            except KafkaError as error:
                log.warning("the configuration of %s cannot be copied to %s now: %s", topic, name, error)

    def sync_rules(self, topics: Iterable[str]) -> None:
        """Give the copies the rules of their originals, but nobody the right to write to them."""
        if not self._has_rules:
            return
        try:
            found = self._source.describe_acls(AclFilter(resource_type="topic", pattern_type="literal"))
            names = set(topics)
            copies = [self._rule(rule) for rule in found if rule.resource_name in names and _is_copied(rule)]
            if copies:
                self._target.create_acls(copies)
        except SecurityDisabledError as error:
            self._has_rules = False
            log.info("no rules are copied: %s", error)
        except KafkaError as error:
            log.warning("the rules of %s cannot be copied now: %s", self._alias, error)

    def _rule(self, rule: Acl) -> Acl:
        operation = "read" if (rule.operation, rule.permission) == ("all", "allow") else rule.operation
        return replace(rule, resource_name=self.remote(rule.resource_name), operation=operation)


def _is_copied(rule: Acl) -> bool:
    return (rule.operation, rule.permission) != ("write", "allow")


def is_single_way(config: Mapping[str, str], values: Mapping[str, Any], policy: ReplicationPolicy) -> None:
    """Refuse two clusters of one name, and names of topics that stay what they are where records would go round.

    Raises:
        ConfigError: both sides have one alias, are one cluster, or a mirror goes the other way.
    """
    if values["source.cluster.alias"] == values["target.cluster.alias"]:
        raise ConfigError.of(
            "target.cluster.alias",
            values["target.cluster.alias"],
            "it is the source's: records would be taken for copies",
        )
    if not isinstance(policy, IdentityReplicationPolicy):
        return
    clusters = {}
    for side in ("source", "target"):
        with Admin(values[f"{side}.cluster.bootstrap.servers"], config=client_of(config, side, "admin")) as admin:
            clusters[side] = admin.describe_cluster().cluster_id
            names = {topic.name for topic in admin.list_topics()}
    if clusters["source"] == clusters["target"]:
        raise ConfigError.of(
            "replication.policy.class",
            "IdentityReplicationPolicy",
            "source and target are one cluster: topics would be copied into themselves",
        )
    back = policy.offset_syncs_topic(values["source.cluster.alias"])
    if back in names:
        raise ConfigError.of(
            "replication.policy.class",
            "IdentityReplicationPolicy",
            f"a mirror from {values['target.cluster.alias']} to {values['source.cluster.alias']} keeps {back}: records "
            "would go round for ever. If it has been given up, delete that topic",
        )
