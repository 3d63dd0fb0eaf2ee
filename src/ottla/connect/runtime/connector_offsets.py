"""Offsets of connectors as people see and change them: `/connectors/{name}/offsets` (KIP-875)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ottla import Admin, TopicPartition
from ottla.connect.runtime.herder import HerderError
from ottla.connect.runtime.offsets import KeptOffsets
from ottla.connect.settings import client_config
from ottla.errors import (
    GroupIdNotFoundError,
    GroupSubscribedToTopicError,
    KafkaError,
    NonEmptyGroupError,
    UnknownMemberIdError,
)

_LIMIT_S = 60.0
_WHOLE = re.compile(r"[+-]?[0-9]+")


def source_offsets(name: str, kept: KeptOffsets) -> list[dict[str, Any]]:
    """Return the offsets of a source's parts."""
    found = []
    for key, value in kept.entries.items():
        read = json.loads(key) if value is not None else None
        if isinstance(read, list) and len(read) == 2 and read[0] == name:
            assert value is not None
            found.append({"partition": read[1], "offset": json.loads(value)})
    return found


def check_sink_offsets(offsets: Sequence[tuple[Any, Any]]) -> list[tuple[str, int, int | None]]:
    """Return what a request says about a sink's group.

    Raises:
        HerderError: it is not what Java takes (400).
    """
    found: list[tuple[str, int, int | None]] = []
    for partition, offset in offsets:
        if partition is None:
            raise HerderError(400, "The partition for a sink connector offset cannot be null or missing")
        if not {"kafka_topic", "kafka_partition"} <= partition.keys():
            raise HerderError(
                400,
                "The partition for a sink connector offset must contain the keys 'kafka_topic' and 'kafka_partition'",
            )
        if partition["kafka_topic"] is None:
            raise HerderError(400, "Kafka topic names must be valid strings and may not be null")
        if partition["kafka_partition"] is None:
            raise HerderError(400, "Kafka partitions must be valid numbers and may not be null")
        number = _whole(partition["kafka_partition"])
        if number is None:
            raise HerderError(
                400,
                "Failed to parse the following Kafka partition value in the provided offsets: "
                f"'{partition['kafka_partition']}'. Partition values for sink connectors need to be integers.",
            )
        if offset is None:
            found.append((str(partition["kafka_topic"]), number, None))
            continue
        if "kafka_offset" not in offset:
            raise HerderError(
                400, "The offset for a sink connector should either be null or contain the key 'kafka_offset'"
            )
        place = _whole(offset["kafka_offset"])
        if place is None:
            raise HerderError(
                400,
                f"Failed to parse the following Kafka offset value in the provided offsets: '{offset['kafka_offset']}'. "
                "Offset values for sink connectors need to be integers.",
            )
        found.append((str(partition["kafka_topic"]), number, place))
    return found


def _whole(value: Any) -> int | None:
    text = str(value)
    return int(text) if _WHOLE.fullmatch(text) else None


def group_offsets(name: str, worker: Mapping[str, str], config: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the offsets of a sink's group.

    Raises:
        HerderError: the cluster does not answer (500).
    """
    try:
        with _admin(worker, config) as admin:
            kept = admin.list_group_offsets(_group(name, worker, config), timeout=_LIMIT_S)
    except GroupIdNotFoundError:
        return []
    except KafkaError as error:
        raise HerderError(
            500, f"Failed to retrieve consumer group offsets for sink connector {name}: {error}"
        ) from error
    return [
        {
            "partition": {"kafka_topic": where.topic, "kafka_partition": where.partition},
            "offset": {"kafka_offset": found.offset},
        }
        for where, found in sorted(kept.items())
    ]


def alter_group_offsets(
    name: str, worker: Mapping[str, str], config: Mapping[str, str], wanted: Sequence[tuple[str, int, int | None]]
) -> None:
    """Commit offsets for a sink's group, and delete those that are None.

    Raises:
        HerderError: the group still has members, or the cluster refuses (500).
    """
    group = _group(name, worker, config)
    put = {TopicPartition(topic, number): place for topic, number, place in wanted if place is not None}
    gone = [TopicPartition(topic, number) for topic, number, place in wanted if place is None]
    try:
        with _admin(worker, config) as admin:
            if put:
                admin.alter_group_offsets(group, put, timeout=_LIMIT_S)
            if gone:
                admin.delete_group_offsets(group, gone, timeout=_LIMIT_S)
    except (UnknownMemberIdError, NonEmptyGroupError, GroupSubscribedToTopicError) as error:
        raise HerderError(
            500,
            f"The offsets of {group} cannot be altered while it has members: a task of {name} has not ended yet, or another "
            "program uses the group. Try again when it has ended.",
        ) from error
    except KafkaError as error:
        raise HerderError(500, f"Failed to alter consumer group offsets for connector {name}: {error}") from error


def reset_group_offsets(name: str, worker: Mapping[str, str], config: Mapping[str, str]) -> None:
    """Delete a sink's group; it is no error when there is none.

    Raises:
        HerderError: the group still has members, or the cluster refuses (500).
    """
    try:
        with _admin(worker, config) as admin:
            admin.delete_group(_group(name, worker, config), timeout=_LIMIT_S)
    except GroupIdNotFoundError:
        pass
    except NonEmptyGroupError as error:
        raise HerderError(
            500,
            f"The offsets of {_group(name, worker, config)} cannot be reset while it has members: a task of {name} has not "
            "ended yet, or another program uses the group. Try again when it has ended.",
        ) from error
    except KafkaError as error:
        raise HerderError(500, f"Failed to reset consumer group offsets for sink connector {name}: {error}") from error


def _group(name: str, worker: Mapping[str, str], config: Mapping[str, str]) -> str:
    return client_config(worker, "consumer", config).get("group.id", f"connect-{name}")


def _admin(worker: Mapping[str, str], config: Mapping[str, str]) -> Admin:
    return Admin(worker.get("bootstrap.servers", "localhost:9092"), config=client_config(worker, "admin", config))
