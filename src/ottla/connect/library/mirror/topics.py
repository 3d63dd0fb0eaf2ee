"""How tasks of mirrors begin: clusters that are away are waited for, and topics of their own are made, compact ones."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ottla import Admin
from ottla.connect.config_def import ConfigKey, ConfigType, Importance
from ottla.connect.connectors import SourceContext
from ottla.connect.errors import ConnectError
from ottla.errors import KafkaError

log = logging.getLogger(__name__)
#: Seconds between two attempts to reach clusters.
_AGAIN_S = 2.0


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
        KafkaError: it can be later.
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
        if error.retriable:
            raise
        raise ConnectError(f"The topic {name} cannot be made: {error}") from error


def begin(context: SourceContext, work: Callable[[], None], undo: Callable[[], None]) -> None:
    """Do what a task begins with, again and again while a cluster is away; the status says so meanwhile.

    Args:
        undo: closes what `work` has opened: a client that has not found its cluster is closed for good.

    Raises:
        Exception: what does not pass.
    """
    said = ""
    while True:
        try:
            work()
            context.waits_for(None)
            return
        except KafkaError as error:
            if not error.retriable:
                raise
            if str(error) != said:
                said = str(error)
                log.warning("the mirror waits for a cluster: %s", error)
            context.waits_for(f"The mirror waits for a cluster: {error}")
        undo()
        if context.wait(_AGAIN_S):
            return
