"""Nodes about the cluster as a whole: its id, the controller, settings, features, producer ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from ottla.cluster.image import DEFAULT_ENTITY, NAMED_AS_NODES
from ottla.cluster.nodes.encoding import BadNodeError, desanitize, dump, load, sanitize

CLUSTER_ID: Final = "/cluster/id"
CONTROLLER: Final = "/controller"
CONTROLLER_EPOCH: Final = "/controller_epoch"
CONFIG: Final = "/config"
PRODUCER_ID_BLOCK: Final = "/latest_producer_id_block"
FEATURES: Final = "/feature"

PRODUCER_ID_BLOCK_SIZE: Final = 1000

#: What nodes mean. A program refuses a tree of a higher format; `upgrade` brings a lower one to this.
#: 1: broker epochs, /topic_ids and /deleted. 0: what the first releases wrote, on single nodes only.
TREE_FORMAT: Final = 1


class ClusterIdNode:
    path = CLUSTER_ID

    @staticmethod
    def encode(cluster_id: str) -> bytes:
        return dump({"version": "1", "id": cluster_id})

    @staticmethod
    def decode(data: bytes) -> str:
        return str(load(CLUSTER_ID, data)["id"])


class ControllerNode:
    """/controller, ephemeral: who is the controller."""

    path = CONTROLLER

    @staticmethod
    def encode(node_id: int, timestamp_ms: int) -> bytes:
        return dump({"version": 2, "brokerid": node_id, "timestamp": str(timestamp_ms), "kraftControllerEpoch": -1})

    @staticmethod
    def decode(data: bytes) -> int:
        return int(load(CONTROLLER, data)["brokerid"])


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


class ConfigNode:
    """/config/<kind>/<name>: overrides. Names are URL-encoded, a group's may contain anything.

    Those of a user's client ids lie below the user: /config/users/<user>/clients/<client id>, with the name
    `<user>/clients/<client id>` here. Kafka leaves the nodes in between empty.
    """

    @staticmethod
    def kind_path(kind: str) -> str:
        return f"{CONFIG}/{kind}"

    @staticmethod
    def path(kind: str, name: str) -> str:
        if kind in NAMED_AS_NODES or name == DEFAULT_ENTITY:
            return f"{CONFIG}/{kind}/{name}"
        return f"{CONFIG}/{kind}/{sanitize(name)}"

    @staticmethod
    def parents(kind: str, name: str) -> tuple[str, ...]:
        """Return the nodes between the kind's and this one, outermost first."""
        if kind not in NAMED_AS_NODES:
            return ()
        parts = name.split("/")
        return tuple(f"{CONFIG}/{kind}/{'/'.join(parts[:end])}" for end in range(1, len(parts)))

    @staticmethod
    def name(kind: str, node_name: str) -> str:
        return node_name if kind in NAMED_AS_NODES else desanitize(node_name)

    @staticmethod
    def encode(config: Mapping[str, str]) -> bytes:
        return dump({"version": 1, "config": dict(sorted(config.items()))})

    @staticmethod
    def decode(path: str, data: bytes) -> dict[str, str]:
        if not data:
            return {}
        config = load(path, data).get("config")
        if not isinstance(config, dict):
            raise BadNodeError(path, "it has no config")
        return {str(key): str(value) for key, value in config.items()}


class ProducerIdBlockNode:
    """/latest_producer_id_block: the block of producer ids given out last."""

    path = PRODUCER_ID_BLOCK

    @staticmethod
    def encode(node_id: int, block: range) -> bytes:
        return dump(
            {"version": 1, "broker": node_id, "block_start": str(block.start), "block_end": str(block.stop - 1)}
        )

    @staticmethod
    def decode(data: bytes) -> range:
        value = load(PRODUCER_ID_BLOCK, data)
        return range(int(value["block_start"]), int(value["block_end"]) + 1)


class Features(NamedTuple):
    """What /feature says: the levels that were set, 0 included, and the format of the tree."""

    levels: Mapping[str, int]
    tree_format: int = TREE_FORMAT


class FeaturesNode:
    """/feature. Its version is the epoch of the finalized features."""

    path = FEATURES

    @staticmethod
    def encode(features: Features) -> bytes:
        levels = dict(sorted(features.levels.items()))
        return dump({"version": 2, "status": 1, "features": levels, "ottla_format": features.tree_format})

    @staticmethod
    def decode(data: bytes) -> Features:
        value = load(FEATURES, data)
        levels, tree_format = value.get("features"), value.get("ottla_format", 0)
        if not isinstance(levels, dict) or not all(isinstance(level, int) for level in (*levels.values(), tree_format)):
            raise BadNodeError(FEATURES, "it has no levels")
        return Features(levels, tree_format)
