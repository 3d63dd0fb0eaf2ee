"""Settings of clients: people put them into a broker's file, and there they are told whose they are.

Names are Kafka's (ProducerConfig, ConsumerConfig, AdminClientConfig and StreamsConfig of 4.3.1), without those that brokers
have as well. Imported only when somebody has written an unknown key.
"""

from __future__ import annotations

_CLIENTS = """
    bootstrap.controllers bootstrap.servers client.dns.lookup client.id default.api.timeout.ms enable.metrics.push
    interceptor.classes metadata.max.age.ms metadata.recovery.rebootstrap.trigger.ms metadata.recovery.strategy
    receive.buffer.bytes reconnect.backoff.max.ms reconnect.backoff.ms retries retry.backoff.max.ms retry.backoff.ms
    sasl.mechanism sasl.oauthbearer.header.urlencode security.protocol send.buffer.bytes
"""
_PRODUCERS = """
    acks batch.size buffer.memory delivery.timeout.ms enable.idempotence key.serializer linger.ms max.block.ms
    max.in.flight.requests.per.connection max.request.size metadata.max.idle.ms partitioner.adaptive.partitioning.enable
    partitioner.availability.timeout.ms partitioner.class partitioner.ignore.keys transaction.timeout.ms transactional.id
    value.serializer
"""
_CONSUMERS = """
    allow.auto.create.topics auto.commit.interval.ms auto.offset.reset check.crcs client.rack enable.auto.commit
    exclude.internal.topics fetch.max.wait.ms fetch.min.bytes group.id group.instance.id group.protocol
    group.remote.assignor heartbeat.interval.ms isolation.level key.deserializer max.partition.fetch.bytes
    max.poll.interval.ms max.poll.records partition.assignment.strategy session.timeout.ms share.acknowledgement.mode
    share.acquire.mode value.deserializer
"""
_STREAMS = """
    acceptable.recovery.lag allow.os.group.write.access application.id application.server buffered.records.per.partition
    built.in.metrics.version cache.max.bytes.buffering commit.interval.ms default.client.supplier
    default.deserialization.exception.handler default.dsl.store default.key.serde default.list.key.serde.inner
    default.list.key.serde.type default.list.value.serde.inner default.list.value.serde.type
    default.production.exception.handler default.timestamp.extractor default.value.serde
    deserialization.exception.handler dsl.store.format dsl.store.suppliers.class
    ensure.explicit.internal.resource.naming errors.dead.letter.queue.topic.name log.summary.interval.ms
    max.task.idle.ms max.warmup.replicas num.standby.replicas num.stream.threads poll.ms probing.rebalance.interval.ms
    processing.exception.handler processing.exception.handler.global.enabled processing.guarantee
    processor.wrapper.class production.exception.handler rack.aware.assignment.non_overlap_cost
    rack.aware.assignment.strategy rack.aware.assignment.tags rack.aware.assignment.traffic_cost
    repartition.purge.interval.ms replication.factor rocksdb.config.setter state.cleanup.delay.ms
    state.cleanup.dir.max.age.ms state.dir statestore.cache.max.bytes task.assignor.class task.timeout.ms
    topology.optimization upgrade.from window.size.ms windowed.inner.class.serde
    windowstore.changelog.additional.retention.ms
"""

#: Key -> whose setting it is.
CLIENT_KEYS: dict[str, str] = {
    name: whose
    for whose, names in (
        ("clients", _CLIENTS),
        ("producers", _PRODUCERS),
        ("consumers", _CONSUMERS),
        ("Kafka Streams applications", _STREAMS),
    )
    for name in names.split()
}

#: Key of a client -> the broker's keys that have to do with the same thing.
RELATED: dict[str, tuple[str, ...]] = {
    "allow.auto.create.topics": ("auto.create.topics.enable",),
    "group.protocol": ("group.coordinator.rebalance.protocols",),
    "group.remote.assignor": ("group.consumer.assignors",),
    "heartbeat.interval.ms": ("group.consumer.heartbeat.interval.ms",),
    "max.partition.fetch.bytes": ("fetch.max.bytes",),
    "max.request.size": ("message.max.bytes", "socket.request.max.bytes"),
    "num.standby.replicas": ("group.streams.num.standby.replicas",),
    "rack.aware.assignment.tags": ("group.streams.rack.aware.assignment.tags",),
    "receive.buffer.bytes": ("socket.receive.buffer.bytes",),
    "replication.factor": ("default.replication.factor",),
    "sasl.mechanism": ("sasl.enabled.mechanisms",),
    "security.protocol": ("listener.security.protocol.map",),
    "send.buffer.bytes": ("socket.send.buffer.bytes",),
    "session.timeout.ms": ("group.min.session.timeout.ms", "group.max.session.timeout.ms"),
    "transaction.timeout.ms": ("transaction.max.timeout.ms",),
}


def whose_setting(name: str) -> str | None:
    """Return the end of a sentence that says to whom this key belongs; None if it is no client's."""
    whose = CLIENT_KEYS.get(name)
    if whose is None:
        return None
    related = RELATED.get(name)
    hint = f" (related settings of the broker: {', '.join(related)})" if related else ""
    return f"it is a setting of {whose}, not of brokers{hint}"
