"""The uniform assignor: members get equally many partitions, and as few as possible change hands.

If all members subscribe to the same topics, quotas are known at once: all members get q partitions or q + 1, and those who
have more than q already are the ones who may keep q + 1. So nothing moves that need not.

If not, balance is sought by moving single partitions, from the owner who has most to the subscriber who has least, as long
as they differ by more than one: topic by topic, in rounds, until a round moves nothing. Every move makes the sum of squares
of the loads smaller, so that this ends; `_ROUNDS_MAX` bounds how long it may take. The order of the first distribution
(topics with the most partitions per subscriber first) leaves little to move. Racks do not count, as in Kafka 4.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Final

from ottla.broker.coordinators.groups.modern.assignor import Assignment, GroupSpec

_ROUNDS_MAX: Final = 16

#: Topic id -> partitions, being changed.
_Draft = dict[bytes, set[int]]


class UniformAssignor:
    """Implements `Assignor`."""

    name = "uniform"

    def assign(self, spec: GroupSpec) -> dict[str, Assignment]:
        """Return balanced targets."""
        if not spec.members:
            return {}
        drafts, unassigned = _keep(spec)
        if spec.is_homogeneous:
            _share_out_evenly(drafts, unassigned)
        else:
            _distribute(spec, drafts, unassigned)
            _balance(spec, drafts)
        return {member_id: _finished(spec, member_id, draft) for member_id, draft in drafts.items()}


def _finished(spec: GroupSpec, member_id: str, draft: _Draft) -> Assignment:
    before = spec.members[member_id].target
    return before if before == draft else {topic_id: frozenset(parts) for topic_id, parts in draft.items() if parts}


def _keep(spec: GroupSpec) -> tuple[dict[str, _Draft], list[tuple[bytes, int]]]:
    """Return what members may keep of what they have, and the partitions that no member has."""
    drafts: dict[str, _Draft] = {}
    owned: dict[bytes, set[int]] = {topic_id: set() for topic_id in spec.partition_counts}
    subscribed: set[bytes] = set()
    for member_id, member in spec.members.items():
        draft: _Draft = {}
        subscribed |= member.topic_ids
        for topic_id, partitions in member.target.items():
            if topic_id in member.topic_ids:
                count = spec.partition_counts[topic_id]
                taken = owned[topic_id]
                kept = {partition for partition in partitions if partition < count and partition not in taken}
                if kept:
                    taken |= kept
                    draft[topic_id] = kept
        drafts[member_id] = draft
    unassigned = [
        (topic_id, partition)
        for topic_id in sorted(subscribed)
        for partition in range(spec.partition_counts[topic_id])
        if partition not in owned[topic_id]
    ]
    return drafts, unassigned


def _size(draft: _Draft) -> int:
    return sum(map(len, draft.values()))


def _share_out_evenly(drafts: dict[str, _Draft], unassigned: list[tuple[bytes, int]]) -> None:
    sizes = {member_id: _size(draft) for member_id, draft in drafts.items()}
    quota, extra = divmod(sum(sizes.values()) + len(unassigned), len(drafts))
    quotas = dict.fromkeys(drafts, quota)
    for member_id, size in sizes.items():
        if extra and size > quota:
            quotas[member_id] += 1
            extra -= 1
    for member_id in drafts:
        if not extra:
            break
        if quotas[member_id] == quota:
            quotas[member_id] += 1
            extra -= 1
    for member_id, draft in drafts.items():
        surplus = sizes[member_id] - quotas[member_id]
        if surplus > 0:
            unassigned += _take(draft, surplus)
    free = iter(unassigned)
    for member_id, draft in drafts.items():
        for _ in range(quotas[member_id] - sizes[member_id]):
            topic_id, partition = next(free)
            draft.setdefault(topic_id, set()).add(partition)


def _take(draft: _Draft, count: int) -> Iterator[tuple[bytes, int]]:
    """Take partitions away, from the topic with most first, so that what is left is spread over the topics."""
    for _ in range(count):
        topic_id = max(draft, key=lambda each: (len(draft[each]), each))
        partition = max(draft[topic_id])
        draft[topic_id].discard(partition)
        yield topic_id, partition


def _subscribers(spec: GroupSpec) -> dict[bytes, list[str]]:
    found: dict[bytes, list[str]] = {}
    for member_id, member in spec.members.items():
        for topic_id in member.topic_ids:
            found.setdefault(topic_id, []).append(member_id)
    return found


def _distribute(spec: GroupSpec, drafts: dict[str, _Draft], unassigned: list[tuple[bytes, int]]) -> None:
    """Give every free partition to the subscriber who has least."""
    subscribers = _subscribers(spec)
    by_topic: dict[bytes, list[int]] = {}
    for topic_id, partition in unassigned:
        by_topic.setdefault(topic_id, []).append(partition)

    def urgency(topic_id: bytes) -> tuple[float, int, bytes]:
        count = len(subscribers[topic_id])
        return -spec.partition_counts[topic_id] / count, count, topic_id

    loads = {member_id: _size(draft) for member_id, draft in drafts.items()}
    for topic_id in sorted(by_topic, key=urgency):
        heap = [(loads[member_id], member_id) for member_id in subscribers[topic_id]]
        heapq.heapify(heap)
        for partition in by_topic[topic_id]:
            load, member_id = heap[0]
            drafts[member_id].setdefault(topic_id, set()).add(partition)
            loads[member_id] = load + 1
            heapq.heapreplace(heap, (load + 1, member_id))


def _balance(spec: GroupSpec, drafts: dict[str, _Draft]) -> None:
    subscribers = _subscribers(spec)
    loads = {member_id: _size(draft) for member_id, draft in drafts.items()}
    topics = sorted(subscribers, key=lambda topic_id: (len(subscribers[topic_id]), topic_id))
    for _ in range(_ROUNDS_MAX):
        moves = sum(_balance_topic(topic_id, subscribers[topic_id], drafts, loads) for topic_id in topics)
        if not moves:
            return


def _balance_topic(topic_id: bytes, members: list[str], drafts: dict[str, _Draft], loads: dict[str, int]) -> int:
    """Move partitions of one topic from those who have most to those who have least. Returns how many moved."""
    givers = [(-loads[member_id], member_id) for member_id in members if drafts[member_id].get(topic_id)]
    takers = [(loads[member_id], member_id) for member_id in members]
    heapq.heapify(givers)
    heapq.heapify(takers)
    moves = 0
    while givers and takers:
        most, giver = givers[0]
        least, taker = takers[0]
        # Entries are corrected when they come up: a load may have changed since they were made.
        if -most != loads[giver] or not drafts[giver].get(topic_id):
            heapq.heappop(givers)
            if drafts[giver].get(topic_id):
                heapq.heappush(givers, (-loads[giver], giver))
        elif least != loads[taker]:
            heapq.heapreplace(takers, (loads[taker], taker))
        elif loads[giver] - loads[taker] < 2:
            break
        else:
            partition = max(drafts[giver][topic_id])
            drafts[giver][topic_id].discard(partition)
            drafts[taker].setdefault(topic_id, set()).add(partition)
            loads[giver] -= 1
            loads[taker] += 1
            heapq.heapreplace(givers, (-loads[giver], giver))
            heapq.heapreplace(takers, (loads[taker], taker))
            heapq.heappush(givers, (-loads[taker], taker))
            moves += 1
    return moves
