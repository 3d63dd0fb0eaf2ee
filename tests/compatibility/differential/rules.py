"""What may differ between two correct brokers: named rules, each with the fact that forces it.

A rule rewrites one answer's tree so that what is compared is what the protocol promises. Symbols replace values that
brokers choose freely, in a way that keeps identity: the same id twice becomes the same symbol twice.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.compatibility.differential.script import ONLY_IN_4_4
from tests.compatibility.differential.wire import Exchange, Transcript

from ottla.protocol.api import FEATURES, SERVED, ApiKey

_UUID = re.compile(r"-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$|^[A-Za-z0-9_-]{22}$")


class _Anything:
    """In the reference's tree: whatever the candidate has here is right."""

    def __repr__(self) -> str:
        return "<anything>"


ANYTHING = _Anything()


@dataclass
class Side:
    """One broker's transcript while it is normalised."""

    transcript: Transcript
    is_reference: bool
    symbols: dict[tuple[str, Any], str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def symbol(self, kind: str, value: Any) -> str:
        """The name of a value the broker chose: `<member 3>` is the third such value it showed."""
        if (kind, value) not in self.symbols:
            self.counts[kind] = self.counts.get(kind, 0) + 1
            self.symbols[kind, value] = f"<{kind} {self.counts[kind]}>"
        return self.symbols[kind, value]


@dataclass(frozen=True)
class Rule:
    """`apply` changes a tree in place and says whether it did."""

    name: str
    reason: str
    apply: Callable[[Exchange, Any, Side], bool]


def structs(tree: Any) -> Iterator[dict[str, Any]]:
    """Every struct of a tree, the outermost first."""
    if isinstance(tree, dict):
        yield tree
        for value in list(tree.values()):
            yield from structs(value)
    elif isinstance(tree, list):
        for item in tree:
            yield from structs(item)


def _rewrite(tree: Any, names: tuple[str, ...], change: Callable[[Any], Any]) -> bool:
    """Replace the values of the named fields wherever they occur, lists item by item."""
    changed = False
    for struct in structs(tree):
        for name in names:
            if name in struct:
                old = struct[name]
                new = [change(item) for item in old] if isinstance(old, list) else change(old)
                changed |= new != old
                struct[name] = new
    return changed


def _topic_ids(exchange: Exchange, tree: Any, side: Side) -> bool:
    known = side.transcript.topic_ids

    def name(value: Any) -> Any:
        return f"<id of {known[value]}>" if value in known else value

    changed = _rewrite(tree, ("topic_id",), name)
    if exchange.key == ApiKey.FIND_COORDINATOR:  # a share coordinator is asked for by a key with a topic id in it
        changed |= _rewrite(tree, ("key",), lambda key: ":".join(map(name, key.split(":"))))
    if exchange.key in (ApiKey.CREATE_TOPICS, ApiKey.METADATA, ApiKey.DESCRIBE_TOPIC_PARTITIONS):
        for struct in structs(tree):  # topics of the script's own requests, met before their id was noted
            value = struct.get("topic_id")
            if isinstance(value, str) and not value.startswith("<") and value != "A" * 22 and struct.get("name"):
                struct["topic_id"] = f"<id of {struct['name']}>"
                changed = True
    return changed


def _member_ids(exchange: Exchange, tree: Any, side: Side) -> bool:
    def name(value: Any) -> Any:
        return side.symbol("member", value) if isinstance(value, str) and _UUID.search(value) else value

    return _rewrite(tree, ("member_id", "leader"), name)


def _producer_ids(exchange: Exchange, tree: Any, side: Side) -> bool:
    def name(value: Any) -> Any:
        return (
            side.symbol("producer", value)
            if isinstance(value, int) and 0 <= value < 10**9 and value != 4_000
            else value
        )

    changed = _rewrite(tree, ("producer_id",), name)
    for struct in structs(tree):  # the CRC of a batch covers its producer's id
        if "records_" in struct and isinstance(struct.get("producer_id"), str):
            struct["crc"] = "<of the producer>"
    return changed


def _session_ids(exchange: Exchange, tree: Any, side: Side) -> bool:
    return _rewrite(tree, ("session_id",), lambda value: side.symbol("session", value) if value else value)


def _address(exchange: Exchange, tree: Any, side: Side) -> bool:
    port = side.transcript.port
    changed = False
    for struct in structs(tree):
        if struct.get("host") in ("127.0.0.1", "localhost") and struct.get("port") == port:
            struct["host"] = "<the address dialled>"
            struct["port"] = 0
            changed = True
    return changed


def _cluster_id(exchange: Exchange, tree: Any, side: Side) -> bool:
    own = side.transcript.cluster_id
    return _rewrite(tree, ("cluster_id",), lambda value: "<cluster id>" if value == own else value)


def _prose(exchange: Exchange, tree: Any, side: Side) -> bool:
    def blank(value: Any) -> Any:
        return "<text>" if value else ANYTHING if side.is_reference else value

    return _rewrite(tree, ("error_message", "batch_index_error_message", "documentation", "status_detail"), blank)


def _clock(exchange: Exchange, tree: Any, side: Side) -> bool:
    low, high = side.transcript.started_ms - 60_000, int(time.time() * 1_000) + 60_000

    def now(value: Any) -> Any:
        return "<now>" if isinstance(value, int) and low <= value <= high else value

    changed = _rewrite(
        tree,
        (
            "log_append_time_ms",
            "log_append_time",
            "transaction_start_time",
            "transaction_start_time_ms",
            "last_timestamp",
        ),
        now,
    )
    for struct in structs(tree):  # batches stamped by the broker, with the CRC over the stamp
        if "records_" in struct and struct["attributes"] & 0x08 and now(struct["max_timestamp"]) == "<now>":
            struct["max_timestamp"] = struct["crc"] = "<now>"
            struct["records_"] = [[record[0], "<now>", *record[2:]] for record in struct["records_"]]
            changed = True
    return changed


def _order(exchange: Exchange, tree: Any, side: Side) -> bool:
    changed = False
    for struct in structs(tree):
        for name, value in struct.items():
            if exchange.key in _ORDERED and name != "active_producers":
                continue
            if exchange.key == ApiKey.DESCRIBE_TRANSACTIONS and name == "partitions":
                changed |= sorted(value) != value
                struct[name] = sorted(value)
            elif name in _UNORDERED and isinstance(value, list) and all(isinstance(item, dict) for item in value):
                ordered = sorted(value, key=_sort_key)
                changed |= ordered != value
                struct[name] = ordered
    return changed


#: APIs that Kafka answers in the order of the question (or, a fetch session, by turns): the order is compared.
#: Produce is none of them: Kafka collects its partitions in a map whose hash takes in the random topic id.
_ORDERED = {
    ApiKey.FETCH, ApiKey.LIST_OFFSETS, ApiKey.FIND_COORDINATOR, ApiKey.LEAVE_GROUP, ApiKey.API_VERSIONS,
    ApiKey.CREATE_TOPICS, ApiKey.DELETE_RECORDS, ApiKey.OFFSET_FOR_LEADER_EPOCH, ApiKey.ALTER_CONFIGS,
    ApiKey.INCREMENTAL_ALTER_CONFIGS, ApiKey.OFFSET_DELETE, ApiKey.DESCRIBE_PRODUCERS,
    ApiKey.DESCRIBE_TOPIC_PARTITIONS,
}  # fmt: skip

_UNORDERED = {
    "topics", "responses", "results", "configs", "groups", "api_keys", "partitions", "partition_responses",
    "members", "config_resources", "replica_election_results", "partition_result", "synonyms_", "results_by_transaction",
    "results_by_topic_v3_and_below", "topic_results", "results_by_partition", "transaction_states", "active_producers",
    "topic_partitions",
}  # fmt: skip
_SORT_BY = (
    "name", "topic", "group_id", "api_key", "resource_type", "resource_name", "index", "partition_index", "partition",
    "partition_id", "topic_id", "member_id", "transactional_id", "producer_id", "error_code",
)  # fmt: skip


def _sort_key(struct: dict[str, Any]) -> str:
    return repr(
        [
            f"{struct[name]:>10}" if isinstance(struct[name], int) else struct[name]
            for name in _SORT_BY
            if name in struct
        ]
    )


def _unserved_apis(exchange: Exchange, tree: Any, side: Side) -> bool:
    if exchange.key != ApiKey.API_VERSIONS or not side.is_reference or "api_keys" not in tree:
        return False
    kept = [row for row in tree["api_keys"] if row["api_key"] in SERVED]
    changed = len(kept) != len(tree["api_keys"])
    tree["api_keys"] = kept
    return changed


#: Configuration keys of Kafka 4.4 that 4.3.1 lacks (../shared/reference and the answers of 4.3.1 itself).
_KEYS_ONLY_IN_4_4 = {
    "errors.deadletterqueue.auto.create.topics.enable", "errors.deadletterqueue.copy.record.enable",
    "errors.deadletterqueue.group.enable", "errors.deadletterqueue.topic.name", "errors.deadletterqueue.topic.name.prefix",
    "group.consumer.assignor.offload.enable", "group.share.assignor.offload.enable", "group.streams.assignor.offload.enable",
    "group.streams.assignors", "group.streams.rack.aware.assignment.tags", "group.streams.topology.description.plugin.class",
    "log.remote.copy.lag.bytes", "log.remote.copy.lag.ms", "max.decompressed.message.bytes", "remote.copy.lag.bytes",
    "remote.copy.lag.ms", "sasl.oauthbearer.allow.unverified.audience", "sasl.oauthbearer.allow.unverified.issuer",
    "streams.assignor.name", "streams.rack.aware.assignment.tags",
}  # fmt: skip


_MODERN_DESCRIBES = (ApiKey.CONSUMER_GROUP_DESCRIBE, ApiKey.SHARE_GROUP_DESCRIBE, ApiKey.STREAMS_GROUP_DESCRIBE)


def _newer_versions(exchange: Exchange, tree: Any, side: Side) -> bool:
    changed = False
    if exchange.key == ApiKey.API_VERSIONS:
        rows = tree.get("api_keys", [])
        for row in rows:
            newer = ONLY_IN_4_4.get(row["api_key"], [])
            if row["max_version"] in newer:
                row["max_version"] -= len(newer)
                changed = True
        if changed:  # of an API that is all new nothing is left
            tree["api_keys"] = [row for row in rows if row["max_version"] >= row["min_version"]]
    if exchange.key in (ApiKey.DESCRIBE_CONFIGS, ApiKey.CREATE_TOPICS):
        changed = _drop_configs(tree, _KEYS_ONLY_IN_4_4)
    if exchange.key == ApiKey.STREAMS_GROUP_HEARTBEAT and side.is_reference:  # it always says 0
        tree["task_offset_interval"] = ANYTHING
    if exchange.key in _MODERN_DESCRIBES and side.is_reference:
        for struct in structs(tree):  # KAFKA-20442: nobody has anything, and that is an assignment
            if struct.get("group_state") == "Empty":
                struct["assignment_epoch"] = ANYTHING
    return changed


def _drop_configs(tree: Any, names: set[str]) -> bool:
    changed = False
    for struct in structs(tree):
        if isinstance(rows := struct.get("configs"), list):
            struct["configs"] = [row for row in rows if row["name"] not in names]
            changed |= len(struct["configs"]) != len(rows)
    return changed


def _features(exchange: Exchange, tree: Any, side: Side) -> bool:
    if exchange.key != ApiKey.API_VERSIONS:
        return False
    known = {name for name, _, _ in FEATURES}
    for name in ("supported_features", "finalized_features"):
        rows = [row for row in tree.get(name, ()) if row["name"] in known]
        tree[name] = sorted(rows, key=lambda row: str(row["name"]))
    if tree.get("finalized_features_epoch", -1) >= 0:
        tree["finalized_features_epoch"] = "<of the features>"
    return True


def _quorum(exchange: Exchange, tree: Any, side: Side) -> bool:
    if exchange.key != ApiKey.DESCRIBE_QUORUM:
        return False
    for struct in structs(tree):
        for name in (
            "leader_epoch",
            "high_watermark",
            "log_end_offset",
            "last_fetch_timestamp",
            "last_caught_up_timestamp",
        ):
            if struct.get(name, -1) >= 0:
                struct[name] = "<of the metadata log>"
        if "replica_directory_id" in struct:
            struct["replica_directory_id"] = "<directory>"
        if "listeners" in struct:
            struct["listeners"] = len(struct["listeners"])
    return True


def _disk(exchange: Exchange, tree: Any, side: Side) -> bool:
    if exchange.key != ApiKey.DESCRIBE_LOG_DIRS:
        return False
    for struct in structs(tree):
        if "log_dir" in struct:
            struct["log_dir"] = "<path>"
        for name in ("total_bytes", "usable_bytes"):
            if struct.get(name, 0) > 0:
                struct[name] = "<of the disk>"
    return True


#: Keys whose values name this process, or that Kafka has for its quorum of controllers (KRaft).
_OF_THE_HOST = {
    "log.dirs", "log.dir", "listeners", "advertised.listeners", "listener.security.protocol.map", "metadata.log.dir",
    "controller.listener.names", "controller.quorum.voters", "controller.quorum.bootstrap.servers", "process.roles",
    "node.id", "broker.id", "zookeeper.connect",
}  # fmt: skip


def _host_configs(exchange: Exchange, tree: Any, side: Side) -> bool:
    return exchange.key == ApiKey.DESCRIBE_CONFIGS and _drop_configs(tree, _OF_THE_HOST)


def _quorum_configs(exchange: Exchange, tree: Any, side: Side) -> bool:
    """KRaft with eligible leader replicas stores min.insync.replicas for all brokers when it is formatted.

    AlterConfigs, which replaces everything, would remove it there, and is refused.
    """
    if exchange.key == ApiKey.ALTER_CONFIGS and side.is_reference:
        for struct in structs(tree):
            if (struct.get("resource_type"), struct.get("resource_name"), struct.get("error_code")) == (
                4, "", "INVALID_CONFIG",
            ):  # fmt: skip
                struct["error_code"] = struct["error_message"] = ANYTHING
                return True
    if exchange.key not in (ApiKey.DESCRIBE_CONFIGS, ApiKey.CREATE_TOPICS) or not side.is_reference:
        return False
    changed = False
    for struct in structs(tree):
        if isinstance(rows := struct.get("configs"), list) and (
            struct.get("resource_type"),
            struct.get("resource_name"),
        ) == (4, ""):
            struct["configs"] = [row for row in rows if row["name"] != "min.insync.replicas"]
            changed |= len(struct["configs"]) != len(rows)
        if struct.get("name") == "min.insync.replicas" and struct.get("config_source") == _DYNAMIC_DEFAULT_BROKER:
            struct["config_source"], struct["synonyms"] = _DEFAULT, ANYTHING
            changed = True
    return changed


_DYNAMIC_DEFAULT_BROKER, _DEFAULT = 3, 5


def _compressed(exchange: Exchange, tree: Any, side: Side) -> bool:
    changed = False
    if exchange.key == ApiKey.DESCRIBE_LOG_DIRS:  # topics that the broker compresses itself
        for struct in structs(tree):
            if str(struct.get("name")).startswith("produce-to-"):
                struct["partitions"] = "<of the compressor>"
                changed = True
    for struct in structs(tree):
        if "records_" in struct and struct["attributes"] & 0x07:
            struct["crc"] = struct["batch_length"] = "<of the compressor>"
            changed = True
    return changed


def _partial_batch(exchange: Exchange, tree: Any, side: Side) -> bool:
    changed = False
    for struct in structs(tree):
        batches = struct.get("records")
        if side.is_reference and isinstance(batches, list) and batches and "partial_bytes" in batches[-1]:
            batches.pop()
            changed = True
    return changed


def _created_later(exchange: Exchange, tree: Any, side: Side) -> bool:
    if exchange.key != ApiKey.METADATA or not exchange.name.endswith(": created") or not side.is_reference:
        return False
    [topic] = tree["topics"]
    if topic["error_code"] == "UNKNOWN_TOPIC_OR_PARTITION":
        tree["topics"] = ANYTHING
    return True


#: Questions that Kafka answers by an exception it did not mean to throw (its log shows it), or by a wrong value.
FAULTS = {
    "topics.metadata: by nothing": "NullPointerException in Topic.validate, answered as UNKNOWN_SERVER_ERROR",
    "produce.every_version: null records": "NullPointerException in ProduceRequest.partitionSizes, never answered",
    "frames.api_versions: name of bad UTF-8": "reads what is no text as U+FFFD, so that different names become one",
    "transactions.adding: no transactions": "no answer is ever sent: it waits for transactions that are not there",
    "transactions.offsets: unknown transactional id": "not asked again while the partition is in a transaction of it",
    "features.transactions_at_each_level: at {}: features-survivor-used begins again": "locks the id up for good",
    "consumer_groups.offsets: fetch: null member": "NullPointerException, answered as UNKNOWN_SERVER_ERROR",
    "consumer_groups.mixed: mixed-{}: by unreadable protocols": "IllegalStateException, answered as UNKNOWN_SERVER_ERROR",
    "consumer_groups.not_convertible: unreadable: joins consumers, second step": "IllegalStateException likewise",
    "consumer_groups.not_convertible: empty: joins consumers, second step": "IllegalStateException likewise",
    "consumer_groups.not_convertible: version-{}: joins consumers, second step": "IllegalStateException likewise",
    "share_state.batches: v{}: backwards: read": "keeps a batch that ends before it begins",
    "streams_groups.topologies: epoch -{}": "lets the negative epoch reach an assertion: UNKNOWN_SERVER_ERROR",
    "streams_groups.two_members: B takes over": "a member that says it lacks tasks is not told them again: lost for good",
    **{
        f"share_fetch.strange_topics: {question}": "throws on a topic it has no name for: UNKNOWN_SERVER_ERROR"
        for question in (
            "begins with an unknown topic",
            "adds an unknown topic",
            "begins with no topic at all",
            "adds no topic at all",
        )
    },
    "share_fetch.strange_topics: a partition twice": "throws likewise",
    "fetch.delete_records: offsets-delete-{}: max timestamp after deletion": "names an offset below the log start",
}


def is_fault(exchange: Exchange) -> bool:
    """Whether the reference's answer to this question is a fault of its own, and therefore not compared."""
    return re.sub(r"(?<=[- v])\d+(?=:|$)", "{}", exchange.name) in FAULTS or exchange.name in FAULTS


def _faults(exchange: Exchange, tree: Any, side: Side) -> bool:
    if not is_fault(exchange) or not side.is_reference:
        return False
    tree.clear()
    return True


RULES = [
    Rule("topic ids", "every topic gets a random id; an id is compared as the topic it stands for", _topic_ids),
    Rule("member ids", "a coordinator makes member ids at random; compared by order of appearance", _member_ids),
    Rule("producer ids", "from blocks that other scripts use up; compared by appearance", _producer_ids),
    Rule("fetch session ids", "random numbers; compared by order of appearance", _session_ids),
    Rule("address", "the two brokers listen on different ports; each must name the one that was dialled", _address),
    Rule("faults", "the reference throws by mistake or answers wrongly, see FAULTS", _faults),
    Rule("cluster id", "random, but the same in every answer of one broker", _cluster_id),
    Rule("prose", "error messages and documentation are in our own words; where Kafka has any, ours must", _prose),
    Rule("clock", "times a broker takes from its clock", _clock),
    Rule("order", "Kafka's order comes from hash maps where the protocol promises none", _order),
    Rule("unserved APIs", "keys outside this broker's scope (ACLs, quotas, delegation tokens ...)", _unserved_apis),
    Rule("newer versions", "the reference is Kafka 4.3.1; what only 4.4 has or does", _newer_versions),
    Rule("features", "KRaft's own features, and those out of scope; the epoch counts KRaft's records", _features),
    Rule("quorum", "DescribeQuorum shows KRaft's metadata log: its epochs, offsets, directories and listeners", _quorum),
    Rule("disk", "DescribeLogDirs shows this host's path and how much of its disk is free at this moment", _disk),
    Rule("host configs", "values that name this process's paths, ports and ids, and KRaft's quorum", _host_configs),
    Rule("quorum configs", "KRaft with eligible leader replicas stores min.insync.replicas at format", _quorum_configs),
    Rule("background creation", "KRaft answers an auto-creating Metadata before its controller has created", _created_later),
    Rule("partial batch", "Kafka cuts a fetch at a byte, and clients drop the piece; ours ends with a batch", _partial_batch),
    Rule("compressor", "another library compresses to other bytes; the records are compared", _compressed),
]  # fmt: skip
