"""The replication of one broker: what it is made of, and its way to the coordination tree."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ottla.broker.replicas.fetcher import FetcherSettings
from ottla.broker.replicas.replication import Replication, ReplicationSettings
from ottla.broker.wiring.peer_channels import peer_channel_settings

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ottla.broker.config import BrokerConfig
    from ottla.broker.wiring.surroundings import Surroundings
    from ottla.cluster.controller import Controller
    from ottla.cluster.follow import MetadataFollower
    from ottla.cluster.image import ClusterImage
    from ottla.cluster.sessions import Sessions
    from ottla.cluster.state_writer import NewState, Written
    from ottla.types import TopicPartition

#: One answer holds replica.fetch.response.max.bytes, or one batch that is larger.
ANSWER_BYTES_MAX = 1 << 30


class _Cluster:
    """Implements `ClusterSide`."""

    def __init__(self, controller: Controller, follower: MetadataFollower, sessions: Sessions) -> None:
        self._controller = controller
        self._follower = follower
        self._sessions = sessions

    @property
    def broker_epoch(self) -> int:
        return self._controller.broker_epoch

    async def write_states(self, states: Mapping[TopicPartition, NewState]) -> dict[TopicPartition, Written]:
        return await self._controller.write_states(states)

    async def refresh(self) -> ClusterImage:
        return await self._follower.refresh()

    async def say_unfit(self, partitions: Collection[tuple[bytes, int]]) -> None:
        await self._controller.registration.say_unfit(self._sessions.tree, partitions)


def make_replication(
    config: BrokerConfig,
    around: Surroundings,
    controller: Controller,
    follower: MetadataFollower,
    sessions: Sessions,
) -> Replication:
    """Return what the partitions of this broker share with the cluster."""
    return Replication(
        config.node_id,
        _Cluster(controller, follower, sessions),
        ReplicationSettings(
            lag_ms_max=config.replica_lag_time_max_ms,
            listener=config.inter_broker_listener_name,
            channel=replace(
                peer_channel_settings(config, around.secret_bytes, around.offload),
                client_id=f"broker-{config.node_id}-fetcher",
                answer_bytes_max=ANSWER_BYTES_MAX,
                connect_timeout_s=min(10.0, config.replica_socket_timeout_ms / 1000),
                receive_buffer_bytes=config.replica_socket_receive_buffer_bytes,
            ),
            fetchers=FetcherSettings(
                partition_bytes_max=config.replica_fetch_max_bytes,
                bytes_min=config.replica_fetch_min_bytes,
                bytes_max=config.replica_fetch_response_max_bytes,
                wait_ms_max=config.replica_fetch_wait_max_ms,
                backoff_ms=config.replica_fetch_backoff_ms,
                timeout_ms=config.replica_socket_timeout_ms,
            ),
            has_peers=around.shared_tree,
        ),
        image=lambda: follower.image,
        min_isr=controller.min_isr,
        clock=around.clock,
    )
