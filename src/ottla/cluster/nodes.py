"""The nodes of the coordination tree: paths, and the JSON in them. Those of Kafka <= 3.9 in ZooKeeper, and /changes.

One class per kind of node, with `path`, `encode` and `decode`; what Kafka's tools know of a cluster in ZooKeeper is found in
the same places with the same version numbers. Source: kafka-features.md section 8. Pure: values and bytes.

/changes is ours: brokers watch only this one node. Each change of the tree adds a small sequential node that names what
changed; who reads it reads again what it names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ottla.cluster.image import DEFAULT_ENTITY, BrokerImage, Endpoint
from ottla.types import ZERO_UUID, uuid_from_text, uuid_to_text

CLUSTER_ID = "/cluster/id"
BROKER_IDS = "/brokers/ids"
BROKER_TOPICS = "/brokers/topics"
CONTROLLER = "/controller"
CONTROLLER_EPOCH = "/controller_epoch"
CONFIG = "/config"
DELETED = "/deleted"
CHANGES = "/changes"
CHANGE_PREFIX = CHANGES + "/change_"
PRODUCER_ID_BLOCK = "/latest_producer_id_block"
FEATURES = "/feature"

#: Nodes that always exist, parents first.
PERSISTENT_PATHS = (
    "/cluster",
    "/brokers",
    BROKER_IDS,
    BROKER_TOPICS,
    CONFIG,
    CONFIG + "/topics",
    CONFIG + "/brokers",
    CONFIG + "/groups",
    CONFIG + "/client-metrics",
    "/admin",
    "/admin/delete_topics",
    DELETED,
    CHANGES,
)

PRODUCER_ID_BLOCK_SIZE = 1000


class BadNodeError(Exception):
    """A node does not contain what belongs there."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"the node {path} of the coordination tree cannot be read: {why}")
        self.path = path


def _dump(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _load(path: str, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise BadNodeError(path, str(error)) from None
    if not isinstance(value, dict):
        raise BadNodeError(path, "it is no JSON object")
    return value


class ClusterIdNode:
    path = CLUSTER_ID

    @staticmethod
    def encode(cluster_id: str) -> bytes:
        return _dump({"version": "1", "id": cluster_id})

    @staticmethod
    def decode(data: bytes) -> str:
        return str(_load(CLUSTER_ID, data)["id"])


class BrokerNode:
    """/brokers/ids/<id>, ephemeral. The feature `ottla` tells our brokers from Kafka's, which must not share a tree."""

    @staticmethod
    def path(node_id: int) -> str:
        return f"{BROKER_IDS}/{node_id}"

    @staticmethod
    def encode(endpoints: Sequence[Endpoint], rack: str | None, timestamp_ms: int) -> bytes:
        plain = next((e for e in endpoints if e.security_protocol == "PLAINTEXT"), None)
        return _dump(
            {
                "version": 5,
                "host": plain.host if plain else None,
                "port": plain.port if plain else -1,
                "endpoints": [f"{e.listener}://{_bracketed(e.host)}:{e.port}" for e in endpoints],
                "listener_security_protocol_map": {e.listener: e.security_protocol for e in endpoints},
                "rack": rack,
                "jmx_port": -1,
                "timestamp": str(timestamp_ms),
                "features": {"ottla": {"min_version": 1, "max_version": 1}},
            }
        )

    @staticmethod
    def decode(node_id: int, data: bytes, broker_epoch: int) -> BrokerImage:
        path = BrokerNode.path(node_id)
        value = _load(path, data)
        protocols = value.get("listener_security_protocol_map", {})
        endpoints = []
        for text in value.get("endpoints", ()):
            listener, _, address = text.partition("://")
            host, _, port = address.rpartition(":")
            if not port.isdecimal():
                raise BadNodeError(path, f"{text} is no endpoint")
            endpoints.append(Endpoint(listener, host.strip("[]"), int(port), protocols.get(listener, listener)))
        return BrokerImage(node_id, broker_epoch, tuple(endpoints), value.get("rack"))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicAssignment:
    """What /brokers/topics/<topic> says: which replicas each partition has. Partitions are dense from 0."""

    topic_id: bytes
    partitions: tuple[tuple[int, ...], ...]
    adding: Mapping[int, tuple[int, ...]]
    removing: Mapping[int, tuple[int, ...]]


class TopicNode:
    """/brokers/topics/<topic>: the assignment."""

    @staticmethod
    def path(topic: str) -> str:
        return f"{BROKER_TOPICS}/{topic}"

    @staticmethod
    def partitions_path(topic: str) -> str:
        return f"{BROKER_TOPICS}/{topic}/partitions"

    @staticmethod
    def encode(topic_id: bytes, partitions: Sequence[Sequence[int]]) -> bytes:
        return _dump(
            {
                "version": 3,
                "partitions": {str(index): list(replicas) for index, replicas in enumerate(partitions)},
                "adding_replicas": {},
                "removing_replicas": {},
                "topic_id": uuid_to_text(topic_id),
            }
        )

    @staticmethod
    def decode(topic: str, data: bytes) -> TopicAssignment:
        path = TopicNode.path(topic)
        value = _load(path, data)
        try:
            partitions = value["partitions"]
            return TopicAssignment(
                topic_id=uuid_from_text(value["topic_id"]) if value.get("topic_id") else ZERO_UUID,
                partitions=tuple(tuple(partitions[str(index)]) for index in range(len(partitions))),
                adding={int(k): tuple(v) for k, v in value.get("adding_replicas", {}).items() if v},
                removing={int(k): tuple(v) for k, v in value.get("removing_replicas", {}).items() if v},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadNodeError(path, f"{type(error).__name__}: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionState:
    """What /brokers/topics/<topic>/partitions/<p>/state says. The node's version is the partition epoch."""

    leader: int
    leader_epoch: int
    isr: tuple[int, ...]
    controller_epoch: int


class StateNode:
    @staticmethod
    def partition_path(topic: str, partition: int) -> str:
        return f"{BROKER_TOPICS}/{topic}/partitions/{partition}"

    @staticmethod
    def path(topic: str, partition: int) -> str:
        return f"{BROKER_TOPICS}/{topic}/partitions/{partition}/state"

    @staticmethod
    def encode(state: PartitionState) -> bytes:
        return _dump(
            {
                "version": 1,
                "leader": state.leader,
                "leader_epoch": state.leader_epoch,
                "controller_epoch": state.controller_epoch,
                "isr": list(state.isr),
            }
        )

    @staticmethod
    def decode(path: str, data: bytes) -> PartitionState:
        value = _load(path, data)
        try:
            return PartitionState(
                leader=value["leader"],
                leader_epoch=value["leader_epoch"],
                isr=tuple(value["isr"]),
                controller_epoch=value["controller_epoch"],
            )
        except (KeyError, TypeError) as error:
            raise BadNodeError(path, f"{type(error).__name__}: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletedTopic:
    """What /deleted/<topic id> says: which topic it was, and when (ms since 1970) it was deleted."""

    name: str
    timestamp_ms: int


class DeletedNode:
    """/deleted/<topic id>: the topic is deleted, whatever else of it is still in the tree.

    Written first; the controller then takes the topic's nodes away, in as many transactions as it takes, and a controller
    that is elected in between goes on. A topic of that id never comes back, so a broker that was away may delete its log.
    """

    @staticmethod
    def path(topic_id: bytes) -> str:
        return f"{DELETED}/{uuid_to_text(topic_id)}"

    @staticmethod
    def topic_id(name: str) -> bytes:
        """Return the topic id in the name of such a node."""
        return uuid_from_text(name)

    @staticmethod
    def encode(topic: DeletedTopic) -> bytes:
        return _dump({"version": 1, "topic": topic.name, "timestamp": str(topic.timestamp_ms)})

    @staticmethod
    def decode(path: str, data: bytes) -> DeletedTopic:
        value = _load(path, data)
        try:
            return DeletedTopic(name=value["topic"], timestamp_ms=int(value["timestamp"]))
        except (KeyError, TypeError, ValueError) as error:
            raise BadNodeError(path, f"{type(error).__name__}: {error}") from None


class ControllerNode:
    """/controller, ephemeral: who is the controller."""

    path = CONTROLLER

    @staticmethod
    def encode(node_id: int, timestamp_ms: int) -> bytes:
        return _dump({"version": 2, "brokerid": node_id, "timestamp": str(timestamp_ms), "kraftControllerEpoch": -1})

    @staticmethod
    def decode(data: bytes) -> int:
        return int(_load(CONTROLLER, data)["brokerid"])


class ControllerEpochNode:
    """/controller_epoch: a plain number. Every controller's write checks this node's version."""

    path = CONTROLLER_EPOCH

    @staticmethod
    def encode(epoch: int) -> bytes:
        return str(epoch).encode()

    @staticmethod
    def decode(data: bytes) -> int:
        try:
            return int(data)
        except ValueError:
            raise BadNodeError(CONTROLLER_EPOCH, f"{data!r} is no number") from None


_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def sanitize(name: str) -> str:
    """Return a name as it may stand in a path: URL-encoded (Kafka's Sanitizer). urllib.parse costs 10 ms to import."""
    if _UNRESERVED.issuperset(name):
        return name
    return "".join(
        chr(byte) if chr(byte) in _UNRESERVED else f"%{byte:02X}" for byte in name.encode("utf-8", "surrogateescape")
    )


def desanitize(text: str) -> str:
    """Return the name that `sanitize` encoded."""
    if "%" not in text:
        return text
    first, *rest = text.split("%")
    data = first.encode() + b"".join(bytes([int(part[:2], 16)]) + part[2:].encode() for part in rest)
    return data.decode("utf-8", "surrogateescape")


class ConfigNode:
    """/config/<kind>/<name>: overrides. Names are URL-encoded, a group's may contain anything."""

    @staticmethod
    def kind_path(kind: str) -> str:
        return f"{CONFIG}/{kind}"

    @staticmethod
    def path(kind: str, name: str) -> str:
        return f"{CONFIG}/{kind}/{name if name == DEFAULT_ENTITY else sanitize(name)}"

    @staticmethod
    def name(node_name: str) -> str:
        return desanitize(node_name)

    @staticmethod
    def encode(config: Mapping[str, str]) -> bytes:
        return _dump({"version": 1, "config": dict(sorted(config.items()))})

    @staticmethod
    def decode(path: str, data: bytes) -> dict[str, str]:
        config = _load(path, data).get("config")
        if not isinstance(config, dict):
            raise BadNodeError(path, "it has no config")
        return {str(key): str(value) for key, value in config.items()}


class ProducerIdBlockNode:
    """/latest_producer_id_block: the block of producer ids given out last."""

    path = PRODUCER_ID_BLOCK

    @staticmethod
    def encode(node_id: int, block: range) -> bytes:
        return _dump(
            {"version": 1, "broker": node_id, "block_start": str(block.start), "block_end": str(block.stop - 1)}
        )

    @staticmethod
    def decode(data: bytes) -> range:
        value = _load(PRODUCER_ID_BLOCK, data)
        return range(int(value["block_start"]), int(value["block_end"]) + 1)


class FeaturesNode:
    """/feature: the levels that were set, 0 included. Its version is the epoch of the finalized features."""

    path = FEATURES

    @staticmethod
    def encode(levels: Mapping[str, int]) -> bytes:
        return _dump({"version": 2, "status": 1, "features": dict(sorted(levels.items()))})

    @staticmethod
    def decode(data: bytes) -> dict[str, int]:
        levels = _load(FEATURES, data).get("features")
        if not isinstance(levels, dict) or not all(isinstance(level, int) for level in levels.values()):
            raise BadNodeError(FEATURES, "it has no levels")
        return levels


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What one transaction changed.

    Attributes:
        topics: topics to read again as a whole: made, deleted, grown.
        partitions: single partitions whose state changed.
        configs: (kind, name) of configurations that changed.
        brokers: a broker or the controller came or went.
        features: a feature got another level.
    """

    topics: tuple[str, ...] = ()
    partitions: tuple[tuple[str, int], ...] = ()
    configs: tuple[tuple[str, str], ...] = ()
    brokers: bool = False
    features: bool = False


class ChangeNode:
    """/changes/change_<number>."""

    @staticmethod
    def encode(change: Change, timestamp_ms: int) -> bytes:
        return _dump(
            {
                "version": 1,
                "timestamp": str(timestamp_ms),
                "topics": list(change.topics),
                "partitions": [list(partition) for partition in change.partitions],
                "configs": [list(config) for config in change.configs],
                "brokers": change.brokers,
                "features": change.features,
            }
        )

    @staticmethod
    def decode(path: str, data: bytes) -> tuple[Change, int]:
        """Return the change and the time it was made."""
        value = _load(path, data)
        try:
            change = Change(
                topics=tuple(value["topics"]),
                partitions=tuple((topic, partition) for topic, partition in value["partitions"]),
                configs=tuple((kind, name) for kind, name in value["configs"]),
                brokers=bool(value["brokers"]),
                features=bool(value.get("features", False)),  # younger than the other fields
            )
            return change, int(value["timestamp"])
        except (KeyError, TypeError, ValueError) as error:
            raise BadNodeError(path, f"{type(error).__name__}: {error}") from None

    @staticmethod
    def number(name_or_path: str) -> int:
        """Return the number in the name of a change node."""
        return int(name_or_path.rpartition("_")[2])


def merge_changes(changes: Iterable[Change]) -> Change:
    """Return one change that names everything these name, each once, in the order of first mention."""
    topics: dict[str, None] = {}
    partitions: dict[tuple[str, int], None] = {}
    configs: dict[tuple[str, str], None] = {}
    brokers = features = False
    for change in changes:
        topics.update(dict.fromkeys(change.topics))
        partitions.update(dict.fromkeys(change.partitions))
        configs.update(dict.fromkeys(change.configs))
        brokers = brokers or change.brokers
        features = features or change.features
    return Change(
        topics=tuple(topics),
        partitions=tuple(p for p in partitions if p[0] not in topics),
        configs=tuple(configs),
        brokers=brokers,
        features=features,
    )
