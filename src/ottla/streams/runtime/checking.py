"""What `ottla streams check` says: everything that would stop an application at its start, or harm it later."""

from __future__ import annotations

import ottla
from ottla.streams.app import App
from ottla.streams.errors import TopologyError
from ottla.streams.runtime.internal_topics import internal_topics
from ottla.streams.runtime.settings import StreamsSettings


def check_application(app: App, settings: StreamsSettings, *, offline: bool) -> list[str]:
    """Return what is wrong, a sentence each.

    Raises:
        TopologyError: the topology cannot work as it is.
        KafkaError: the cluster cannot be asked.
    """
    found = app.check()
    if not offline:
        topology = app.topology()
        with ottla.Admin(config=settings.admin) as admin:
            known = {topic.name: topic.partitions for topic in admin.list_topics()}
        try:
            internal_topics(topology, known, settings.topic)
        except TopologyError as error:
            found.append(str(error))
        sinks = {topic for sub in topology.sub_topologies for topic in sub.sink_topics}
        sinks |= {timer.to for timer in app.timers if timer.to is not None}
        found += [
            f"The topic {topic} that it writes to does not exist."
            for topic in sorted(sinks - known.keys() - topology.repartition_topics.keys())
        ]
        own = [getattr(node, "on_error", None) for sub in topology.sub_topologies for node in sub.nodes.values()]
        found += [
            f"The dead-letter topic {topic} does not exist."
            for topic in app.handlers.dead_letter_topics(own)
            if topic not in known
        ]
    return found
