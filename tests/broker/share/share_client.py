"""A member of a share group over the wire of a simulated broker: sessions and acknowledgements spelled out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

from ottla.errors import ErrorCode
from ottla.protocol.messages import share_acknowledge, share_fetch
from ottla.protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest, CreateTopicsResponse
from ottla.protocol.messages.find_coordinator import FindCoordinatorRequest, FindCoordinatorResponse
from ottla.protocol.messages.incremental_alter_configs import (
    AlterableConfig,
    AlterConfigsResource,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
)
from ottla.protocol.messages.initialize_share_group_state import (
    InitializeShareGroupStateRequest,
    InitializeShareGroupStateResponse,
    InitializeStateData,
)
from ottla.protocol.messages.initialize_share_group_state import (
    PartitionData as InitialPartition,
)
from ottla.protocol.messages.produce import PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData
from ottla.protocol.messages.read_share_group_state import (
    PartitionData as ReadPartition,
)
from ottla.protocol.messages.read_share_group_state import (
    PartitionResult,
    ReadShareGroupStateRequest,
    ReadShareGroupStateResponse,
    ReadStateData,
)
from ottla.protocol.messages.share_acknowledge import ShareAcknowledgeRequest, ShareAcknowledgeResponse
from ottla.protocol.messages.share_fetch import ShareFetchRequest, ShareFetchResponse
from ottla.protocol.records.builder import Record, build_batch
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop, run_virtual
from ottla.testing.wire import WireClient
from ottla.types import uuid_to_text

GROUP = "workers"
#: first offset, last offset, types
Acks = Sequence[tuple[int, int, Sequence[int]]]


async def make_topic(client: WireClient, name: str = "jobs", partitions: int = 1) -> bytes:
    """Make a topic; return its id."""
    topic = CreatableTopic(name=name, num_partitions=partitions, replication_factor=1)
    answer = await client.ask(CreateTopicsRequest(topics=[topic]), 7, CreateTopicsResponse)
    return answer.topics[0].topic_id


async def begin(client: WireClient, topic_id: bytes, *, offset: int = 0, epoch: int = 1, partitions: int = 1) -> None:
    """Do for a share group what its first member brings about: initialise the state of its partitions."""
    for index in range(partitions):
        key = f"{GROUP}:{uuid_to_text(topic_id)}:{index}"
        find = FindCoordinatorRequest(key_type=2, coordinator_keys=[key])
        found = await client.ask(find, 6, FindCoordinatorResponse)
        assert found.coordinators[0].error_code == ErrorCode.NONE
    wanted = [InitialPartition(partition=index, state_epoch=epoch, start_offset=offset) for index in range(partitions)]
    request = InitializeShareGroupStateRequest(
        group_id=GROUP, topics=[InitializeStateData(topic_id=topic_id, partitions=wanted)]
    )
    while True:
        answer = await client.ask(request, 0, InitializeShareGroupStateResponse)
        codes = {row.error_code for row in answer.results[0].partitions}
        if not codes & {ErrorCode.NOT_COORDINATOR, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS}:
            assert codes == {ErrorCode.NONE}
            return


async def produce(node: SimulatedBroker, client: WireClient, count: int, *, partition: int = 0) -> None:
    """Append one batch of `count` records to `jobs`."""
    batch = build_batch([Record(index, node.clock.wall_ms(), None, b"job") for index in range(count)])
    data = PartitionProduceData(index=partition, records=bytes(batch))
    request = ProduceRequest(
        acks=-1, timeout_ms=1_000, topic_data=[TopicProduceData(name="jobs", partition_data=[data])]
    )
    answer = await client.ask(request, 9, ProduceResponse)
    assert answer.responses[0].partition_responses[0].error_code == ErrorCode.NONE


async def read_state(client: WireClient, topic_id: bytes, partition: int = 0) -> PartitionResult:
    """Return what the share coordinator remembers."""
    request = ReadShareGroupStateRequest(
        group_id=GROUP,
        topics=[ReadStateData(topic_id=topic_id, partitions=[ReadPartition(partition=partition, leader_epoch=-1)])],
    )
    return (await client.ask(request, 0, ReadShareGroupStateResponse)).results[0].partitions[0]


class Member:
    """One member with its session."""

    def __init__(self, client: WireClient, topic_id: bytes, member_id: str = "one", group_id: str = GROUP) -> None:
        self.client = client
        self.topic_id = topic_id
        self.member_id = member_id
        self.group_id = group_id
        self.epoch = 0

    async def ask(
        self,
        acks: Acks = (),
        *,
        partitions: Iterable[int] = (0,),
        records_max: int = 500,
        wait_ms: int = 0,
        version: int = 2,
        mode: int = 0,
        batch_size: int = 500,
        epoch: int | None = None,
        renew: bool = False,
        forget: Sequence[int] = (),
        bytes_max: int = 1 << 20,
    ) -> ShareFetchResponse:
        """Fetch, acknowledging on partition 0."""
        request = ShareFetchRequest(
            group_id=self.group_id,
            member_id=self.member_id,
            share_session_epoch=self.epoch if epoch is None else epoch,
            max_wait_ms=0 if renew else wait_ms,
            min_bytes=0 if renew else 1,
            max_bytes=0 if renew else bytes_max,
            max_records=0 if renew else records_max,
            batch_size=batch_size,
            share_acquire_mode=mode,
            is_renew_ack=renew,
            topics=[
                share_fetch.FetchTopic(
                    topic_id=self.topic_id,
                    partitions=[
                        share_fetch.FetchPartition(
                            partition_index=index,
                            acknowledgement_batches=[
                                share_fetch.AcknowledgementBatch(
                                    first_offset=first, last_offset=last, acknowledge_types=list(types)
                                )
                                for first, last, types in (acks if index == 0 else ())
                            ],
                        )
                        for index in partitions
                    ],
                )
            ],
            forgotten_topics_data=[share_fetch.ForgottenTopic(topic_id=self.topic_id, partitions=list(forget))]
            if forget
            else [],
        )
        answer = await self.client.ask(request, version, ShareFetchResponse)
        if epoch is None and not answer.error_code:
            self.epoch += 1
        return answer

    async def take(self, acks: Acks = (), **limits: object) -> list[tuple[int, int, int]]:
        """Fetch and return what was acquired of partition 0, as (first, last, delivery count)."""
        answer = await self.ask(acks, **limits)  # type: ignore[arg-type]
        assert answer.error_code == ErrorCode.NONE, ErrorCode(answer.error_code).name
        rows = [row for topic in answer.responses for row in topic.partitions if row.partition_index == 0]
        for row in rows:
            assert row.error_code == ErrorCode.NONE, ErrorCode(row.error_code).name
            assert row.acknowledge_error_code == ErrorCode.NONE, ErrorCode(row.acknowledge_error_code).name
        return [
            (piece.first_offset, piece.last_offset, piece.delivery_count)
            for row in rows
            for piece in row.acquired_records
        ]

    async def acknowledge(
        self, acks: Acks, *, version: int = 2, epoch: int | None = None, renew: bool = False, partition: int = 0
    ) -> ErrorCode:
        """Acknowledge on one partition; return how it went."""
        request = ShareAcknowledgeRequest(
            group_id=self.group_id,
            member_id=self.member_id,
            share_session_epoch=self.epoch if epoch is None else epoch,
            is_renew_ack=renew,
            topics=[
                share_acknowledge.AcknowledgeTopic(
                    topic_id=self.topic_id,
                    partitions=[
                        share_acknowledge.AcknowledgePartition(
                            partition_index=partition,
                            acknowledgement_batches=[
                                share_acknowledge.AcknowledgementBatch(
                                    first_offset=first, last_offset=last, acknowledge_types=list(types)
                                )
                                for first, last, types in acks
                            ],
                        )
                    ],
                )
            ],
        )
        answer = await self.client.ask(request, version, ShareAcknowledgeResponse)
        if answer.error_code:
            return ErrorCode(answer.error_code)
        if epoch is None:
            self.epoch += 1
        rows = [row for topic in answer.responses for row in topic.partitions]
        return ErrorCode(rows[0].error_code) if rows else ErrorCode.NONE


def states(row: PartitionResult) -> list[tuple[int, int, int, int]]:
    """Return the batches of a state as (first, last, state, delivery count)."""
    return [
        (batch.first_offset, batch.last_offset, batch.delivery_state, batch.delivery_count)
        for batch in row.state_batches
    ]


def with_jobs(
    story: Callable[[SimulatedBroker, WireClient, bytes], Awaitable[None]],
    *,
    partitions: int = 1,
    offset: int = 0,
    **settings: object,
) -> None:
    """Tell a story of a broker with a topic `jobs` that a share group reads from its start."""

    async def scenario(loop: VirtualLoop) -> None:
        node = SimulatedBroker(loop, **settings)
        await node.start()
        client = await node.connect()
        topic_id = await make_topic(client, partitions=partitions)
        await begin(client, topic_id, partitions=partitions, offset=offset)
        await story(node, client, topic_id)
        client.close()
        await node.stop()

    run_virtual(0, scenario)


async def set_group(client: WireClient, **values: str) -> None:
    """Set configurations of the share group; underscores stand for points."""
    configs = [AlterableConfig(name=name.replace("_", "."), value=value) for name, value in values.items()]
    resource = AlterConfigsResource(resource_type=32, resource_name=GROUP, configs=configs)
    answer = await client.ask(IncrementalAlterConfigsRequest(resources=[resource]), 1, IncrementalAlterConfigsResponse)
    assert answer.responses[0].error_code == ErrorCode.NONE, answer.responses[0].error_message
    await asyncio.sleep(0.1)
