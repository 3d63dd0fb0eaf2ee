"""The cluster: DescribeLogDirs (key 35, versions 1-5), ElectLeaders (43, 0-2), AlterPartitionReassignments (45, 0-1),
ListPartitionReassignments (46, 0), DescribeQuorum (55, 0-2), DescribeCluster (60, 0-2), UnregisterBroker (64, 0),
DescribeTopicPartitions (75, 0).

DescribeLogDirs v3: top-level error. v4: size and free space of the disk. v5: cordoned directories (never). ElectLeaders v1:
unclean elections. AlterPartitionReassignments v1: whether the number of replicas may change. DescribeCluster v1: which kind
of endpoint. v2: fenced brokers (there are none: a broker without a session is not registered). DescribeTopicPartitions pages
through partitions with a cursor (KIP-966). UnregisterBroker frees the id of a broker that is gone, for other log directories.

Where we differ from Apache Kafka: there is no KRaft quorum. DescribeQuorum answers what a single KRaft node would: one voter,
which leads; its log end is the number of the last metadata change. Eligible leader replicas are always empty. A broker
that runs is not unregistered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from ottla.broker.context import Route
from ottla.cluster.decisions.election import PREFERRED, UNCLEAN
from ottla.cluster.decisions.refusal import Refusal
from ottla.cluster.decisions.topic_names import CLUSTER_METADATA_TOPIC, why_invalid
from ottla.errors import ErrorCode, KafkaError
from ottla.protocol.api import ApiKey
from ottla.protocol.messages import alter_replica_log_dirs, elect_leaders
from ottla.protocol.messages import describe_log_dirs as log_dirs
from ottla.protocol.messages import describe_quorum as quorum
from ottla.protocol.messages import describe_topic_partitions as topic_partitions
from ottla.protocol.messages.alter_partition_reassignments import (
    AlterPartitionReassignmentsRequest,
    AlterPartitionReassignmentsResponse,
    ReassignablePartitionResponse,
    ReassignableTopicResponse,
)
from ottla.protocol.messages.describe_cluster import (
    DescribeClusterBroker,
    DescribeClusterRequest,
    DescribeClusterResponse,
)
from ottla.protocol.messages.list_partition_reassignments import (
    ListPartitionReassignmentsRequest,
    ListPartitionReassignmentsResponse,
    OngoingPartitionReassignment,
    OngoingTopicReassignment,
)
from ottla.protocol.messages.unregister_broker import UnregisterBrokerRequest, UnregisterBrokerResponse
from ottla.types import INTERNAL_TOPICS, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ottla.broker.context import RequestContext, Routes
    from ottla.broker.handlers.addresses import Addresses
    from ottla.clock import Clock
    from ottla.cluster.controller import Controller
    from ottla.cluster.image import ClusterImage, TopicImage

#: Operations an unguarded resource allows: bit n is ACL operation n (KIP-430).
TOPIC_OPERATIONS = sum(1 << operation for operation in (3, 4, 5, 6, 7, 8, 10, 11))
CLUSTER_OPERATIONS = sum(1 << operation for operation in (5, 7, 8, 9, 10, 11, 12))

BROKER_ENDPOINT = 1
CONTROLLER_ENDPOINT = 2

_NOT_HOSTED = "This server does not host this topic-partition."


class ReplicaInfo(NamedTuple):
    """One replica in a directory. `offset_lag`: how far it is behind the high watermark. `is_future`: being moved here."""

    topic: str
    partition: int
    size: int
    offset_lag: int = 0
    is_future: bool = False


class LogDirInfo(NamedTuple):
    """One data directory. Bytes -1: unknown. An offline directory has no replicas."""

    path: str
    online: bool
    total_bytes: int
    usable_bytes: int
    replicas: Sequence[ReplicaInfo]


class LogDirs(Protocol):
    """What the log manager knows about its directories."""

    async def describe(self) -> Sequence[LogDirInfo]:
        """Return the state of every configured directory, in the order of the configuration."""
        ...


class ClusterHandlers:
    """Describes the cluster from the image of the moment."""

    def __init__(
        self,
        image: Callable[[], ClusterImage],
        addresses: Addresses,
        controller: Controller,
        logs: LogDirs,
        move: Callable[[TopicPartition, str], ErrorCode],
        clock: Clock,
        *,
        max_request_partition_size_limit: int,
    ) -> None:
        self._image = image
        self._addresses = addresses
        self._controller = controller
        self._logs = logs
        self._move = move
        self._clock = clock
        self._partitions_max = max_request_partition_size_limit

    def routes(self) -> Routes:
        return {
            ApiKey.ALTER_REPLICA_LOG_DIRS: Route(self.handle_alter_replica_log_dirs),
            ApiKey.DESCRIBE_LOG_DIRS: Route(self.handle_describe_log_dirs),
            ApiKey.ELECT_LEADERS: Route(self.handle_elect_leaders, for_controller=True),
            ApiKey.ALTER_PARTITION_REASSIGNMENTS: Route(self.handle_alter_partition_reassignments, for_controller=True),
            ApiKey.UNREGISTER_BROKER: Route(self.handle_unregister_broker, for_controller=True),
            ApiKey.LIST_PARTITION_REASSIGNMENTS: Route(self.handle_list_partition_reassignments),
            ApiKey.DESCRIBE_QUORUM: Route(self.handle_describe_quorum),
            ApiKey.DESCRIBE_CLUSTER: Route(self.handle_describe_cluster),
            ApiKey.DESCRIBE_TOPIC_PARTITIONS: Route(self.handle_describe_topic_partitions),
        }

    def handle_describe_cluster(
        self, context: RequestContext, request: DescribeClusterRequest
    ) -> DescribeClusterResponse:
        if request.endpoint_type != BROKER_ENDPOINT:
            if request.endpoint_type == CONTROLLER_ENDPOINT:
                return DescribeClusterResponse(
                    error_code=ErrorCode.MISMATCHED_ENDPOINT_TYPE,
                    error_message="The request was sent to an endpoint of type BROKER, but we wanted an endpoint of "
                    "type CONTROLLER",
                )
            return DescribeClusterResponse(
                error_code=ErrorCode.UNSUPPORTED_ENDPOINT_TYPE,
                error_message=f"Unsupported endpoint type {request.endpoint_type}",
            )
        image = self._image()
        response = DescribeClusterResponse(
            cluster_id=image.cluster_id,
            controller_id=image.controller_id,
            brokers=[
                DescribeClusterBroker(broker_id=node_id, host=host, port=port, rack=rack)
                for node_id, host, port, rack in self._addresses.of_brokers(context)
            ],
        )
        if request.include_cluster_authorized_operations:
            response.cluster_authorized_operations = CLUSTER_OPERATIONS
        return response

    async def handle_elect_leaders(
        self, context: RequestContext, request: elect_leaders.ElectLeadersRequest
    ) -> elect_leaders.ElectLeadersResponse:
        response = elect_leaders.ElectLeadersResponse()
        if request.election_type not in (PREFERRED, UNCLEAN):
            return _refuse_election(request)
        everything = request.topic_partitions is None
        if request.topic_partitions is None:
            asked = [(t.name, list(range(len(t.partitions)))) for t in self._image().topics.values()]
        else:
            asked = [(t.topic, t.partitions) for t in request.topic_partitions]
        for name, indexes in asked:
            answer = elect_leaders.ReplicaElectionResult(topic=name)
            response.replica_election_results.append(answer)
            for index in indexes:
                try:
                    refusal = await self._controller.elect_leader(TopicPartition(name, index), request.election_type)
                except KafkaError as error:
                    refusal = Refusal(error.code, error.message)
                if refusal is None:
                    result = elect_leaders.PartitionResult(partition_id=index, error_message=None)
                elif everything and refusal.error is ErrorCode.ELECTION_NOT_NEEDED:
                    continue  # a request for all partitions is answered only with those that changed or failed
                else:
                    result = elect_leaders.PartitionResult(
                        partition_id=index, error_code=refusal.error, error_message=refusal.message
                    )
                answer.partition_result.append(result)
        return response

    async def handle_alter_partition_reassignments(
        self, context: RequestContext, request: AlterPartitionReassignmentsRequest
    ) -> AlterPartitionReassignmentsResponse:
        targets = {
            TopicPartition(topic.name, row.partition_index): row.replicas
            for topic in request.topics
            for row in topic.partitions
        }
        outcome = await self._controller.reassign(targets, may_change_count=request.allow_replication_factor_change)
        response = AlterPartitionReassignmentsResponse(error_message=None)
        response.allow_replication_factor_change = request.allow_replication_factor_change
        for topic in request.topics:
            rows = []
            for row in topic.partitions:
                refusal = outcome[TopicPartition(topic.name, row.partition_index)]
                answer = ReassignablePartitionResponse(partition_index=row.partition_index, error_message=None)
                if refusal is not None:
                    answer.error_code, answer.error_message = refusal.error, refusal.message
                rows.append(answer)
            response.responses.append(ReassignableTopicResponse(name=topic.name, partitions=rows))
        return response

    async def handle_unregister_broker(
        self, context: RequestContext, request: UnregisterBrokerRequest
    ) -> UnregisterBrokerResponse:
        refusal = await self._controller.unregister(request.broker_id)
        if refusal is None:
            return UnregisterBrokerResponse(error_message=None)
        return UnregisterBrokerResponse(error_code=refusal.error, error_message=refusal.message)

    def handle_list_partition_reassignments(
        self, context: RequestContext, request: ListPartitionReassignmentsRequest
    ) -> ListPartitionReassignmentsResponse:
        image = self._image()
        if request.topics is None:
            asked = [(t.name, list(range(len(t.partitions)))) for t in image.topics.values()]
        else:
            asked = [(t.name, t.partition_indexes) for t in request.topics]
        response = ListPartitionReassignmentsResponse(error_message=None)
        for name, indexes in asked:
            ongoing = [
                OngoingPartitionReassignment(
                    partition_index=index,
                    replicas=list(partition.replicas),
                    adding_replicas=list(partition.adding_replicas),
                    removing_replicas=list(partition.removing_replicas),
                )
                for index in indexes
                if (partition := image.partition(TopicPartition(name, index))) is not None
                and (partition.adding_replicas or partition.removing_replicas)
            ]
            if ongoing:
                response.topics.append(OngoingTopicReassignment(name=name, partitions=ongoing))
        return response

    def handle_describe_quorum(
        self, context: RequestContext, request: quorum.DescribeQuorumRequest
    ) -> quorum.DescribeQuorumResponse:
        asked = [(t.topic_name, [p.partition_index for p in t.partitions]) for t in request.topics]
        if asked != [(CLUSTER_METADATA_TOPIC, [0])]:
            return quorum.DescribeQuorumResponse(
                topics=[
                    quorum.DescribeQuorumResponseTopicData(
                        topic_name=name,
                        partitions=[
                            quorum.DescribeQuorumResponsePartitionData(
                                partition_index=index,
                                error_code=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
                                error_message=_NOT_HOSTED,
                            )
                            for index in indexes
                        ],
                    )
                    for name, indexes in asked
                ]
            )
        image, now = self._image(), self._clock.wall_ms()
        log_end = image.epoch + 1
        voter = quorum.ReplicaState(
            replica_id=image.controller_id,
            log_end_offset=log_end,
            last_fetch_timestamp=now,
            last_caught_up_timestamp=now,
        )
        partition = quorum.DescribeQuorumResponsePartitionData(
            leader_id=image.controller_id,
            leader_epoch=self._controller.epoch,
            high_watermark=log_end,
            current_voters=[voter],
        )
        listeners = [
            quorum.Listener(name=context.session.listener, host=address.host, port=address.port)
            for address in self._addresses.of_brokers(context)
            if address.node_id == image.controller_id
        ]
        return quorum.DescribeQuorumResponse(
            topics=[quorum.DescribeQuorumResponseTopicData(topic_name=CLUSTER_METADATA_TOPIC, partitions=[partition])],
            # The response has had nodes since v2, and they must not be given to it before.
            nodes=[quorum.Node(node_id=image.controller_id, listeners=listeners)] if context.version >= 2 else [],
        )

    def handle_describe_topic_partitions(
        self, context: RequestContext, request: topic_partitions.DescribeTopicPartitionsRequest
    ) -> topic_partitions.DescribeTopicPartitionsResponse:
        image, cursor = self._image(), request.cursor
        first = cursor.topic_name if cursor is not None else ""
        everything = not request.topics
        names = sorted({t.name for t in request.topics} if request.topics else image.topics)
        names = [name for name in names if name >= first]
        if cursor is not None and (cursor.partition_index < 0 or (not everything and cursor.topic_name not in names)):
            # The response has no error of its own: each topic asked for gets it, none where all were asked for.
            return topic_partitions.DescribeTopicPartitionsResponse(
                topics=[
                    topic_partitions.DescribeTopicPartitionsResponseTopic(
                        error_code=ErrorCode.INVALID_REQUEST, name=topic.name
                    )
                    for topic in request.topics
                ]
            )
        left = max(min(self._partitions_max, request.response_partition_limit), 1)
        response = topic_partitions.DescribeTopicPartitionsResponse()
        for name in names:
            if left <= 0:
                response.next_cursor = topic_partitions.Cursor(topic_name=name, partition_index=0)
                break
            topic = image.topics.get(name)
            if topic is None:
                response.topics.append(_unknown_topic(name))
                continue
            start = cursor.partition_index if cursor is not None and name == first else 0
            end = min(start + left, len(topic.partitions))
            left -= max(end - start, 0)
            response.topics.append(_described(topic, start, end, image))
            if end < len(topic.partitions):
                response.next_cursor = topic_partitions.Cursor(topic_name=name, partition_index=end)
                break
        return response

    def handle_alter_replica_log_dirs(
        self, context: RequestContext, request: alter_replica_log_dirs.AlterReplicaLogDirsRequest
    ) -> alter_replica_log_dirs.AlterReplicaLogDirsResponse:
        """Begin to move replicas between directories of this broker; DescribeLogDirs shows how far they have come."""
        results: dict[str, list[alter_replica_log_dirs.AlterReplicaLogDirPartitionResult]] = {}
        for directory in request.dirs:
            for topic in directory.topics:
                rows = results.setdefault(topic.name, [])
                for index in topic.partitions:
                    code = self._move(TopicPartition(topic.name, index), directory.path)
                    rows.append(
                        alter_replica_log_dirs.AlterReplicaLogDirPartitionResult(partition_index=index, error_code=code)
                    )
        return alter_replica_log_dirs.AlterReplicaLogDirsResponse(
            results=[
                alter_replica_log_dirs.AlterReplicaLogDirTopicResult(topic_name=name, partitions=rows)
                for name, rows in results.items()
            ]
        )

    async def handle_describe_log_dirs(
        self, context: RequestContext, request: log_dirs.DescribeLogDirsRequest
    ) -> log_dirs.DescribeLogDirsResponse:
        wanted = None if request.topics is None else {(t.topic, p) for t in request.topics for p in t.partitions}
        response = log_dirs.DescribeLogDirsResponse()
        for directory in await self._logs.describe():
            result = log_dirs.DescribeLogDirsResult(log_dir=directory.path)
            response.results.append(result)
            if not directory.online:
                result.error_code = ErrorCode.KAFKA_STORAGE_ERROR
                continue
            result.total_bytes, result.usable_bytes = directory.total_bytes, directory.usable_bytes
            by_topic: dict[str, log_dirs.DescribeLogDirsTopic] = {}
            for replica in sorted(directory.replicas):
                if wanted is not None and (replica.topic, replica.partition) not in wanted:
                    continue
                if replica.topic not in by_topic:
                    by_topic[replica.topic] = log_dirs.DescribeLogDirsTopic(name=replica.topic)
                by_topic[replica.topic].partitions.append(
                    log_dirs.DescribeLogDirsPartition(
                        partition_index=replica.partition,
                        partition_size=replica.size,
                        offset_lag=replica.offset_lag,
                        is_future_key=replica.is_future,
                    )
                )
            result.topics = list(by_topic.values())
        return response


def _unknown_topic(name: str) -> topic_partitions.DescribeTopicPartitionsResponseTopic:
    error = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION if why_invalid(name) is None else ErrorCode.INVALID_TOPIC_EXCEPTION
    return topic_partitions.DescribeTopicPartitionsResponseTopic(
        error_code=error,
        name=name,
        is_internal=name in INTERNAL_TOPICS,
        topic_authorized_operations=TOPIC_OPERATIONS,
    )


def _described(
    topic: TopicImage, start: int, end: int, image: ClusterImage
) -> topic_partitions.DescribeTopicPartitionsResponseTopic:
    return topic_partitions.DescribeTopicPartitionsResponseTopic(
        name=topic.name,
        topic_id=topic.topic_id,
        is_internal=topic.is_internal,
        partitions=[
            topic_partitions.DescribeTopicPartitionsResponsePartition(
                error_code=ErrorCode.NONE if partition.leader in image.brokers else ErrorCode.LEADER_NOT_AVAILABLE,
                partition_index=index,
                leader_id=partition.leader,
                leader_epoch=partition.leader_epoch,
                replica_nodes=list(partition.replicas),
                isr_nodes=list(partition.isr),
                eligible_leader_replicas=[],
                last_known_elr=[],
                offline_replicas=[node_id for node_id in partition.replicas if node_id not in image.brokers],
            )
            for index, partition in enumerate(topic.partitions[start:end], start=start)
        ],
        topic_authorized_operations=TOPIC_OPERATIONS,
    )


def _refuse_election(request: elect_leaders.ElectLeadersRequest) -> elect_leaders.ElectLeadersResponse:
    """An election of an unknown type: an error for every partition asked about, none if there is none."""
    message = f"Unknown election type {request.election_type}"
    results = [
        elect_leaders.ReplicaElectionResult(
            topic=topic.topic,
            partition_result=[
                elect_leaders.PartitionResult(
                    partition_id=index, error_code=ErrorCode.INVALID_REQUEST, error_message=message
                )
                for index in topic.partitions
            ],
        )
        for topic in request.topic_partitions or ()
    ]
    nothing = request.topic_partitions is not None and not results
    return elect_leaders.ElectLeadersResponse(
        error_code=ErrorCode.NONE if nothing else ErrorCode.INVALID_REQUEST, replica_election_results=results
    )
