"""The built topology: nodes, sub-topologies, stores and topics as plain data.

`App` makes one by `app.topology()`. It knows neither brokers nor stores: a `Task` makes operators of it, the runtime
makes topics and stores of it. Names and numbers are those of Java's Kafka Streams with topology.optimization=none, so
that `kafka-streams-application-reset` and people's tools find what they expect.

Invariant: a sub-topology is a connected component of nodes (edges, and stores that nodes share); its id is the order in
which its first node was added. Its tasks are numbered by partition: task "1_3" works on partition 3 of every source
topic of sub-topology 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from ottla.streams.errors import TopologyError

if TYPE_CHECKING:
    from ottla.streams.context import NodeContext, Process
    from ottla.streams.serdes import AnySerde

#: The store of a task that holds what its operators know of time, see `StoreKind.TIMES`.
TIMES_STORE = "$times"


class StoreKind(Enum):
    """What the entries of a store are. Every kind lies in one `Store` of bytes; `keys` has the formats."""

    #: key -> value
    KEY_VALUE = "key-value"
    #: key -> timestamp int64 | value
    TIMESTAMPED_KEY_VALUE = "timestamped key-value"
    #: key | timestamp int64 | sequence int32 -> value (joins keep duplicates by the sequence)
    WINDOW = "window"
    #: key | window start int64 | 0 int32 -> timestamp int64 | value
    TIMESTAMPED_WINDOW = "timestamped window"
    #: key | end int64 | start int64 -> value
    SESSION = "session"
    #: key -> versions (KIP-889); `versions` has the format
    VERSIONED = "versioned"
    #: key -> value, for a time; `expiring` has the format
    EXPIRING = "key-value with a time to live"
    #: time | key -> what waits there (suppress, the outer side of joins)
    BUFFER = "buffer"
    #: time | key | number -> a record that waits (joins with grace)
    QUEUE = "queue"
    #: name of an operator or store -> its stream time and what else must survive. Never has a changelog of its own:
    #: what it
    #: holds travels in the headers of the changelogs of the stores it belongs to, and `restoring` brings it back.
    TIMES = "times"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSpec:
    """One store of a sub-topology: every task of it has one.

    Attributes:
        changelog: the topic that each change goes to, or None. The task itself emits these records as outputs, to its
            own partition; the runtime only restores from it (`restoring.restorer`).
        source_changelog: the changelog is the table's source topic: nothing is written to it, and its value is not in
            Java's format of a changelog but simply what the topic holds.
        changelog_configs: for making the topic: cleanup.policy and so on, in Kafka's spelling.
        retention_ms: windowed kinds keep at least so much of stream time, versioned ones of versions,
            and values with a time to live have it here; else None.
        segment_interval_ms: both expire by whole segments of so much time (windows in Java: max(retention / 2, 60 s)).
        home: "default" (what the app's configuration says), "memory", "sqlite", "rocksdb".
    """

    name: str
    kind: StoreKind
    key_serde: AnySerde | None = None
    value_serde: AnySerde | None = None
    changelog: str | None = None
    source_changelog: bool = False
    changelog_configs: Mapping[str, str] = field(default_factory=dict)
    retention_ms: int | None = None
    segment_interval_ms: int | None = None
    window_size_ms: int | None = None
    #: A window takes records until stream time is so far behind its start (a session: its end); None: it is no window.
    open_ms: int | None = None
    retain_duplicates: bool = False
    #: Windows are emitted when they close. Java then keeps them in time order and counts the retention 1 ms longer.
    time_ordered: bool = False
    home: str = "default"
    is_global: bool = False
    #: Of values with a time to live: they are those of a table, whose operator says when they are gone.
    of_table: bool = False
    #: Updates of a key between two commits are one (`caching`), if the app has caches at all.
    cached: bool = False
    #: The name was made by counting: adding an operator before it changes it.
    generated_name: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RepartitionTopic:
    """A topic between two sub-topologies, made by the runtime.

    Attributes:
        name: with the application id: "<app>-<name>-repartition".
        partitions: a number, or None: as many as the largest of the topics that the writing sub-topologies read and,
            where it is joined, as its partners (`Topology.partition_counts`).
        configs: cleanup.policy=delete, retention.ms=-1 (what was read is purged), message.timestamp.type=CreateTime.
    """

    name: str
    partitions: int | None = None
    configs: Mapping[str, str] = field(default_factory=dict)
    generated_name: bool = False


@dataclass(slots=True, kw_only=True)
class Node:
    """What the three kinds of nodes share. `parents` and `children` are names."""

    name: str
    parents: list[str] = field(default_factory=list)
    children: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class SourceNode(Node):
    """Reads topics.

    Attributes:
        timestamp: a function of (record, the partition's time in ms or -1) -> ms, or None: the record's own.
        offset_reset: "earliest", "latest", or None: what the app says.
        on_error: a handler of its own for records that cannot be read, or None: the app's.
    """

    topics: tuple[str, ...]
    key_serde: AnySerde | None = None
    value_serde: AnySerde | None = None
    timestamp: Callable[[Any, int], int] | None = None
    offset_reset: str | None = None
    on_error: Any = None
    is_global: bool = False


@dataclass(slots=True, kw_only=True)
class ProcessorNode(Node):
    """An operator. `make` is called once for each task (and again after an abort) and returns what takes its
    records."""

    make: Callable[[NodeContext], Process]
    stores: list[str] = field(default_factory=list)
    on_error: Any = None


@dataclass(slots=True, kw_only=True)
class SinkNode(Node):
    """Writes to a topic, or to the topic that a function of (key, value, record context) names."""

    topic: str | Callable[[Any, Any, Any], str]
    key_serde: AnySerde | None = None
    value_serde: AnySerde | None = None
    partitioner: Callable[[str, Any, Any, int], int | None] | None = None
    on_error: Any = None


AnyNode = SourceNode | ProcessorNode | SinkNode


class TaskId(NamedTuple):
    """Written "<sub-topology>_<partition>", as Java does."""

    sub_topology: int
    partition: int

    def __str__(self) -> str:
        return f"{self.sub_topology}_{self.partition}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SubTopology:
    """Nodes that work together in one task.

    Attributes:
        nodes: in the order in which they were added (parents before children).
        stores: what a task of it must be given, TIMES_STORE included; global stores are not among them.
        is_global: it only fills a global table: every instance reads all partitions of its topic, before the other
            tasks start, without a group; it makes no tasks that are assigned.
    """

    id: int
    nodes: Mapping[str, AnyNode]
    stores: tuple[StoreSpec, ...]
    is_global: bool = False

    @property
    def sources(self) -> Iterator[SourceNode]:
        """The nodes that read topics."""
        return (node for node in self.nodes.values() if isinstance(node, SourceNode))

    @property
    def source_topics(self) -> tuple[str, ...]:
        """Every topic that its tasks read, repartition topics included."""
        return tuple(dict.fromkeys(topic for source in self.sources for topic in source.topics))

    @property
    def sink_topics(self) -> tuple[str, ...]:
        """Every topic that is known to be written to. Sinks that choose a topic for each record, and changelogs, are
        not here."""
        sinks = (node for node in self.nodes.values() if isinstance(node, SinkNode))
        return tuple(dict.fromkeys(sink.topic for sink in sinks if isinstance(sink.topic, str)))

    @property
    def changelogs(self) -> tuple[str, ...]:
        """The changelog topics of its stores, source topics that serve as such included."""
        return tuple(spec.changelog for spec in self.stores if spec.changelog is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Everything an app does, as data.

    Attributes:
        repartition_topics: by full name.
        copartitioned: groups of topics that must have the same number of partitions; each with the name of the operator
            that needs it.
    """

    application_id: str
    sub_topologies: tuple[SubTopology, ...]
    repartition_topics: Mapping[str, RepartitionTopic]
    copartitioned: tuple[tuple[str, frozenset[str]], ...] = ()

    @property
    def tasks(self) -> Iterator[SubTopology]:
        """The sub-topologies that make tasks."""
        return (sub for sub in self.sub_topologies if not sub.is_global)

    @property
    def global_stores(self) -> tuple[StoreSpec, ...]:
        """Stores that every task can read."""
        return tuple(spec for sub in self.sub_topologies if sub.is_global for spec in sub.stores if spec.is_global)

    @property
    def source_topics(self) -> tuple[str, ...]:
        """What exists before the app: topics that are read and not made by the app, those of global tables included."""
        topics = (topic for sub in self.sub_topologies for topic in sub.source_topics)
        return tuple(dict.fromkeys(topic for topic in topics if topic not in self.repartition_topics))

    def store(self, name: str) -> StoreSpec:
        """Return a store by its name.

        Raises:
            KeyError: there is none.
        """
        for sub in self.sub_topologies:
            for spec in sub.stores:
                if spec.name == name and spec.kind is not StoreKind.TIMES:
                    return spec
        raise KeyError(name)

    def partition_counts(self, known: Mapping[str, int]) -> dict[str, int]:
        """Return the number of partitions of every source and repartition topic.

        Args:
            known: of all topics that exist, repartition topics that exist already included.

        Raises:
            TopologyError: a source topic does not exist, topics that are joined differ, or an existing repartition
            topic has
                another number than it needs.
        """
        missing = [topic for topic in self.source_topics if topic not in known]
        if missing:
            raise TopologyError(
                f"topics that the app reads do not exist: {', '.join(sorted(missing))}; create them first"
            )
        counts = {topic: known[topic] for topic in self.source_topics}
        counts.update({topic.name: topic.partitions for topic in self.repartition_topics.values() if topic.partitions})
        open_topics = [name for name in self.repartition_topics if name not in counts]
        while open_topics:
            before = len(open_topics)
            for name in list(open_topics):
                needed = self._needed(name, counts)
                if needed is not None:
                    counts[name] = needed
                    open_topics.remove(name)
            if len(open_topics) == before:  # topics that depend on each other (foreign keys): what is known counts
                found = {name: self._needed(name, counts, partly=True) for name in open_topics}
                name = next((name for name in open_topics if found[name]), open_topics[0])
                counts[name] = found[name] or 1
                open_topics.remove(name)
        for operator, topics in self.copartitioned:
            self._copartition(operator, topics, counts)
        for name in self.repartition_topics:
            if known.get(name, counts[name]) != counts[name]:
                raise TopologyError(
                    f"the internal topic {name} has {known[name]} partitions and needs {counts[name]}; "
                    f"its number cannot change while there is state: reset the application first"
                )
        return counts

    def _needed(self, name: str, counts: Mapping[str, int], *, partly: bool = False) -> int | None:
        """Return what a topic without a number of its own needs, or None if that is not known yet."""
        for _, topics in self.copartitioned:
            if name in topics:
                stated = [topic for topic in sorted(topics) if self._stated(topic)]
                if stated:
                    return counts[stated[0]]
        writers = [sub for sub in self.sub_topologies if name in sub.sink_topics]
        topics_read = [topic for sub in writers for topic in sub.source_topics]
        known = [counts[topic] for topic in topics_read if topic in counts]
        if len(known) < len(topics_read) and not partly:
            return None
        return max(known, default=None if partly else 1)

    def _stated(self, topic: str) -> bool:
        return topic not in self.repartition_topics or bool(self.repartition_topics[topic].partitions)

    def _copartition(self, operator: str, topics: Iterable[str], counts: dict[str, int]) -> None:
        """Repartition topics without a number of their own follow the others; the rest must agree."""
        ordered = sorted(topics)
        fixed = [topic for topic in ordered if topic not in self.repartition_topics]
        fixed += [
            topic for topic in ordered if topic in self.repartition_topics and self.repartition_topics[topic].partitions
        ]
        found = {counts[topic] for topic in fixed}
        if len(found) > 1:
            told = ", ".join(f"{topic} has {counts[topic]}" for topic in fixed)
            raise TopologyError(
                f"{operator} needs topics with the same number of partitions: {told}; "
                f"put .repartition(partitions={max(found)}) before it, or create the topic anew"
            )
        needed = found.pop() if found else max(counts[topic] for topic in ordered)
        for topic in ordered:
            counts[topic] = needed


def group_nodes(nodes: Mapping[str, AnyNode], shared: Iterable[Sequence[str]]) -> list[list[str]]:
    """Return the connected components, in the order of their first nodes.

    Args:
        shared: groups of nodes that belong together without an edge, because they use the same store.
    """
    root: dict[str, str] = {name: name for name in nodes}

    def find(name: str) -> str:
        while root[name] != name:
            root[name] = root[root[name]]
            name = root[name]
        return name

    for name, node in nodes.items():
        for parent in node.parents:
            root[find(name)] = find(parent)
    for group in shared:
        for name in group[1:]:
            root[find(name)] = find(group[0])
    groups: dict[str, list[str]] = {}
    for name in nodes:
        groups.setdefault(find(name), []).append(name)
    return list(groups.values())
