"""Admin calls about the cluster: brokers, log directories, features, replicas and who leads."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from ottla.client._core.asking import CONTROLLER
from ottla.client.admin_base import AdminBase, bounded, check, outcome, unwrap
from ottla.client.admin_results import (
    BrokerDescription,
    ClusterDescription,
    FeatureDescription,
    LogDirDescription,
    QuorumDescription,
    Reassignment,
    ReplicaInfo,
)
from ottla.client.admin_topics import by_topic
from ottla.client.admin_words import operations
from ottla.client.errors import ConfigurationError
from ottla.client.keys import Duration
from ottla.errors import ErrorCode, KafkaError, UnsupportedVersionError, error_for
from ottla.protocol.api import APIS
from ottla.protocol.messages import (
    alter_partition_reassignments,
    alter_replica_log_dirs,
    describe_log_dirs,
    describe_quorum,
    elect_leaders,
    list_partition_reassignments,
    update_features,
)
from ottla.protocol.messages.api_versions import ApiVersionsRequest, ApiVersionsResponse
from ottla.protocol.messages.describe_cluster import DescribeClusterRequest, DescribeClusterResponse
from ottla.protocol.messages.unregister_broker import UnregisterBrokerRequest, UnregisterBrokerResponse
from ottla.types import TopicPartition

_UPGRADES: Final[Mapping[str, int]] = {"upgrade": 1, "safe_downgrade": 2, "unsafe_downgrade": 3}
_ELECTIONS: Final[Mapping[str, int]] = {"preferred": 0, "unclean": 1}


class ClusterCalls(AdminBase):
    """The cluster."""

    @bounded
    async def describe_cluster(
        self, *, include_fenced: bool = False, authorized_operations: bool = False, timeout: Duration | None = None
    ) -> ClusterDescription:
        """Return the cluster's id, its controller and its brokers.

        Args:
            include_fenced: brokers that may not lead at the moment, too (Kafka 4.0).
        """

        def build(version: int) -> DescribeClusterRequest:
            request = DescribeClusterRequest(include_cluster_authorized_operations=authorized_operations)
            if include_fenced:
                if version < 2:
                    raise UnsupportedVersionError("The broker is too old to tell of fenced brokers (Kafka 4.0).")
                request.include_fenced_brokers = True
            return request

        try:
            answer: Any = await self._ask(build, DescribeClusterResponse)
        except UnsupportedVersionError:
            if include_fenced:
                raise
            answer = await self._metadata([])  # before Kafka 2.8
        check(answer.error_code, getattr(answer, "error_message", None))
        return ClusterDescription(
            cluster_id=answer.cluster_id or "",
            controller=answer.controller_id if answer.controller_id >= 0 else None,
            brokers=tuple(
                BrokerDescription(
                    id=getattr(row, "broker_id", getattr(row, "node_id", -1)),
                    host=row.host,
                    port=row.port,
                    rack=row.rack,
                    is_fenced=getattr(row, "is_fenced", False),
                )
                for row in answer.brokers
            ),
            authorized_operations=operations(answer.cluster_authorized_operations) if authorized_operations else None,
        )

    @bounded
    async def api_versions(
        self, broker: int | None = None, *, timeout: Duration | None = None
    ) -> dict[str, tuple[int, int]]:
        """Return which APIs a broker (any) serves, by name: lowest and highest version."""
        request = ApiVersionsRequest(client_software_name="ottla", client_software_version="admin")
        answer = await self._ask(request, ApiVersionsResponse, "any" if broker is None else broker)
        check(answer.error_code)
        names = {int(key): spec.name for key, spec in APIS.items()}
        return {
            names.get(row.api_key, f"API {row.api_key}"): (row.min_version, row.max_version) for row in answer.api_keys
        }

    @bounded
    async def describe_features(self, *, timeout: Duration | None = None) -> dict[str, FeatureDescription]:
        """Return the cluster's features by name (KIP-584): "group.version", "transaction.version", ..."""
        request = ApiVersionsRequest(client_software_name="ottla", client_software_version="admin")
        answer = await self._ask(request, ApiVersionsResponse)
        check(answer.error_code)
        finalized = {row.name: row.max_version_level for row in answer.finalized_features}
        return {
            row.name: FeatureDescription(
                name=row.name,
                min_level=row.min_version,
                max_level=row.max_version,
                finalized_level=finalized.get(row.name),
            )
            for row in answer.supported_features
        }

    @bounded
    async def update_features(
        self,
        levels: Mapping[str, int],
        *,
        kind: str = "upgrade",
        validate_only: bool = False,
        timeout: Duration | None = None,
    ) -> None:
        """Have the cluster agree on other levels of features.

        Args:
            kind: "upgrade", "safe_downgrade" or "unsafe_downgrade" (which may lose what the feature kept). Level 0 takes a
                feature away.

        Raises:
            FeatureUpdateFailedError, InvalidUpdateVersionError: nothing was changed.
            AdminErrors: some of several failed.
        """
        upgrade_type = _UPGRADES.get(kind)
        if upgrade_type is None:
            raise ConfigurationError(f"kind={kind!r} is not valid.", f"There are {', '.join(_UPGRADES)}.")

        async def attempt(left: list[str], deadline_ms: float) -> dict[str, KafkaError | None]:
            def build(version: int) -> update_features.UpdateFeaturesRequest:
                request = update_features.UpdateFeaturesRequest(
                    timeout_ms=int(self._settings.request_timeout_ms),
                    feature_updates=[
                        update_features.FeatureUpdateKey(
                            feature=name,
                            max_version_level=levels[name],
                            **({"upgrade_type": upgrade_type} if version else {"allow_downgrade": upgrade_type > 1}),
                        )
                        for name in left
                    ],
                )
                if version:
                    request.validate_only = validate_only
                elif validate_only:
                    raise UnsupportedVersionError("The broker is too old to only validate (Kafka 3.3).")
                return request

            answer, version = await self._ask_version(
                build, update_features.UpdateFeaturesResponse, CONTROLLER, deadline_ms=deadline_ms
            )
            check(answer.error_code, answer.error_message)
            if version >= 2:
                return dict.fromkeys(left)
            return {row.feature: outcome(row.error_code, row.error_message, None) for row in answer.results}

        await self._all(levels, attempt)

    # -- log directories --------------------------------------------------------------------------------------------

    @bounded
    async def describe_log_dirs(
        self,
        brokers: Iterable[int] | None = None,
        partitions: Iterable[TopicPartition] | None = None,
        *,
        timeout: Duration | None = None,
    ) -> dict[int, list[LogDirDescription]]:
        """Return the log directories of brokers (of all), with the size of each replica, by broker id.

        Args:
            partitions: only replicas of these.

        Raises:
            AdminErrors: some of several brokers failed.
        """
        wanted = [row.node_id for row in (await self._metadata([])).brokers] if brokers is None else list(brokers)
        topics = (
            None
            if partitions is None
            else [
                describe_log_dirs.DescribableLogDirTopic(topic=topic, partitions=numbers)
                for topic, numbers in by_topic(TopicPartition(*where) for where in partitions).items()
            ]
        )

        async def attempt(left: list[int], deadline_ms: float) -> dict[int, list[LogDirDescription] | KafkaError]:
            async def ask(node_id: int) -> list[LogDirDescription] | KafkaError:
                try:
                    answer = await self._ask(
                        describe_log_dirs.DescribeLogDirsRequest(topics=topics),
                        describe_log_dirs.DescribeLogDirsResponse,
                        node_id,
                        deadline_ms=deadline_ms,
                    )
                except KafkaError as error:
                    return error
                return outcome(answer.error_code, None, [_log_dir(row) for row in answer.results])

            return dict(zip(left, await asyncio.gather(*map(ask, left)), strict=True))

        return await self._all(wanted, attempt)

    @bounded
    async def alter_replica_log_dirs(
        self, moves: Mapping[TopicPartition, str], *, broker: int, timeout: Duration | None = None
    ) -> None:
        """Have replicas of a broker move to other log directories of it (KIP-113).

        Raises:
            LogDirNotFoundError: it has no such directory.
            AdminErrors: some of several failed.
        """
        wanted = {TopicPartition(*where): path for where, path in moves.items()}

        async def attempt(left: list[TopicPartition], deadline_ms: float) -> dict[TopicPartition, KafkaError | None]:
            dirs: dict[str, list[TopicPartition]] = {}
            for where in left:
                dirs.setdefault(wanted[where], []).append(where)
            request = alter_replica_log_dirs.AlterReplicaLogDirsRequest(
                dirs=[
                    alter_replica_log_dirs.AlterReplicaLogDir(
                        path=path,
                        topics=[
                            alter_replica_log_dirs.AlterReplicaLogDirTopic(name=topic, partitions=numbers)
                            for topic, numbers in by_topic(found).items()
                        ],
                    )
                    for path, found in dirs.items()
                ]
            )
            answer = await self._ask(
                request, alter_replica_log_dirs.AlterReplicaLogDirsResponse, broker, deadline_ms=deadline_ms
            )
            return {
                TopicPartition(topic.topic_name, row.partition_index): outcome(row.error_code, None, None)
                for topic in answer.results
                for row in topic.partitions
            }

        await self._all(wanted, attempt)

    # -- replicas and leaders ---------------------------------------------------------------------------------------

    @bounded
    async def list_partition_reassignments(
        self, partitions: Iterable[TopicPartition] | None = None, *, timeout: Duration | None = None
    ) -> dict[TopicPartition, Reassignment]:
        """Return the partitions (of these, of all) whose replicas are being changed."""
        request = list_partition_reassignments.ListPartitionReassignmentsRequest(
            timeout_ms=int(self._settings.request_timeout_ms),
            topics=None
            if partitions is None
            else [
                list_partition_reassignments.ListPartitionReassignmentsTopics(name=topic, partition_indexes=numbers)
                for topic, numbers in by_topic(partitions).items()
            ],
        )

        async def attempt(
            deadline_ms: float,
        ) -> list_partition_reassignments.ListPartitionReassignmentsResponse:
            answer = await self._ask(
                request,
                list_partition_reassignments.ListPartitionReassignmentsResponse,
                CONTROLLER,
                deadline_ms=deadline_ms,
            )
            check(answer.error_code, answer.error_message)
            return answer

        answer = await self._once(attempt)
        return {
            TopicPartition(topic.name, row.partition_index): Reassignment(
                replicas=tuple(row.replicas), adding=tuple(row.adding_replicas), removing=tuple(row.removing_replicas)
            )
            for topic in answer.topics
            for row in topic.partitions
        }

    @bounded
    async def alter_partition_reassignments(
        self,
        replicas: Mapping[TopicPartition, Sequence[int] | None],
        *,
        allow_replication_factor_change: bool = True,
        timeout: Duration | None = None,
    ) -> None:
        """Have partitions move to other replicas (KIP-455); None ends a change that is under way.

        The call returns when the change has begun; `list_partition_reassignments` says when it is done.

        Raises:
            InvalidReplicaAssignmentError, NoReassignmentInProgressError: as the name says.
            AdminErrors: some of several failed.
        """
        wanted = {TopicPartition(*where): ids for where, ids in replicas.items()}

        async def attempt(left: list[TopicPartition], deadline_ms: float) -> dict[TopicPartition, KafkaError | None]:
            def build(version: int) -> alter_partition_reassignments.AlterPartitionReassignmentsRequest:
                request = alter_partition_reassignments.AlterPartitionReassignmentsRequest(
                    timeout_ms=int(self._settings.request_timeout_ms),
                    topics=[
                        alter_partition_reassignments.ReassignableTopic(
                            name=topic,
                            partitions=[
                                alter_partition_reassignments.ReassignablePartition(
                                    partition_index=number, replicas=_ids(wanted[TopicPartition(topic, number)])
                                )
                                for number in numbers
                            ],
                        )
                        for topic, numbers in by_topic(left).items()
                    ],
                )
                if version >= 1:
                    request.allow_replication_factor_change = allow_replication_factor_change
                elif not allow_replication_factor_change:
                    raise UnsupportedVersionError("The broker is too old to keep the replication factor (Kafka 4.1).")
                return request

            answer = await self._ask(
                build,
                alter_partition_reassignments.AlterPartitionReassignmentsResponse,
                CONTROLLER,
                deadline_ms=deadline_ms,
            )
            check(answer.error_code, answer.error_message)
            return {
                TopicPartition(topic.name, row.partition_index): outcome(row.error_code, row.error_message, None)
                for topic in answer.responses
                for row in topic.partitions
            }

        await self._all(wanted, attempt)

    @bounded
    async def elect_leaders(
        self,
        partitions: Iterable[TopicPartition] | None = None,
        *,
        election: Literal["preferred", "unclean"] = "preferred",
        timeout: Duration | None = None,
    ) -> dict[TopicPartition, bool]:
        """Have partitions (all) led by their first replica; "unclean": by any, which may lose records.

        Returns:
            by partition, whether the leader changed; False: it was right already.

        Raises:
            AdminErrors: some of several failed.
        """
        kind = _ELECTIONS.get(election)
        if kind is None:
            raise ConfigurationError(f"election={election!r} is not valid.", f"There are {', '.join(_ELECTIONS)}.")
        topics = (
            None
            if partitions is None
            else [
                elect_leaders.TopicPartitions(topic=topic, partitions=numbers)
                for topic, numbers in by_topic(TopicPartition(*where) for where in partitions).items()
            ]
        )

        def build(version: int) -> elect_leaders.ElectLeadersRequest:
            request = elect_leaders.ElectLeadersRequest(
                topic_partitions=topics, timeout_ms=int(self._settings.request_timeout_ms)
            )
            if version >= 1:
                request.election_type = kind
            elif kind:
                raise UnsupportedVersionError("The broker is too old for unclean elections on request (Kafka 2.4).")
            return request

        async def attempt(deadline_ms: float) -> elect_leaders.ElectLeadersResponse:
            answer = await self._ask(build, elect_leaders.ElectLeadersResponse, CONTROLLER, deadline_ms=deadline_ms)
            check(answer.error_code)
            return answer

        answer = await self._once(attempt)
        return unwrap(
            {
                TopicPartition(topic.topic, row.partition_id): False
                if row.error_code == ErrorCode.ELECTION_NOT_NEEDED
                else outcome(row.error_code, row.error_message, True)
                for topic in answer.replica_election_results
                for row in topic.partition_result
            }
        )

    @bounded
    async def unregister_broker(self, broker: int, *, timeout: Duration | None = None) -> None:
        """Have the cluster forget a broker that will not come back (KIP-631)."""

        async def attempt(deadline_ms: float) -> None:
            answer = await self._ask(
                UnregisterBrokerRequest(broker_id=broker), UnregisterBrokerResponse, CONTROLLER, deadline_ms=deadline_ms
            )
            check(answer.error_code, answer.error_message)

        await self._once(attempt)

    @bounded
    async def describe_metadata_quorum(self, *, timeout: Duration | None = None) -> QuorumDescription:
        """Return the KRaft quorum of a cluster that has one."""
        request = describe_quorum.DescribeQuorumRequest(
            topics=[
                describe_quorum.DescribeQuorumRequestTopicData(
                    topic_name="__cluster_metadata",
                    partitions=[describe_quorum.DescribeQuorumRequestPartitionData(partition_index=0)],
                )
            ]
        )
        answer = await self._ask(request, describe_quorum.DescribeQuorumResponse)
        check(answer.error_code, answer.error_message)
        for topic in answer.topics:
            for row in topic.partitions:
                check(row.error_code, row.error_message)
                return QuorumDescription(
                    leader=row.leader_id,
                    leader_epoch=row.leader_epoch,
                    high_watermark=row.high_watermark,
                    voters=tuple((voter.replica_id, voter.log_end_offset) for voter in row.current_voters),
                    observers=tuple((voter.replica_id, voter.log_end_offset) for voter in row.observers),
                )
        raise error_for(ErrorCode.UNKNOWN_SERVER_ERROR, "The broker did not describe a quorum.")


def _ids(ids: Sequence[int] | None) -> list[int] | None:
    return None if ids is None else list(ids)


def _log_dir(row: Any) -> LogDirDescription:
    return LogDirDescription(
        path=row.log_dir,
        error=str(error_for(row.error_code)) if row.error_code else "",
        total_bytes=row.total_bytes if row.total_bytes >= 0 else None,
        usable_bytes=row.usable_bytes if row.usable_bytes >= 0 else None,
        replicas={
            TopicPartition(topic.name, part.partition_index): ReplicaInfo(
                size_bytes=part.partition_size, offset_lag=part.offset_lag, is_future=part.is_future_key
            )
            for topic in row.topics
            for part in topic.partitions
        },
    )
