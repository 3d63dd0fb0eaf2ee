"""A batch that was sent to one leader and, much later, again to the next one: older than the batches that are kept."""

from __future__ import annotations

import pytest
from tests.replication.story import produce, replica_on, simulate

from ottla.errors import ErrorCode
from ottla.storage.appended import BATCHES_KEPT
from ottla.testing.simulated_cluster import SimulatedCluster

PRODUCER = 7_000


async def sent(cluster: SimulatedCluster, leader: int, sequence: int) -> tuple[ErrorCode, int]:
    return await produce(cluster, leader, b"%d" % sequence, producer=(PRODUCER, sequence))


@pytest.mark.parametrize("fails_over", [False, True])
def test_an_old_duplicate_is_no_reason_to_begin_anew(fails_over: bool) -> None:
    """Java's producer had sent five batches to the new leader before the one before had let it wait long enough for a batch.

    Sent again, that batch was out of order, and the producer, to whom the later ones had been acknowledged, sent it again for
    ever: the partition got no record any more. 1. Batches, more than are kept. 2. Perhaps another leader. 3. The first
    ones come again. 4. What is kept is answered with its offset, and 5. what does not follow is out of order.
    """

    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start()
        await cluster.make_topic("t", [(1, 2, 3)])
        last = BATCHES_KEPT + 2
        for sequence in range(last + 1):
            assert await sent(cluster, 1, sequence) == (ErrorCode.NONE, sequence)
        leader = 1
        if fails_over:
            cluster[1].kill()
            leader = 2
            await cluster.has_leader("t", leader)
            await cluster.until(lambda: replica_on(cluster, leader).leader is not None)
        for sequence in range(last - BATCHES_KEPT + 1):
            assert await sent(cluster, leader, sequence) == (ErrorCode.DUPLICATE_SEQUENCE_NUMBER, -1)
        for sequence in range(last - BATCHES_KEPT + 1, last + 1):
            assert await sent(cluster, leader, sequence) == (ErrorCode.NONE, sequence)
        assert await sent(cluster, leader, last + 2) == (ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, -1)
        assert await sent(cluster, leader, last + 1) == (ErrorCode.NONE, last + 1)
        assert replica_on(cluster, leader).log.log_end_offset == last + 2

    simulate(scenario)


def test_what_a_producer_has_not_begun_with_is_no_duplicate() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start()
        await cluster.make_topic("t", [(1, 2, 3)])
        for sequence in range(10, 17):
            assert (await sent(cluster, 1, sequence))[0] is ErrorCode.NONE
        assert await sent(cluster, 1, 10) == (ErrorCode.DUPLICATE_SEQUENCE_NUMBER, -1)
        assert await sent(cluster, 1, 9) == (ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, -1)

    simulate(scenario)
