"""An application's topology as a streams group's first member tells it (KIP-1071), so that the broker can share out tasks.

Pure. Shapes are those of Kafka's StreamsRebalanceData: a changelog has no number of partitions (the broker decides: one a
task), a table whose source topic is its changelog has none to make.
"""

from __future__ import annotations

from collections.abc import Mapping

from ottla.protocol.messages.streams_group_heartbeat import CopartitionGroup, KeyValue, Subtopology, TopicInfo
from ottla.protocol.messages.streams_group_heartbeat import Topology as ToldTopology
from ottla.streams.runtime.internal_topics import InternalTopic
from ottla.streams.topology import SubTopology, Topology


def told_topology(topology: Topology, topics: Mapping[str, InternalTopic], replication_factor: int) -> ToldTopology:
    """Return what the heartbeat carries.

    Args:
        topics: the internal topics, by name, with their configs.
        replication_factor: of internal topics; -1 is the brokers' default.
    """
    return ToldTopology(
        epoch=0, subtopologies=[_told(topology, sub, topics, max(replication_factor, 0)) for sub in topology.tasks]
    )


def _told(topology: Topology, sub: SubTopology, topics: Mapping[str, InternalTopic], factor: int) -> Subtopology:
    sources = sorted(topic for topic in sub.source_topics if topic not in topology.repartition_topics)
    repartition = sorted(topic for topic in sub.source_topics if topic in topology.repartition_topics)
    changelogs = sorted(spec.changelog for spec in sub.stores if spec.changelog and not spec.source_changelog)

    def info(name: str, partitions: int) -> TopicInfo:
        configs = topics[name].configs
        return TopicInfo(
            name=name,
            partitions=partitions,
            replication_factor=factor,
            topic_configs=[KeyValue(key=key, value=value) for key, value in sorted(configs.items())],
        )

    return Subtopology(
        subtopology_id=str(sub.id),
        source_topics=sources,
        state_changelog_topics=[info(name, 0) for name in changelogs],
        repartition_sink_topics=sorted(topic for topic in sub.sink_topics if topic in topology.repartition_topics),
        repartition_source_topics=[
            info(name, topology.repartition_topics[name].partitions or 0) for name in repartition
        ],
        copartition_groups=[
            CopartitionGroup(
                source_topics=[sources.index(topic) for topic in sorted(together) if topic in sources],
                repartition_source_topics=[
                    repartition.index(topic) for topic in sorted(together) if topic in repartition
                ],
            )
            for _, together in topology.copartitioned
            if together <= set(sub.source_topics)
        ],
    )
