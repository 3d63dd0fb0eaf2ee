"""ListOffsets: a request of many partitions, each asked twice, costs what one of as many partitions costs."""

from __future__ import annotations

from types import SimpleNamespace

from tests.broker.story import started

from ottla.errors import ErrorCode
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopic,
)
from ottla.testing.virtual_loop import VirtualLoop, run_virtual


class CountedIndex(int):
    """A partition index that counts how often it is compared."""

    comparisons = 0
    __hash__ = int.__hash__

    def __eq__(self, other: object) -> bool:
        CountedIndex.comparisons += 1
        return int(self) == other


def test_partitions_asked_twice_are_refused_once_and_found_in_linear_time() -> None:
    count = 3_000

    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop)
        partitions = [ListOffsetsPartition(partition_index=index, timestamp=-1) for index in range(count)]
        request = ListOffsetsRequest(
            replica_id=-1, topics=[ListOffsetsTopic(name="orders", partitions=[*partitions, *partitions])]
        )
        answer = await client.ask(request, 7, ListOffsetsResponse)
        parts = answer.topics[0].partitions
        assert [part.partition_index for part in parts] == list(range(count))
        assert {part.error_code for part in parts} == {ErrorCode.INVALID_REQUEST}

        assert node.broker is not None
        for part in partitions:
            part.partition_index = CountedIndex(part.partition_index)
        handler = node.broker.dispatcher._routes[ApiKey.LIST_OFFSETS].handler
        await handler(SimpleNamespace(version=7), request)  # type: ignore[arg-type]
        assert CountedIndex.comparisons < 20 * count
        await node.stop()

    run_virtual(1, story)
