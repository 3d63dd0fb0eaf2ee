"""Carries out a plan of moves: a few partitions at a time, with progress, and under a throttle if there is to be one.

The cluster does the work (AlterPartitionReassignments); what has begun goes on there if this process ends. A partition whose
reassignment is listed no more has ended; what it has become is looked at in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from ottla.cli.balance import Move
from ottla.cli.cluster_view import describe_partitions, log_directories
from ottla.client.admin_errors import AdminErrors
from ottla.errors import ElectionNotNeededError, KafkaError
from ottla.types import TopicPartition

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ottla.cli.progress import Progress
    from ottla.client.admin import Admin

LOOK_SECONDS: Final = 0.5

_RATES: Final = ("leader.replication.throttled.rate", "follower.replication.throttled.rate")
_LEADERS, _FOLLOWERS = "leader.replication.throttled.replicas", "follower.replication.throttled.replicas"


def carry_out(
    admin: Admin,
    moves: Mapping[TopicPartition, Move],
    *,
    at_once: int,
    progress: Progress,
    sleep: Callable[[float], None],
) -> dict[TopicPartition, str]:
    """Carry out moves; return those that did not come about, with why.

    Args:
        at_once: so many partitions are on their way at the same time.

    Raises:
        KafkaError: the cluster does not answer, or refuses; what has begun goes on.
    """
    waiting = sorted(moves, key=lambda tp: (moves[tp].moved_bytes, tp))
    under_way: set[TopicPartition] = set()
    finished_bytes = 0
    failed: dict[TopicPartition, str] = {}
    while waiting or under_way:
        begun = [waiting.pop(0) for _ in range(min(at_once - len(under_way), len(waiting)))]
        if begun:
            try:
                admin.alter_partition_reassignments({tp: moves[tp].after for tp in begun})
            except AdminErrors as error:
                failed |= {tp: str(why) for tp, why in error.errors.items()}
            except KafkaError as error:
                if len(begun) > 1:
                    raise
                failed[begun[0]] = str(error)
            under_way.update(tp for tp in begun if tp not in failed)
        listed = admin.list_partition_reassignments(under_way) if under_way else {}
        done = [tp for tp in under_way if tp not in listed]
        finished_bytes += sum(moves[tp].moved_bytes for tp in done)
        under_way.difference_update(done)
        progress.advance(finished_bytes + _copied(admin, {tp: moves[tp] for tp in under_way}) - progress.done)
        if under_way:
            sleep(LOOK_SECONDS)
    return failed | _check(admin, {tp: move for tp, move in moves.items() if tp not in failed})


def _copied(admin: Admin, moves: Mapping[TopicPartition, Move]) -> int:
    """Return how many bytes new replicas have so far."""
    takers = sorted({node_id for move in moves.values() for node_id in move.added})
    if not takers:
        return 0
    copied = 0
    for node_id, found in log_directories(admin, takers, list(moves)).items():
        if isinstance(found, KafkaError):
            continue  # it is shown again when it answers
        for directory in found:
            for tp, info in directory.replicas.items():
                if tp in moves and node_id in moves[tp].added:
                    copied += min(info.size_bytes, moves[tp].size)
    return copied


def _check(admin: Admin, moves: Mapping[TopicPartition, Move]) -> dict[TopicPartition, str]:
    """Return what has become otherwise than it was to be: somebody else ended or changed it."""
    now = describe_partitions(admin, sorted({tp.topic for tp in moves}))
    return {
        tp: f"it has the replicas {', '.join(map(str, now[tp].replicas))} now"
        for tp, move in moves.items()
        if tp in now and now[tp].replicas != move.after
    }


def elect_preferred(admin: Admin, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, str]:
    """Have the first replicas lead; return where that was not possible, with why."""
    wanted = list(partitions)
    if not wanted:
        return {}
    try:
        admin.elect_leaders(wanted)
    except AdminErrors as error:
        return {tp: str(why) for tp, why in error.errors.items() if not isinstance(why, ElectionNotNeededError)}
    except ElectionNotNeededError:
        return {}
    except KafkaError as error:
        return dict.fromkeys(wanted, str(error))
    return {}


@contextmanager
def throttled(
    admin: Admin, moves: Mapping[TopicPartition, Move], brokers: Iterable[int], rate: int | None
) -> Iterator[None]:
    """Have the brokers copy at most `rate` bytes a second each for these moves (KIP-73); take that back at the end."""
    if rate is None:
        yield
        return
    topics: dict[str, dict[str, str]] = {}
    for tp, move in moves.items():
        lists = topics.setdefault(tp.topic, {_LEADERS: "", _FOLLOWERS: ""})
        for key, replicas in ((_LEADERS, move.before), (_FOLLOWERS, move.added)):
            more = [f"{tp.partition}:{node_id}" for node_id in replicas]
            lists[key] = ",".join(filter(None, [lists[key], *more]))
    nodes = list(brokers)
    try:
        for node_id in nodes:
            admin.alter_configs("broker", node_id, dict.fromkeys(_RATES, str(rate)))
        for name, lists in topics.items():
            admin.alter_configs("topic", name, lists)
        yield
    finally:
        for name in topics:
            admin.alter_configs("topic", name, {_LEADERS: None, _FOLLOWERS: None})
        for node_id in nodes:
            admin.alter_configs("broker", node_id, dict.fromkeys(_RATES))
