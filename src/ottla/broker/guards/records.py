"""Guards of what writes and reads records, and of offsets in partitions."""

from __future__ import annotations

from typing import Any

from ottla.broker.context import RequestContext
from ottla.broker.guards.base import (
    CLUSTER_ACTION,
    CLUSTER_DENIED,
    DELETE,
    DESCRIBE,
    READ,
    TOPIC_DENIED,
    TRANSACTIONAL_ID_DENIED,
    WRITE,
    Around,
    Proceed,
    split,
    then,
)
from ottla.broker.handlers.produce import CloseConnection
from ottla.broker.handlers.produce_requests import is_transactional
from ottla.errors import ErrorCode
from ottla.protocol.messages import (
    delete_records,
    describe_producers,
    fetch,
    init_producer_id,
    list_offsets,
    offset_for_leader_epoch,
    produce,
)
from ottla.security.acls import Operation, ResourceType


def guard_produce(around: Around, context: RequestContext, request: produce.ProduceRequest, proceed: Proceed) -> Any:
    """WRITE on the transactional id, where there are transactional batches, then on each topic.

    In this order, and before the transaction coordinator hears of anything: a stranger must not hold up readers of a topic.
    """
    authorizer, session = around.authorizer, context.session
    if any(is_transactional(data.records) for topic in request.topic_data for data in topic.partition_data) and not (
        request.transactional_id is not None
        and authorizer.allows(session, WRITE, ResourceType.TRANSACTIONAL_ID, request.transactional_id)
    ):
        return _refused_produce(request, request.topic_data, TRANSACTIONAL_ID_DENIED)
    allowed, denied = split(around, session, WRITE, request.topic_data)
    if not denied:
        return proceed(request)
    request.topic_data = allowed
    refused = _refused_produce(request, denied, TOPIC_DENIED) if request.acks else None

    def finish(answer: produce.ProduceResponse) -> produce.ProduceResponse:
        assert refused is not None
        answer.responses += refused.responses
        return answer

    if not allowed:
        return refused if refused is not None else _close()
    answer = proceed(request)
    if refused is None:  # acks=0: what is allowed is appended, and the connection says that something was not
        return _close()
    return then(context, answer, finish)


def _close() -> Any:
    raise CloseConnection("produce with acks=0 failed: TOPIC_AUTHORIZATION_FAILED")


def _refused_produce(request: produce.ProduceRequest, topics: list[Any], error: ErrorCode) -> produce.ProduceResponse:
    if not request.acks:
        raise CloseConnection(f"produce with acks=0 failed: {error.name}")
    return produce.ProduceResponse(
        responses=[
            produce.TopicProduceResponse(
                name=topic.name,
                topic_id=topic.topic_id,
                partition_responses=[
                    produce.PartitionProduceResponse(
                        index=data.index, error_code=error, base_offset=-1, log_append_time_ms=-1, log_start_offset=-1
                    )
                    for data in topic.partition_data
                ],
            )
            for topic in topics
        ]
    )


def guard_fetch(around: Around, context: RequestContext, request: fetch.FetchRequest, proceed: Proceed) -> Any:
    """CLUSTER_ACTION for brokers. READ on each topic is asked by the handler, at every look, for the session's topics."""
    replica_id = request.replica_state.replica_id if context.version >= 15 else request.replica_id
    if replica_id >= 0 and not around.authorizer.allows_cluster(context.session, CLUSTER_ACTION):
        return fetch.FetchResponse(
            responses=[
                fetch.FetchableTopicResponse(
                    topic=topic.topic,
                    topic_id=topic.topic_id,
                    partitions=[
                        fetch.PartitionData(
                            partition_index=partition.partition,
                            error_code=TOPIC_DENIED,
                            high_watermark=-1,
                            aborted_transactions=None,
                            records=b"",
                        )
                        for partition in topic.partitions
                    ],
                )
                for topic in request.topics
            ]
        )
    return proceed(request)


def guard_list_offsets(
    around: Around, context: RequestContext, request: list_offsets.ListOffsetsRequest, proceed: Proceed
) -> Any:
    """DESCRIBE on each topic."""
    request.topics, denied = split(around, context.session, DESCRIBE, request.topics)

    def finish(answer: list_offsets.ListOffsetsResponse) -> list_offsets.ListOffsetsResponse:
        answer.topics += [
            list_offsets.ListOffsetsTopicResponse(
                name=topic.name,
                partitions=[
                    list_offsets.ListOffsetsPartitionResponse(
                        partition_index=partition.partition_index, error_code=TOPIC_DENIED, timestamp=-1, offset=-1
                    )
                    for partition in topic.partitions
                ],
            )
            for topic in denied
        ]
        return answer

    return then(context, proceed(request), finish) if denied else proceed(request)


def guard_offset_for_leader_epoch(
    around: Around,
    context: RequestContext,
    request: offset_for_leader_epoch.OffsetForLeaderEpochRequest,
    proceed: Proceed,
) -> Any:
    """CLUSTER_ACTION, or DESCRIBE on each topic."""
    if around.authorizer.allows_cluster(context.session, CLUSTER_ACTION, is_logged=False):
        return proceed(request)
    request.topics, denied = split(around, context.session, DESCRIBE, request.topics, by="topic")

    def finish(
        answer: offset_for_leader_epoch.OffsetForLeaderEpochResponse,
    ) -> offset_for_leader_epoch.OffsetForLeaderEpochResponse:
        answer.topics += [
            offset_for_leader_epoch.OffsetForLeaderTopicResult(
                topic=topic.topic,
                partitions=[
                    offset_for_leader_epoch.EpochEndOffset(
                        partition=partition.partition, error_code=TOPIC_DENIED, leader_epoch=-1, end_offset=-1
                    )
                    for partition in topic.partitions
                ],
            )
            for topic in denied
        ]
        return answer

    return then(context, proceed(request), finish) if denied else proceed(request)


def guard_delete_records(
    around: Around, context: RequestContext, request: delete_records.DeleteRecordsRequest, proceed: Proceed
) -> Any:
    """DELETE on each topic."""
    request.topics, denied = split(around, context.session, DELETE, request.topics)

    def finish(answer: delete_records.DeleteRecordsResponse) -> delete_records.DeleteRecordsResponse:
        answer.topics += [
            delete_records.DeleteRecordsTopicResult(
                name=topic.name,
                partitions=[
                    delete_records.DeleteRecordsPartitionResult(
                        partition_index=partition.partition_index, low_watermark=-1, error_code=TOPIC_DENIED
                    )
                    for partition in topic.partitions
                ],
            )
            for topic in denied
        ]
        return answer

    return then(context, proceed(request), finish) if denied else proceed(request)


def guard_describe_producers(
    around: Around, context: RequestContext, request: describe_producers.DescribeProducersRequest, proceed: Proceed
) -> Any:
    """READ on each topic."""
    request.topics, denied = split(around, context.session, READ, request.topics)

    def finish(answer: describe_producers.DescribeProducersResponse) -> describe_producers.DescribeProducersResponse:
        answer.topics += [
            describe_producers.TopicResponse(
                name=topic.name,
                partitions=[
                    describe_producers.PartitionResponse(
                        partition_index=index, error_code=TOPIC_DENIED, error_message=None
                    )
                    for index in topic.partition_indexes
                ],
            )
            for topic in denied
        ]
        return answer

    return then(context, proceed(request), finish) if denied else proceed(request)


def guard_init_producer_id(
    around: Around, context: RequestContext, request: init_producer_id.InitProducerIdRequest, proceed: Proceed
) -> Any:
    """WRITE on the transactional id; without one IDEMPOTENT_WRITE on the cluster, or WRITE on some topic (KIP-679)."""
    authorizer, session = around.authorizer, context.session
    if request.transactional_id is not None:
        if not authorizer.allows(session, WRITE, ResourceType.TRANSACTIONAL_ID, request.transactional_id):
            return _refused_id(TRANSACTIONAL_ID_DENIED)
        if request.enable2_pc and not authorizer.allows(
            session, Operation.TWO_PHASE_COMMIT, ResourceType.TRANSACTIONAL_ID, request.transactional_id
        ):
            return _refused_id(TRANSACTIONAL_ID_DENIED)
    elif not authorizer.allows_cluster(
        session, Operation.IDEMPOTENT_WRITE, is_logged=False
    ) and not authorizer.allows_some(session, WRITE, ResourceType.TOPIC):
        authorizer.allows_cluster(session, Operation.IDEMPOTENT_WRITE)  # noted
        return _refused_id(CLUSTER_DENIED)
    return proceed(request)


def _refused_id(error: ErrorCode) -> init_producer_id.InitProducerIdResponse:
    return init_producer_id.InitProducerIdResponse(error_code=error, producer_id=-1, producer_epoch=-1)
