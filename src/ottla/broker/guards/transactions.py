"""Guards of transactions."""

from __future__ import annotations

from typing import Any

from ottla.broker.context import RequestContext
from ottla.broker.guards.base import (
    ALTER,
    CLUSTER_ACTION,
    CLUSTER_DENIED,
    DESCRIBE,
    GROUP_DENIED,
    READ,
    TOPIC_DENIED,
    TRANSACTIONAL_ID_DENIED,
    WRITE,
    Around,
    Proceed,
    split,
    then,
)
from ottla.errors import ErrorCode
from ottla.protocol.api import APIS
from ottla.protocol.messages import (
    add_offsets_to_txn,
    add_partitions_to_txn,
    describe_transactions,
    list_transactions,
    txn_offset_commit,
    write_txn_markers,
)
from ottla.security.acls import ResourceType

GROUP, TOPIC, TRANSACTIONAL_ID = ResourceType.GROUP, ResourceType.TOPIC, ResourceType.TRANSACTIONAL_ID

#: The first version of AddPartitionsToTxn that brokers alone send (KIP-890).
BROKERS_ONLY = 4


def guard_add_partitions(
    around: Around, context: RequestContext, request: add_partitions_to_txn.AddPartitionsToTxnRequest, proceed: Proceed
) -> Any:
    """CLUSTER_ACTION from version 4 on. Before: WRITE on the transactional id, then on each topic; one denied adds none."""
    authorizer, session = around.authorizer, context.session
    if context.version >= BROKERS_ONLY:
        if authorizer.allows_cluster(session, CLUSTER_ACTION):
            return proceed(request)
        return add_partitions_to_txn.AddPartitionsToTxnResponse(error_code=CLUSTER_DENIED)
    topics = request.v3_and_below_topics
    if not authorizer.allows(session, WRITE, TRANSACTIONAL_ID, request.v3_and_below_transactional_id):
        return _refused_partitions(topics, {topic.name: TRANSACTIONAL_ID_DENIED for topic in topics})
    _, denied = split(around, session, WRITE, topics)
    if not denied:
        return proceed(request)
    names = {topic.name for topic in denied}
    return _refused_partitions(
        topics, {t.name: TOPIC_DENIED if t.name in names else ErrorCode.OPERATION_NOT_ATTEMPTED for t in topics}
    )


def _refused_partitions(
    topics: list[add_partitions_to_txn.AddPartitionsToTxnTopic], errors: dict[str, ErrorCode]
) -> add_partitions_to_txn.AddPartitionsToTxnResponse:
    return add_partitions_to_txn.AddPartitionsToTxnResponse(
        results_by_topic_v3_and_below=[
            add_partitions_to_txn.AddPartitionsToTxnTopicResult(
                name=topic.name,
                results_by_partition=[
                    add_partitions_to_txn.AddPartitionsToTxnPartitionResult(
                        partition_index=index, partition_error_code=errors[topic.name]
                    )
                    for index in topic.partitions
                ],
            )
            for topic in topics
        ]
    )


def guard_add_offsets(
    around: Around, context: RequestContext, request: add_offsets_to_txn.AddOffsetsToTxnRequest, proceed: Proceed
) -> Any:
    """WRITE on the transactional id, READ on the group."""
    if not around.authorizer.allows(context.session, WRITE, TRANSACTIONAL_ID, request.transactional_id):
        return add_offsets_to_txn.AddOffsetsToTxnResponse(error_code=TRANSACTIONAL_ID_DENIED)
    if not around.authorizer.allows(context.session, READ, GROUP, request.group_id):
        return add_offsets_to_txn.AddOffsetsToTxnResponse(error_code=GROUP_DENIED)
    return proceed(request)


def guard_end_txn(around: Around, context: RequestContext, request: Any, proceed: Proceed) -> Any:
    """WRITE on the transactional id."""
    if around.authorizer.allows(context.session, WRITE, TRANSACTIONAL_ID, request.transactional_id):
        return proceed(request)
    answer: Any = APIS[context.api_key].response_class()()
    answer.error_code = TRANSACTIONAL_ID_DENIED
    return answer


def guard_txn_offset_commit(
    around: Around, context: RequestContext, request: txn_offset_commit.TxnOffsetCommitRequest, proceed: Proceed
) -> Any:
    """WRITE on the transactional id, READ on the group, READ on each topic."""
    authorizer, session = around.authorizer, context.session
    if not authorizer.allows(session, WRITE, TRANSACTIONAL_ID, request.transactional_id):
        return txn_offset_commit.TxnOffsetCommitResponse(
            topics=_refused_commits(request.topics, TRANSACTIONAL_ID_DENIED)
        )
    if not authorizer.allows(session, READ, GROUP, request.group_id):
        return txn_offset_commit.TxnOffsetCommitResponse(topics=_refused_commits(request.topics, GROUP_DENIED))
    request.topics, denied = split(around, session, READ, request.topics)
    if not denied:
        return proceed(request)
    refused = _refused_commits(denied, TOPIC_DENIED)
    if not request.topics:
        return txn_offset_commit.TxnOffsetCommitResponse(topics=refused)

    def finish(answer: txn_offset_commit.TxnOffsetCommitResponse) -> txn_offset_commit.TxnOffsetCommitResponse:
        answer.topics += refused
        return answer

    return then(context, proceed(request), finish)


def _refused_commits(topics: list[Any], error: ErrorCode) -> list[Any]:
    return [
        txn_offset_commit.TxnOffsetCommitResponseTopic(
            name=topic.name,
            topic_id=topic.topic_id,
            partitions=[
                txn_offset_commit.TxnOffsetCommitResponsePartition(
                    partition_index=partition.partition_index, error_code=error
                )
                for partition in topic.partitions
            ],
        )
        for topic in topics
    ]


def guard_write_markers(
    around: Around, context: RequestContext, request: write_txn_markers.WriteTxnMarkersRequest, proceed: Proceed
) -> Any:
    """ALTER on the cluster, for administrators who end a transaction (KIP-664), or CLUSTER_ACTION, for brokers."""
    authorizer, session = around.authorizer, context.session
    if authorizer.allows_cluster(session, ALTER, is_logged=False) or authorizer.allows_cluster(session, CLUSTER_ACTION):
        return proceed(request)
    return write_txn_markers.WriteTxnMarkersResponse(
        markers=[
            write_txn_markers.WritableTxnMarkerResult(
                producer_id=marker.producer_id,
                topics=[
                    write_txn_markers.WritableTxnMarkerTopicResult(
                        name=topic.name,
                        partitions=[
                            write_txn_markers.WritableTxnMarkerPartitionResult(
                                partition_index=index, error_code=CLUSTER_DENIED
                            )
                            for index in topic.partition_indexes
                        ],
                    )
                    for topic in marker.topics
                ],
            )
            for marker in request.markers
        ]
    )


def guard_describe_transactions(
    around: Around,
    context: RequestContext,
    request: describe_transactions.DescribeTransactionsRequest,
    proceed: Proceed,
) -> Any:
    """DESCRIBE on each transactional id; topics without DESCRIBE are left out of what it shows."""
    authorizer, session = around.authorizer, context.session
    denied = [n for n in request.transactional_ids if not authorizer.allows(session, DESCRIBE, TRANSACTIONAL_ID, n)]
    request.transactional_ids = [name for name in request.transactional_ids if name not in denied]

    def finish(answer: describe_transactions.DescribeTransactionsResponse) -> Any:
        for state in answer.transaction_states:
            names = authorizer.allowed(session, DESCRIBE, TOPIC, [t.topic for t in state.topics], is_logged=False)
            state.topics = [topic for topic in state.topics if topic.topic in names]
        answer.transaction_states += [
            describe_transactions.TransactionState(error_code=TRANSACTIONAL_ID_DENIED, transactional_id=name)
            for name in denied
        ]
        return answer

    return then(context, proceed(request), finish)


def guard_list_transactions(
    around: Around, context: RequestContext, request: list_transactions.ListTransactionsRequest, proceed: Proceed
) -> Any:
    """Those with DESCRIBE on the transactional id."""
    authorizer, session = around.authorizer, context.session

    def finish(answer: list_transactions.ListTransactionsResponse) -> list_transactions.ListTransactionsResponse:
        answer.transaction_states = [
            state
            for state in answer.transaction_states
            if authorizer.allows(session, DESCRIBE, TRANSACTIONAL_ID, state.transactional_id, is_logged=False)
        ]
        return answer

    return then(context, proceed(request), finish)
