"""Valid requests for every served API in every version: what the fuzzer starts from.

Filled from the schema, with a few words chosen by field so that requests get past the first lookups: topics, groups and
producers that exist, batches that are right. `Seeds.request(random)` draws one.

None of them lasts or grows without bound: CreateTopics and the like only validate, waits are milliseconds.
"""

from __future__ import annotations

import random as dice
from collections.abc import Callable, Mapping
from typing import Any

from tests.hostile.batches import good_batch, hostile_batch
from tests.hostile.layout import rows

from ottla.protocol.api import APIS, SERVED, ApiKey
from ottla.protocol.primitives import FIXED_SIZE
from ottla.protocol.schema import Field, Message, Struct, struct_named
from ottla.types import ZERO_UUID

TOPICS = tuple(f"fuzz-{number}" for number in range(4))
PARTITIONS = 2
GROUPS = tuple(f"fuzz-group-{number}" for number in range(200))
#: Of the Produce requests that are not mutated otherwise, this share carries a hostile batch.
HOSTILE_BATCHES = 0.6

_TOPIC_KEYS = (
    "retention.ms",
    "cleanup.policy",
    "segment.bytes",
    "max.message.bytes",
    "compression.type",
    "no.such.key",
)

#: How often an API is drawn, 1 unless named here. Produce and Fetch parse the most; joins make the broker wait.
WEIGHTS = {ApiKey.PRODUCE: 8.0, ApiKey.FETCH: 4.0, ApiKey.METADATA: 2.0, ApiKey.JOIN_GROUP: 0.5}

Choice = Callable[[dice.Random], Any]

#: A consumer subscription, version 0, to topic "fuzz-0".
_SUBSCRIPTION = b"\0\0\0\0\0\1\0\6fuzz-0\xff\xff\xff\xff"


def _topic(random: dice.Random) -> str:
    return random.choice(TOPICS) if random.random() < 0.9 else "no-such-topic"


def _group(random: dice.Random) -> str:
    return random.choice(GROUPS)


def _partition(random: dice.Random) -> int:
    return random.randrange(PARTITIONS) if random.random() < 0.9 else random.randrange(100)


def _offset(random: dice.Random) -> int:
    return random.choice((0, 0, 1, 10, 1000, -1))


_BY_NAME: dict[str, Choice] = {
    "topic": _topic,
    "name": _topic,
    "topic_name": _topic,
    "topic_names": lambda random: "no-such-topic",
    "group_id": _group,
    "groups": _group,
    "groups_names": lambda random: "no-such-group" if random.random() < 0.8 else _group(random),
    "coordinator_keys": _group,
    "key": _group,
    "key_type": lambda random: int(random.random() < 0.05),
    "member_id": lambda random: random.choice(("", "", "fuzz-member-1", "fuzz-member-2")),
    "group_instance_id": lambda random: random.choice((None, None, None, "instance-1")),
    "transactional_id": lambda random: None,
    "index": _partition,
    "partition": _partition,
    "partitions": _partition,
    "partition_index": _partition,
    "partition_indexes": _partition,
    "acks": lambda random: random.choice((1, -1, -1)),
    "timeout_ms": lambda random: 1000,
    "max_wait_ms": lambda random: random.choice((0, 0, 2)),
    "min_bytes": lambda random: random.choice((0, 1, 1)),
    "max_bytes": lambda random: random.choice((1, 4096, 1 << 20)),
    "partition_max_bytes": lambda random: random.choice((1, 100, 8192)),
    "isolation_level": lambda random: random.randrange(2),
    "session_id": lambda random: 0,
    "session_epoch": lambda random: random.choice((-1, -1, 0)),
    "replica_id": lambda random: -1,
    "current_leader_epoch": lambda random: random.choice((-1, -1, 0)),
    "last_fetched_epoch": lambda random: -1,
    "leader_epoch": lambda random: random.choice((0, 1)),
    "fetch_offset": _offset,
    "log_start_offset": lambda random: -1,
    "high_watermark": lambda random: (1 << 63) - 1,
    "offset": _offset,
    "committed_offset": _offset,
    "timestamp": lambda random: random.choice((-1, -2, -3, 0, 1_790_000_000_000)),
    "generation_id": lambda random: random.choice((-1, 0, 1)),
    "generation_id_or_member_epoch": lambda random: random.choice((-1, -1, 1)),
    "session_timeout_ms": lambda random: 6000,
    "rebalance_timeout_ms": lambda random: 100,
    "protocol_type": lambda random: "consumer",
    "producer_id": lambda random: random.choice((-1, -1, 1)),
    "producer_epoch": lambda random: random.choice((-1, -1, 0)),
    "transaction_timeout_ms": lambda random: 1000,
    "election_type": lambda random: random.randrange(2),
    "resource_type": lambda random: random.choice((2, 2, 4, 32)),
    "resource_name": lambda random: random.choice((*TOPICS, "1", "")),
    "configuration_keys": lambda random: random.choice(_TOPIC_KEYS),
    "client_software_name": lambda random: "fuzz",
    "client_software_version": lambda random: "1.0",
    "cluster_id": lambda random: None,
    "node_id": lambda random: -1,
    "states_filter": lambda random: random.choice(("Stable", "Empty", "NoSuchState")),
    "types_filter": lambda random: random.choice(("classic", "consumer")),
    "num_partitions": lambda random: random.choice((-1, 1, 2)),
    "replication_factor": lambda random: random.choice((-1, 1)),
    "broker_ids": lambda random: 1,
    "count": lambda random: random.choice((3, 4)),
    "validate_only": lambda random: True,
    "allow_auto_topic_creation": lambda random: random.random() < 0.5,
    "response_partition_limit": lambda random: 100,
    "include_cluster_authorized_operations": lambda random: random.random() < 0.5,
    "endpoint_type": lambda random: 1,
    "resource_types": lambda random: random.choice((2, 4)),
    "config_operation": lambda random: random.randrange(4),
    "metadata": lambda random: random.choice((b"", _SUBSCRIPTION, random.randbytes(6))),
    "committed_metadata": lambda random: "m",
}
_BY_STRUCT: dict[tuple[str, str], Choice] = {
    ("CreatableTopic", "name"): lambda random: f"new-{random.randrange(1000)}",
    ("CreatableTopicConfig", "name"): lambda random: random.choice(_TOPIC_KEYS),
    ("CreatableTopicConfig", "value"): lambda random: random.choice(("delete", "1000000", "", None)),
    ("AlterableConfig", "name"): lambda random: random.choice(_TOPIC_KEYS),
    ("AlterableConfig", "value"): lambda random: random.choice(("delete", "1000000", "", None)),
    ("AlterConfigsResource", "resource_name"): lambda random: random.choice(TOPICS),
    ("AlterConfigsResource", "resource_type"): lambda random: 2,
    ("JoinGroupRequestProtocol", "name"): lambda random: "range",
    ("DeleteTopicState", "name"): lambda random: "no-such-topic",
    ("DeleteRecordsPartition", "offset"): lambda random: random.choice((0, 1, -1)),
}


class Seeds:
    """Draws valid requests. `topic_ids` are those of the broker under test, by name."""

    def __init__(self, topic_ids: Mapping[str, bytes] | None = None) -> None:
        self.topic_ids = dict(topic_ids or {})
        keys = list(SERVED)
        self._versions = [(key, version) for key in keys for version in range(SERVED[key][0], SERVED[key][1] + 1)]
        weights = [
            WEIGHTS.get(key, 1.0) / (SERVED[key][1] - SERVED[key][0] + 1) for key, _ in self._versions
        ]  # each API alike, whatever its number of versions
        self._cumulative: list[float] = []
        total = 0.0
        for weight in weights:
            total += weight
            self._cumulative.append(total)

    def versions(self) -> list[tuple[ApiKey, int]]:
        """Return every served API and version."""
        return self._versions

    def request(self, random: dice.Random) -> tuple[Message, int]:
        """Return a valid request and its version."""
        key, version = random.choices(self._versions, cum_weights=self._cumulative)[0]
        return self.request_of(key, version, random), version

    def request_of(self, key: ApiKey, version: int, random: dice.Random) -> Message:
        """Return a valid request of one API and version."""
        message = APIS[key].request_class()()
        self._fill(message, version, random)
        return message

    def _fill(self, struct: Struct, version: int, random: dice.Random) -> None:
        cls = type(struct)
        for field in rows(cls):
            if not field.exists(version):
                continue
            if field.array:
                if field.is_nullable(version) and random.random() < 0.2:
                    setattr(struct, field.name, None)
                else:
                    count = random.choice((1, 1, 1, 2, 2, 3, 0))
                    setattr(struct, field.name, [self._value(cls, field, version, random) for _ in range(count)])
            else:
                setattr(struct, field.name, self._value(cls, field, version, random))

    def _value(self, owner: type[Struct], field: Field, version: int, random: dice.Random) -> Any:
        if field.type not in FIXED_SIZE and field.type not in ("string", "bytes", "records"):
            if field.is_nullable(version) and not field.array and random.random() < 0.5:
                return None
            inner = struct_named(owner, field.type)()
            self._fill(inner, version, random)
            return inner
        choice = _BY_STRUCT.get((owner.__name__, field.name)) or _BY_NAME.get(field.name)
        value = choice(random) if choice is not None else self._any(field, version, random)
        if value is None and (field.array or not field.is_nullable(version)):
            value = "" if field.type == "string" else b""
        if type(value) is str and field.type in FIXED_SIZE:
            return 0
        return value

    def _any(self, field: Field, version: int, random: dice.Random) -> Any:
        match field.type:
            case "uuid":
                return random.choice(list(self.topic_ids.values()) or [ZERO_UUID])
            case "records":
                return bytes(good_batch(random)) if random.random() > HOSTILE_BATCHES else hostile_batch(random)
            case "string":
                return random.choice(("", "x", "größe"))
            case "bytes":
                return random.randbytes(random.randrange(8))
            case "bool":
                return random.random() < 0.5
            case "float64":
                return 0.5
            case _:
                return random.choice((0, 1, 2))
