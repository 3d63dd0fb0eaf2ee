"""Kafka's keys of followers reach what they are for."""

from __future__ import annotations

from ottla.broker.config import BrokerConfig
from ottla.broker.replicas.fetch_requests import FetchLimits, FetchSession, Wanted
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop, run_virtual

SETTINGS = {
    "replica.fetch.backoff.ms": 700,
    "replica.fetch.max.bytes": 1_234,
    "replica.fetch.min.bytes": 5,
    "replica.fetch.response.max.bytes": 54_321,
    "replica.fetch.wait.max.ms": 250,
    "replica.lag.time.max.ms": 9_000,
    "replica.socket.receive.buffer.bytes": 32_768,
    "replica.socket.timeout.ms": 4_000,
}


def test_settings_of_followers_reach_their_fetchers() -> None:
    async def story(loop: VirtualLoop) -> None:
        node = SimulatedBroker(loop, **SETTINGS)
        broker = await node.start()
        settings = broker.replication.settings
        fetchers = settings.fetchers
        assert settings.lag_ms_max == 9_000
        assert settings.channel.receive_buffer_bytes == 32_768
        assert settings.channel.connect_timeout_s == 4
        assert (fetchers.backoff_ms, fetchers.timeout_ms, fetchers.wait_ms_max) == (700, 4_000, 250)
        assert (fetchers.partition_bytes_max, fetchers.bytes_min, fetchers.bytes_max) == (1_234, 5, 54_321)
        await node.stop()

    run_virtual(1, story)


def test_the_channel_leaves_the_buffer_to_the_system_with_minus_one() -> None:
    config = BrokerConfig.from_sources(overrides=["replica.socket.receive.buffer.bytes=-1"])
    assert config.replica_socket_receive_buffer_bytes == -1


def test_a_session_names_what_changed_and_what_is_left_alone() -> None:
    session = FetchSession()
    limits = FetchLimits(partition_bytes_max=100, bytes_min=1, bytes_max=1_000, wait_ms_max=500)
    a, b = (b"\1" * 16, 0), (b"\1" * 16, 1)
    wanted = Wanted(leader_epoch=3, offset=10, last_epoch=2, log_start_offset=0, high_watermark=9)
    first = session.request({a: wanted, b: wanted}, replica=(2, 7), limits=limits)
    assert (first.session_id, first.session_epoch) == (0, 0)
    assert (first.replica_state.replica_id, first.replica_state.replica_epoch) == (2, 7)
    assert [p.partition for topic in first.topics for p in topic.partitions] == [0, 1]
    session.on_answer(55)
    moved = wanted._replace(offset=12)
    second = session.request({a: moved}, replica=(2, 7), limits=limits)
    assert (second.session_id, second.session_epoch) == (55, 1)
    assert [(p.partition, p.fetch_offset) for topic in second.topics for p in topic.partitions] == [(0, 12)]
    assert [(topic.topic_id, topic.partitions) for topic in second.forgotten_topics_data] == [(b"\1" * 16, [1])]
    session.on_answer(55)
    third = session.request({a: moved, b: wanted}, replica=(2, 7), limits=limits)
    assert [p.partition for topic in third.topics for p in topic.partitions] == [1]
    session.on_answer(0)
    assert session.request({a: moved}, replica=(2, 7), limits=limits).session_epoch == 0, (
        "without a session all is said each time"
    )


def test_a_session_that_goes_on_names_only_what_changed() -> None:
    session = FetchSession()
    limits = FetchLimits(partition_bytes_max=100, bytes_min=1, bytes_max=1_000, wait_ms_max=500)
    a, b = (b"\1" * 16, 0), (b"\1" * 16, 1)
    wanted = Wanted(leader_epoch=3, offset=10, last_epoch=2, log_start_offset=0, high_watermark=9)
    session.request({a: wanted, b: wanted}, replica=(2, 7), limits=limits)
    assert not session.goes_on
    session.on_answer(55)
    assert session.goes_on
    moved = wanted._replace(offset=12)
    found = session.changes({a: wanted, b: moved}, replica=(2, 8), limits=limits)
    assert (found.session_id, found.session_epoch, found.replica_id, found.replica_epoch) == (55, 1, 2, 8)
    assert [(row.topic_id, row.partition, row.offset, row.bytes_max) for row in found.partitions] == [(*b, 12, 100)]
    session.on_answer(55)
    assert session.changes({b: moved}, replica=(2, 8), limits=limits).partitions == []
    assert session.request({a: wanted, b: moved}, replica=(2, 8), limits=limits).topics == []
