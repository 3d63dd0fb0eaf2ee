"""Collects nodes, stores and topics while an app is written, and makes the `Topology` of them.

Names are numbered as Java's InternalStreamsBuilder numbers them with topology.optimization=none: one counter for nodes
and stores, which some operators advance without using the number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from ottla import serde as plain
from ottla.streams.context import Headers, NodeContext, Process
from ottla.streams.errors import TopologyError, need_topic
from ottla.streams.serdes import GUESS, TEXT, AnySerde
from ottla.streams.topology import (
    TIMES_STORE,
    AnyNode,
    ProcessorNode,
    RepartitionTopic,
    SinkNode,
    SourceNode,
    StoreKind,
    StoreSpec,
    SubTopology,
    Topology,
    group_nodes,
)
from ottla.streams.versions import segment_interval_ms

REPARTITION_CONFIGS = {
    "cleanup.policy": "delete",
    "segment.bytes": "52428800",
    "retention.ms": "-1",
    "message.timestamp.type": "CreateTime",
}
_COMPACTED = {"cleanup.policy": "compact", "message.timestamp.type": "CreateTime"}
#: What Java adds to the retention of a windowed changelog (windowstore.changelog.additional.retention.ms), and to the
#: compaction lag of a versioned one.
_ADDITIONAL_RETENTION_MS = 24 * 60 * 60 * 1000
_NUMBERED = re.compile(r"KSTREAM.*-[0-9]{10}")


class Builder:
    """One app's, while it is written."""

    def __init__(self, application_id: str, default_key: AnySerde | None, default_value: AnySerde | None) -> None:
        self.application_id = application_id
        self.default_key: AnySerde = default_key or TEXT
        self.default_value: AnySerde = default_value or plain.json()
        self.nodes: dict[str, AnyNode] = {}
        self.stores: dict[str, StoreSpec] = {}
        self.repartition_topics: dict[str, RepartitionTopic] = {}
        self.copartitioned: list[tuple[str, frozenset[str]]] = []
        #: Joins that take records without a key: repartitioning before them keeps such records, elsewhere it drops
        #: them.
        self.null_key_joins: list[str] = []
        self._filters: dict[str, str] = {}
        self._index = 0
        self._topic_sources: dict[tuple[str, ...], str] = {}
        #: Whether a timer asks for a leader: the instance that has the one partition of an internal topic.
        self.needs_leader = False

    def new_name(self, prefix: str) -> str:
        """Return a numbered name."""
        name = f"{prefix}{self._index:010d}"
        self._index += 1
        return name

    def name(self, given: str | None, prefix: str) -> str:
        """Return the given name, or a numbered one. A number is taken in any case, as in Java."""
        numbered = self.new_name(prefix)
        return numbered if given is None else given

    def store_name(self, given: str | None, prefix: str) -> str:
        """Return the name of a store, in Java's form."""
        return self.new_name(prefix + "STATE-STORE-") if given is None else given

    def key_or_default(self, serde: AnySerde | None) -> AnySerde:
        """Return a serde for keys that are written and read again."""
        return serde or self.default_key

    def value_or_default(self, serde: AnySerde | None) -> AnySerde:
        """Return a serde for values that are written and read again."""
        return serde or self.default_value

    def add(self, node: AnyNode, parents: Iterable[str]) -> str:
        """Add a node behind others and return its name.

        Raises:
            TopologyError: the name is taken.
        """
        if node.name in self.nodes:
            raise TopologyError(f"there are two operators named {node.name!r}; give one of them another name=")
        for parent in parents:
            node.parents.append(parent)
            self.nodes[parent].children.append(node.name)
        self.nodes[node.name] = node
        return node.name

    def processor(
        self,
        name: str,
        make: Callable[[NodeContext], Process],
        parents: Iterable[str],
        stores: Iterable[str] = (),
        on_error: Any = None,
    ) -> str:
        """Add an operator."""
        return self.add(ProcessorNode(name=name, make=make, stores=list(stores), on_error=on_error), parents)

    def source(self, node: SourceNode) -> str:
        """Add a source, or return the one that reads the same topics already, as Java does.

        Raises:
            TopologyError: the topics are read with other serdes, or together with others.
        """
        for topic in node.topics:
            need_topic("a source", topic)
        known = self._topic_sources.get(node.topics)
        if known is not None:
            there = self.nodes[known]
            assert isinstance(there, SourceNode)
            if (repr(there.key_serde), repr(there.value_serde)) != (repr(node.key_serde), repr(node.value_serde)):
                raise TopologyError(
                    f"{', '.join(node.topics)} is read twice, as {there.key_serde!r}/{there.value_serde!r} and as "
                    f"{node.key_serde!r}/{node.value_serde!r}"
                )
            if there.offset_reset != node.offset_reset:
                raise TopologyError(f"{', '.join(node.topics)} is read twice, with different offset_reset=")
            return known
        for topics in self._topic_sources:
            shared = set(topics) & set(node.topics)
            if shared:
                raise TopologyError(
                    f"{', '.join(sorted(shared))} is read by two sources with different lists of topics"
                )
        self._topic_sources[node.topics] = node.name
        return self.add(node, ())

    def add_store(self, spec: StoreSpec) -> str:
        """Add a store.

        Raises:
            TopologyError: the name is taken.
        """
        if spec.name in self.stores:
            raise TopologyError(f"there are two stores named {spec.name!r}; give one of them another store=")
        self.stores[spec.name] = spec
        return spec.name

    def changelog(self, store: str) -> str:
        """Return the changelog topic of a store."""
        return f"{self.application_id}-{store}-changelog"

    def key_value_store(
        self,
        name: str,
        key_serde: AnySerde | None,
        value_serde: AnySerde | None,
        *,
        kind: StoreKind = StoreKind.TIMESTAMPED_KEY_VALUE,
        logged: bool = True,
        home: str = "default",
        generated: bool = False,
        is_global: bool = False,
        changelog: str | None = None,
        cached: bool = True,
    ) -> str:
        """Add a store of keys and values.

        Args:
            changelog: a source topic that serves as the changelog.
            cached: of tables; other stores have no cache in any case.
        """
        return self.add_store(
            StoreSpec(
                name=name,
                kind=kind,
                key_serde=self.key_or_default(key_serde),
                value_serde=self.value_or_default(value_serde),
                changelog=changelog or (self.changelog(name) if logged else None),
                source_changelog=changelog is not None,
                changelog_configs=_COMPACTED,
                home=home,
                is_global=is_global,
                cached=cached and kind is StoreKind.TIMESTAMPED_KEY_VALUE and not is_global,
                generated_name=generated,
            )
        )

    def table_store(
        self,
        name: str,
        key_serde: AnySerde | None,
        value_serde: AnySerde | None,
        *,
        history_ms: int | None,
        generated: bool,
        home: str = "default",
        changelog: str | None = None,
        ttl_ms: int | None = None,
    ) -> str:
        """Add the store of a table: with versions, if it has a history, and with values that go, if they have a time to
        live.

        Raises:
            TopologyError: it has both.
        """
        if ttl_ms is not None:
            if history_ms is not None:
                raise TopologyError(f"the store {name} has versions or a time to live, not both")
            return self.expiring_store(
                name, key_serde, value_serde, ttl_ms=ttl_ms, home=home, of_table=True, generated=generated
            )
        if history_ms is not None:
            return self.versioned_store(
                name, key_serde, value_serde, retention_ms=history_ms, generated=generated, home=home
            )
        return self.key_value_store(name, key_serde, value_serde, generated=generated, home=home, changelog=changelog)

    def versioned_store(
        self,
        name: str,
        key_serde: AnySerde | None,
        value_serde: AnySerde | None,
        *,
        retention_ms: int,
        generated: bool = False,
        home: str = "default",
    ) -> str:
        """Add a store of keys and versions of their values (KIP-889); it has no cache."""
        configs = {**_COMPACTED, "min.compaction.lag.ms": str(retention_ms + _ADDITIONAL_RETENTION_MS)}
        return self.add_store(
            StoreSpec(
                name=name,
                kind=StoreKind.VERSIONED,
                key_serde=self.key_or_default(key_serde),
                value_serde=self.value_or_default(value_serde),
                changelog=self.changelog(name),
                changelog_configs=configs,
                retention_ms=retention_ms,
                segment_interval_ms=segment_interval_ms(retention_ms),
                home=home,
                generated_name=generated,
            )
        )

    def expiring_store(
        self,
        name: str,
        key_serde: AnySerde | None,
        value_serde: AnySerde | None,
        *,
        ttl_ms: int,
        logged: bool = True,
        home: str = "default",
        of_table: bool = False,
        generated: bool = False,
    ) -> str:
        """Add a store of keys and values that live for a time."""
        return self.add_store(
            StoreSpec(
                name=name,
                kind=StoreKind.EXPIRING,
                key_serde=self.key_or_default(key_serde),
                value_serde=self.value_or_default(value_serde),
                changelog=self.changelog(name) if logged else None,
                changelog_configs=_COMPACTED,
                retention_ms=ttl_ms,
                home=home,
                of_table=of_table,
                generated_name=generated,
            )
        )

    def windowed_store(
        self,
        name: str,
        kind: StoreKind,
        key_serde: AnySerde | None,
        value_serde: AnySerde | None,
        *,
        size_ms: int,
        retention_ms: int,
        generated: bool,
        duplicates: bool = False,
        time_ordered: bool = False,
        open_ms: int | None = None,
        home: str = "default",
    ) -> str:
        """Add a store of windows or sessions."""
        configs = {
            "cleanup.policy": "delete" if duplicates else "compact,delete",
            "retention.ms": str(retention_ms + _ADDITIONAL_RETENTION_MS),
            "message.timestamp.type": "CreateTime",
        }
        return self.add_store(
            StoreSpec(
                name=name,
                kind=kind,
                key_serde=self.key_or_default(key_serde),
                value_serde=self.value_or_default(value_serde),
                changelog=self.changelog(name),
                changelog_configs=configs,
                retention_ms=retention_ms,
                segment_interval_ms=max(retention_ms // 2, 60_000),
                window_size_ms=size_ms,
                retain_duplicates=duplicates,
                time_ordered=time_ordered,
                open_ms=open_ms,
                home=home,
                cached=not (duplicates or time_ordered),
                generated_name=generated,
            )
        )

    def repartition(
        self,
        prefix: str,
        parent: str,
        key_serde: AnySerde | None,
        value_serde: AnySerde | None,
        *,
        partitions: int | None = None,
        partitioner: Any = None,
        generated: bool,
    ) -> str:
        """Add a repartition topic with its sink and source, and return the source's name."""
        short = prefix if prefix.endswith("-repartition") else f"{prefix}-repartition"
        sink = self.new_name("KSTREAM-SINK-")
        filter_name = self.new_name("KSTREAM-FILTER-")
        source = self.new_name("KSTREAM-SOURCE-")
        if not _NUMBERED.fullmatch(prefix):
            sink, filter_name, source = f"{short}-sink", f"{short}-filter", f"{short}-source"
        passed = self.processor(filter_name, pass_on, [parent])
        self._filters[source] = filter_name
        return self.through_topic(
            short,
            passed,
            sink,
            source,
            key_serde,
            value_serde,
            partitions=partitions,
            partitioner=partitioner,
            generated=generated,
        )

    def through_topic(
        self,
        short: str,
        parent: str,
        sink: str,
        source: str,
        key_serde: AnySerde | None,
        value_serde: AnySerde | None,
        *,
        partitions: int | None = None,
        partitioner: Any = None,
        generated: bool,
    ) -> str:
        """Add an internal topic "<app>-<short>" between a sink and a source; return the source's name.

        Raises:
            TopologyError: the topic is there already.
        """
        topic = f"{self.application_id}-{short}"
        if topic in self.repartition_topics:
            raise TopologyError(f"there are two repartition topics {topic}; give one of the operators another name=")
        self.repartition_topics[topic] = RepartitionTopic(
            name=topic, partitions=partitions, configs=REPARTITION_CONFIGS, generated_name=generated
        )
        key, value = self.key_or_default(key_serde), self.value_or_default(value_serde)
        self.add(SinkNode(name=sink, topic=topic, key_serde=key, value_serde=value, partitioner=partitioner), [parent])
        return self.add(
            SourceNode(name=source, topics=(topic,), key_serde=key, value_serde=value, offset_reset="earliest"), ()
        )

    def sink(
        self,
        name: str,
        parent: str,
        topic: Any,
        key_serde: AnySerde | None,
        value_serde: AnySerde | None,
        partitioner: Any,
        on_error: Any,
    ) -> None:
        """Add a sink to a topic that is not the app's own.

        Raises:
            TopologyError: `topic` is neither a topic's name nor a function that names one.
        """
        if not callable(topic):
            need_topic("to()", topic)
        self.add(
            SinkNode(
                name=name,
                topic=topic,
                key_serde=key_serde or GUESS,
                value_serde=value_serde or GUESS,
                partitioner=partitioner,
                on_error=on_error,
            ),
            [parent],
        )

    def topics_of(self, sources: Iterable[str]) -> list[str]:
        """Return the topics that sources read."""
        topics: list[str] = []
        for name in sources:
            node = self.nodes[name]
            assert isinstance(node, SourceNode)
            topics.extend(node.topics)
        return topics

    def copartition(self, operator: str, sources: Iterable[str]) -> None:
        """Note that the topics of these sources must have the same number of partitions."""
        self.copartitioned.append((operator, frozenset(self.topics_of(sources))))

    def build(self) -> Topology:
        """Return what was written so far.

        Raises:
            TopologyError: nothing is read, or a store is used by no operator.
        """
        all_nodes, repartition_topics = dict(self.nodes), dict(self.repartition_topics)
        if self.needs_leader:  # last, so that the numbers of tasks are what they were
            topic = leader_topic(self.application_id)
            repartition_topics[topic] = RepartitionTopic(name=topic, partitions=1, configs=REPARTITION_CONFIGS)
            source = SourceNode(name="leader-source", topics=(topic,), offset_reset="earliest")
            all_nodes[source.name] = source
        if not any(isinstance(node, SourceNode) for node in all_nodes.values()):
            raise TopologyError("the app reads no topic: begin with app.stream(topic) or app.table(topic)")
        kept = self._before_null_key_joins()
        for name in self._filters.values():
            node = self.nodes[name]
            assert isinstance(node, ProcessorNode)
            node.make = pass_on if name in kept else drop_null_keys
        users: dict[str, list[str]] = {name: [] for name in self.stores}
        for name, node in self.nodes.items():
            if isinstance(node, ProcessorNode):
                for store in node.stores:
                    if store not in self.stores:
                        raise TopologyError(
                            f"{name} uses the store {store!r}, which does not exist; app.add_store makes it"
                        )
                    users[store].append(name)
        for store, found in users.items():
            if not found:
                raise TopologyError(f"no operator uses the store {store!r}; name it in stores=[...] of process()")
        shared = [found for store, found in users.items() if not self.stores[store].is_global]
        made = []
        for number, names in enumerate(group_nodes(all_nodes, shared)):
            members = set(names)
            is_global = any(isinstance(node := all_nodes[name], SourceNode) and node.is_global for name in names)
            specs = [
                spec
                for store, spec in self.stores.items()
                if members & set(users[store]) and (is_global or not spec.is_global)
            ]
            if specs:
                specs.append(StoreSpec(name=TIMES_STORE, kind=StoreKind.TIMES))
            nodes = {name: replace(all_nodes[name]) for name in names}
            made.append(SubTopology(id=number, nodes=nodes, stores=tuple(specs), is_global=is_global))
        return Topology(
            application_id=self.application_id,
            sub_topologies=tuple(made),
            repartition_topics=repartition_topics,
            copartitioned=tuple(self.copartitioned),
        )

    def _before_null_key_joins(self) -> set[str]:
        """Return every node from which a record can come to a join that takes null keys."""
        found: set[str] = set()
        waiting = list(self.null_key_joins)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += self.nodes[name].parents
                if name in self._filters:
                    waiting.append(self._filters[name])
        return found


def leader_topic(application_id: str) -> str:
    """Return the internal topic whose one partition makes an instance the leader. Nothing is ever in it.

    It is named like a repartition topic, so that tools which reset applications remove it.
    """
    return f"{application_id}-leader-repartition"


def drop_null_keys(context: NodeContext) -> Process:
    """An operator before a repartition topic: nothing behind it does anything with records without a key."""
    forward = context.forward

    def process(key: Any, value: Any, timestamp: int, headers: Headers) -> None:
        if key is not None:
            forward(key, value, timestamp, headers)

    return process


def pass_on(context: NodeContext) -> Process:
    """An operator that hands on what it is given."""
    return context.forward
