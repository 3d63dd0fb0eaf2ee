"""Controller: the shell of the elected controller. Reads the image, asks `decisions`, writes multis.

On a single node this broker is the controller as soon as it has registered. Every method answers after the change is in the
tree *and* in this broker's own image, so that a client that asks the same broker next sees it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ottla.cluster.image import ConfigResource, Endpoint
from ottla.errors import ErrorCode


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTopic:
    """A topic to be made. -1 for partitions or replication factor: the broker's default. `assignments` maps partition index to replicas."""

    name: str
    num_partitions: int = -1
    replication_factor: int = -1
    assignments: Mapping[int, Sequence[int]] = field(default_factory=dict)
    configs: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicResult:
    """What became of one topic. `error` NONE: done."""

    name: str | None
    topic_id: bytes = bytes(16)
    error: ErrorCode = ErrorCode.NONE
    message: str | None = None
    num_partitions: int = -1
    replication_factor: int = -1


# class Controller:
#     def __init__(self, tree: Tree, follower: MetadataFollower, config: BrokerConfig, random: Random, clock: Clock) -> None
#     async def start(self, endpoints: tuple[Endpoint, ...]) -> None      registers the broker, becomes controller
#     async def stop(self) -> None
#     broker_epoch: int
#     async def create_topics(self, topics: Sequence[NewTopic], *, validate_only=False) -> list[TopicResult]
#     async def delete_topics(self, names: Sequence[str]) -> list[TopicResult]
#     async def ensure_topic(self, name: str) -> TopicResult               auto-create for Metadata and internal topics
#     async def create_partitions(...)
#     async def incremental_alter_configs(...), alter_configs(...)
#     async def allocate_producer_ids(self) -> range                       a block of 1000
#     async def update_partitions(changes)                                 ISR / leader changes by compare-and-set
