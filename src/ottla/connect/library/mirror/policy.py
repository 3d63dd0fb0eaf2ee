"""What topics are called in the other cluster, and which topics are none of a mirror's (KIP-382, KIP-690)."""

from __future__ import annotations

from ottla.connect.config_def import ConfigError

HEARTBEATS = "heartbeats"


class ReplicationPolicy:
    """The topic `orders` of the cluster `A` is `A.orders` elsewhere: it says where it comes from, and never goes back."""

    def __init__(self, separator: str = ".") -> None:
        self._separator = separator

    def remote_topic(self, alias: str, topic: str) -> str:
        """Return what a topic of the cluster `alias` is called in the cluster that it is copied to."""
        return alias + self._separator + topic

    def topic_source(self, topic: str) -> str | None:
        """Return the alias of the cluster that a topic was copied from; None: it was not."""
        alias, separator, rest = topic.partition(self._separator)
        return alias if separator and rest else None

    def upstream_topic(self, topic: str) -> str | None:
        """Return what a copied topic is called where it was copied from; None: it was not."""
        _, separator, rest = topic.partition(self._separator)
        return rest if separator and rest else None

    def offset_syncs_topic(self, alias: str) -> str:
        return f"mm2-offset-syncs{self._separator}{alias}{self._separator}internal"

    def checkpoints_topic(self, alias: str) -> str:
        return f"{alias}{self._separator}checkpoints.internal"

    def is_heartbeats(self, topic: str) -> bool:
        while topic != HEARTBEATS:
            upstream = self.upstream_topic(topic)
            if upstream is None or upstream == topic:
                return False
            topic = upstream
        return True

    def is_internal(self, topic: str) -> bool:
        """Whether a topic is a cluster's, or a worker's, own."""
        return topic.startswith(("__", ".")) or topic.endswith(("-internal", ".internal"))

    def goes_round(self, topic: str, target: str) -> bool:
        """Whether a topic was in the cluster `target` before."""
        source = self.topic_source(topic)
        if source is None:
            return False
        if source == target:
            return True
        upstream = self.upstream_topic(topic)
        return upstream is not None and upstream != topic and self.goes_round(upstream, target)


class IdentityReplicationPolicy(ReplicationPolicy):
    """Topics keep their names: for one direction only, as nothing shows where a record comes from."""

    def remote_topic(self, alias: str, topic: str) -> str:
        return super().remote_topic(alias, topic) if topic == HEARTBEATS else topic

    def topic_source(self, topic: str) -> str | None:
        return super().topic_source(topic) if topic.endswith(self._separator + HEARTBEATS) else None

    def upstream_topic(self, topic: str) -> str | None:
        return super().upstream_topic(topic) if topic.endswith(self._separator + HEARTBEATS) else topic


_POLICIES = {"DefaultReplicationPolicy": ReplicationPolicy, "IdentityReplicationPolicy": IdentityReplicationPolicy}


def replication_policy(name: str, separator: str) -> ReplicationPolicy:
    """Return the policy of `replication.policy.class`, by Java's name or its last part.

    Raises:
        ConfigError: there is no such policy here.
    """
    found = _POLICIES.get(name.removeprefix("org.apache.kafka.connect.mirror."))
    if found is None:
        raise ConfigError.of("replication.policy.class", name, f"there are {' and '.join(_POLICIES)}")
    return found(separator)
