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

from ottla.protocol.api import SERVED, ApiKey

_UUID = re.compile(r"-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$|^[A-Za-z0-9_-]{22}$")


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

    return _rewrite(tree, ("producer_id",), name)


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


def _error_text(exchange: Exchange, tree: Any, side: Side) -> bool:
    def blank(value: Any) -> Any:
        return "<text>" if value else value

    return _rewrite(tree, ("error_message", "batch_index_error_message"), blank)


def _clock(exchange: Exchange, tree: Any, side: Side) -> bool:
    low, high = side.transcript.started_ms - 60_000, int(time.time() * 1_000) + 60_000

    def now(value: Any) -> Any:
        return "<now>" if isinstance(value, int) and low <= value <= high else value

    changed = _rewrite(tree, ("log_append_time_ms", "log_append_time"), now)
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
            if name in _UNORDERED and isinstance(value, list) and all(isinstance(item, dict) for item in value):
                ordered = sorted(value, key=_sort_key)
                changed |= ordered != value
                struct[name] = ordered
    return changed


_UNORDERED = {
    "topics", "responses", "results", "configs", "groups", "api_keys", "partitions", "partition_responses",
    "members", "config_resources", "replica_election_results", "partition_result", "synonyms_",
}  # fmt: skip
_SORT_BY = (
    "name", "topic", "group_id", "api_key", "resource_type", "resource_name", "index", "partition_index", "partition",
    "partition_id", "topic_id", "member_id", "error_code",
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


def _newer_versions(exchange: Exchange, tree: Any, side: Side) -> bool:
    if exchange.key != ApiKey.API_VERSIONS:
        return False
    changed = False
    for row in tree.get("api_keys", []):
        newer = ONLY_IN_4_4.get(row["api_key"], [])
        if row["max_version"] in newer:
            row["max_version"] -= len(newer)
            changed = True
    return changed


def _features(exchange: Exchange, tree: Any, side: Side) -> bool:
    if exchange.key != ApiKey.API_VERSIONS:
        return False
    for name in ("supported_features", "finalized_features", "finalized_features_epoch"):
        tree.pop(name, None)
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


def _documentation(exchange: Exchange, tree: Any, side: Side) -> bool:
    return _rewrite(tree, ("documentation",), lambda value: "<prose>" if value else value)


#: Keys whose values name this process, or that Kafka has for its quorum of controllers (KRaft).
_OF_THE_HOST = {
    "log.dirs", "log.dir", "listeners", "advertised.listeners", "listener.security.protocol.map", "metadata.log.dir",
    "controller.listener.names", "controller.quorum.voters", "controller.quorum.bootstrap.servers", "process.roles",
    "node.id", "broker.id", "zookeeper.connect",
}  # fmt: skip


def _host_configs(exchange: Exchange, tree: Any, side: Side) -> bool:
    if exchange.key != ApiKey.DESCRIBE_CONFIGS:
        return False
    changed = False
    for struct in structs(tree):
        if "configs" in struct:
            kept = [row for row in struct["configs"] if row["name"] not in _OF_THE_HOST]
            changed |= len(kept) != len(struct["configs"])
            struct["configs"] = kept
    return changed


def _compressed(exchange: Exchange, tree: Any, side: Side) -> bool:
    changed = False
    for struct in structs(tree):
        if "records_" in struct and struct["attributes"] & 0x07:
            struct["crc"] = struct["batch_length"] = "<of the compressor>"
            changed = True
    return changed


RULES = [
    Rule("topic ids", "every topic gets a random id; an id is compared as the topic it stands for", _topic_ids),
    Rule("member ids", "a coordinator makes member ids at random; compared by order of appearance", _member_ids),
    Rule("producer ids", "from blocks that other scripts use up; compared by appearance", _producer_ids),
    Rule("fetch session ids", "random numbers; compared by order of appearance", _session_ids),
    Rule("address", "the two brokers listen on different ports; each must name the one that was dialled", _address),
    Rule("cluster id", "random, but the same in every answer of one broker", _cluster_id),
    Rule("error text", "error messages are prose, ours in our own words; compared by being there", _error_text),
    Rule("clock", "times a broker takes from its clock", _clock),
    Rule("order", "Kafka's order comes from hash maps where the protocol promises none", _order),
    Rule("unserved APIs", "keys outside this broker's scope (transactions, ACLs, KIP-848, share groups ...)", _unserved_apis),
    Rule("newer versions", "the reference is Kafka 4.3.1; versions that only 4.4 has", _newer_versions),
    Rule("features", "KRaft's metadata.version and kraft.version, and features of the APIs out of scope", _features),
    Rule("quorum", "DescribeQuorum shows KRaft's metadata log: its epochs, offsets, directories and listeners", _quorum),
    Rule("disk", "DescribeLogDirs shows this host's path and how much of its disk is free at this moment", _disk),
    Rule("documentation", "what a key does is documented in our own words; compared by being there", _documentation),
    Rule("host configs", "values that name this process's paths, ports and ids, and KRaft's quorum", _host_configs),
    Rule("compressor", "another library compresses to other bytes; the records are compared", _compressed),
]  # fmt: skip
