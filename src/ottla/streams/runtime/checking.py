"""What `ottla streams check` says: everything that would stop an application at its start, or harm it later."""

from __future__ import annotations

import ottla
from ottla.streams.errors import TopologyError
from ottla.streams.runtime.internal_topics import internal_topics
from ottla.streams.runtime.settings import StreamsSettings
from ottla.streams.topology import StoreKind, Topology


def check_application(topology: Topology, settings: StreamsSettings, *, offline: bool) -> list[str]:
    """Return what is wrong, a sentence each.

    Raises:
        KafkaError: the cluster cannot be asked.
    """
    found = [
        f"The store {spec.name} has a name that was made by counting: an operator more or less before it changes it, and its "
        "state is lost. Give it one (store=)."
        for sub in topology.sub_topologies
        for spec in sub.stores
        if spec.generated_name and spec.kind is not StoreKind.TIMES
    ]
    found += [
        f"The repartition topic {topic.name} has a name that was made by counting: an operator before it changes "
        "it, and records in it are lost. Give it one (name=)."
        for topic in topology.repartition_topics.values()
        if topic.generated_name
    ]
    if not offline:
        with ottla.Admin(config=settings.admin) as admin:
            known = {topic.name: topic.partitions for topic in admin.list_topics()}
        try:
            internal_topics(topology, known, settings.topic)
        except TopologyError as error:
            found.append(str(error))
        sinks = {topic for sub in topology.sub_topologies for topic in sub.sink_topics}
        found += [
            f"The topic {topic} that it writes to does not exist."
            for topic in sorted(sinks - known.keys() - topology.repartition_topics.keys())
        ]
    return found
