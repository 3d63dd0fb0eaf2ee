"""Topics that mirrors keep for themselves: of one partition, compact."""

from __future__ import annotations

from ottla import Admin
from ottla.connect.config_def import ConfigKey, ConfigType, Importance
from ottla.connect.errors import ConnectError
from ottla.errors import KafkaError


def own_replicas(what: str) -> ConfigKey:
    return ConfigKey(
        name=f"{what}.topic.replication.factor",
        type=ConfigType.SHORT,
        default=3,
        importance=Importance.LOW,
        documentation="Replicas of that topic; where there are fewer brokers, as many.",
    )


def make_own_topic(admin: Admin, name: str, replicas: int) -> None:
    """Have such a topic; one that is there stays as it is.

    Raises:
        ConnectError: it cannot be made.
    """
    try:
        brokers = len(admin.describe_cluster().brokers)
        admin.create_topic(
            name,
            partitions=1,
            replication_factor=min(replicas, brokers),
            configs={"cleanup.policy": "compact"},
            exists_ok=True,
        )
    except KafkaError as error:
        raise ConnectError(f"The topic {name} cannot be made: {error}") from error
