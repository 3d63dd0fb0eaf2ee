"""Nodes about single brokers: who is registered, under which epoch, what it cannot lead, where its logs end.

What is decided from the tree sees only what is in it at that moment, so what happened to a broker is kept as state: that it
went and came back is a higher version of its epoch node, that it stops is a word in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ottla.cluster.image import BrokerEnds, BrokerImage, Endpoint, LogEnd
from ottla.cluster.nodes.encoding import BadNodeError, dump, load, read
from ottla.types import uuid_from_text, uuid_to_text

BROKER_IDS: Final = "/brokers/ids"
BROKER_EPOCHS: Final = "/brokers/epochs"
BROKER_UNFIT: Final = "/brokers/unfit"
BROKER_ENDS: Final = "/brokers/ends"
BROKER_CLOCKS: Final = "/brokers/clocks"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerEpoch:
    """What /brokers/epochs/<id> says. The node's version is the broker epoch.

    Attributes:
        directories: ids of the log directories (in meta.properties) that belong to this broker id.
        page_cache: which page cache unsynced writes of the directories are in: boot id and mounts; "" if it is not known.
        continues: the oldest epoch of which this one is an unbroken continuation: in each step the directories said that
            they were closed cleanly in the epoch before, or the page cache stayed the same, or the process lived on. What
            was in sync under it is in sync now.
        is_stopping: the broker is about to stop and wants to lead nothing.
        process: a random text of the process that registered.
    """

    directories: tuple[str, ...]
    page_cache: str = ""
    continues: int = 0
    is_stopping: bool = False
    process: str = ""


class BrokerEpochNode:
    """/brokers/epochs/<id>, persistent: raised by each registration and by the beginning of a stop.

    That makes a broker epoch of its version: it can be checked in a multi and is known without a read, which the id of the
    transaction that made an ephemeral node (Kafka's broker epoch) is not.
    """

    @staticmethod
    def path(node_id: int) -> str:
        return f"{BROKER_EPOCHS}/{node_id}"

    @staticmethod
    def encode(epoch: BrokerEpoch) -> bytes:
        return dump(
            {
                "version": 1,
                "directories": list(epoch.directories),
                "page_cache": epoch.page_cache,
                "continues": epoch.continues,
                "stopping": epoch.is_stopping,
                "process": epoch.process,
            }
        )

    @staticmethod
    def decode(node_id: int, data: bytes) -> BrokerEpoch:
        return read(
            BrokerEpochNode.path(node_id),
            data,
            lambda value: BrokerEpoch(
                directories=tuple(value["directories"]),
                page_cache=value["page_cache"],
                continues=int(value["continues"]),
                is_stopping=bool(value["stopping"]),
                process=value["process"],
            ),
        )


class BrokerNode:
    """/brokers/ids/<id>, ephemeral. The feature `ottla` tells our brokers from Kafka's, which must not share a tree."""

    @staticmethod
    def path(node_id: int) -> str:
        return f"{BROKER_IDS}/{node_id}"

    @staticmethod
    def encode(
        endpoints: Sequence[Endpoint], rack: str | None, timestamp_ms: int, *, machine: str = "", listener: str = ""
    ) -> bytes:
        plain = next((e for e in endpoints if e.security_protocol == "PLAINTEXT"), None)
        return dump(
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
                "machine": machine,
                "inter_broker_listener": listener,
            }
        )

    @staticmethod
    def decode(node_id: int, data: bytes, broker_epoch: int, epoch: BrokerEpoch | None = None) -> BrokerImage:
        """Return the broker; what it says besides its address comes from its epoch node, whose version is `broker_epoch`."""
        path = BrokerNode.path(node_id)
        value = load(path, data)
        protocols = value.get("listener_security_protocol_map", {})
        endpoints = []
        for text in value.get("endpoints", ()):
            listener, _, address = text.partition("://")
            host, _, port = address.rpartition(":")
            if not port.isdecimal():
                raise BadNodeError(path, f"{text} is no endpoint")
            endpoints.append(Endpoint(listener, host.strip("[]"), int(port), protocols.get(listener, listener)))
        continues, is_stopping = (broker_epoch, False) if epoch is None else (epoch.continues, epoch.is_stopping)
        return BrokerImage(
            node_id,
            broker_epoch,
            tuple(endpoints),
            value.get("rack"),
            continues,
            is_stopping,
            value.get("machine", ""),
            "" if epoch is None else epoch.process,
            value.get("inter_broker_listener", ""),
        )

    @staticmethod
    def is_ours(data: bytes) -> bool:
        """Return whether one of our brokers wrote this, and not one of Apache Kafka's."""
        features = load(BROKER_IDS, data).get("features")
        return isinstance(features, dict) and "ottla" in features


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class UnfitNode:
    """/brokers/unfit/<id>: the partitions a broker holds and cannot lead: directory offline, log damaged, I/O that hangs."""

    @staticmethod
    def path(node_id: int) -> str:
        return f"{BROKER_UNFIT}/{node_id}"

    @staticmethod
    def encode(partitions: Iterable[tuple[bytes, int]]) -> bytes:
        by_topic: dict[str, list[int]] = {}
        for topic_id, partition in sorted(partitions):
            by_topic.setdefault(uuid_to_text(topic_id), []).append(partition)
        return dump({"version": 1, "partitions": by_topic})

    @staticmethod
    def decode(node_id: int, data: bytes) -> frozenset[tuple[bytes, int]]:
        """Return (topic id, partition) pairs."""

        def take(value: dict[str, Any]) -> frozenset[tuple[bytes, int]]:
            return frozenset(
                (uuid_from_text(topic_id), int(partition))
                for topic_id, partitions in value["partitions"].items()
                for partition in partitions
            )

        return read(UnfitNode.path(node_id), data, take)


class BrokerClockNode:
    """/brokers/clocks/<id>: written to compare clocks: when that was says the tree itself."""

    @staticmethod
    def path(node_id: int) -> str:
        return f"{BROKER_CLOCKS}/{node_id}"

    @staticmethod
    def encode() -> bytes:
        return dump({"version": 1})


class EndsNode:
    """/brokers/ends/<id>: log ends of the partitions that wait for an election because all their replicas were down."""

    @staticmethod
    def path(node_id: int) -> str:
        return f"{BROKER_ENDS}/{node_id}"

    @staticmethod
    def encode(ends: BrokerEnds) -> bytes:
        rows = [[uuid_to_text(t), p, *end] for (t, p), end in sorted(ends.ends.items())]
        return dump({"version": 1, "broker_epoch": ends.broker_epoch, "ends": rows})

    @staticmethod
    def decode(node_id: int, data: bytes) -> BrokerEnds:
        return read(
            EndsNode.path(node_id),
            data,
            lambda value: BrokerEnds(
                broker_epoch=int(value["broker_epoch"]),
                ends={(uuid_from_text(t), int(p)): LogEnd(int(e), int(o)) for t, p, e, o in value["ends"]},
            ),
        )
