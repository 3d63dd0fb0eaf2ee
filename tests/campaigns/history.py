"""What clients did and saw, and what of it must never be: the anomalies of Jepsen's work on Kafka and its heirs.

A `History` is what all clients of a run noted; `anomalies` compares it with what the logs held at the end. Kafka promises
that none of `NEVER` happens. `oddities` counts what Kafka does not promise to avoid: cycles of transactions (Kafka does not
isolate writes from each other), and polls and sends that skip values or go back. No I/O here.

Source: jepsen.tests.kafka (github.com/jepsen-io/jepsen), read for its definitions.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from scipy.sparse import csr_matrix  # type: ignore[import-untyped]
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

#: Topic and partition.
Place = tuple[str, int]
#: (offset, value) in the order of the log.
Rows = Sequence[tuple[int, int]]

#: What Kafka promises never to do.
NEVER = (
    "aborted read",
    "inconsistent offset",
    "value at two offsets",
    "lost write",
    "torn transaction",
    "offset of a sender went back",
    "commit forgotten",
)


class Outcome(Enum):
    OK = "ok"
    #: It certainly did not happen.
    FAILED = "failed"
    #: It may have happened.
    UNKNOWN = "unknown"


@dataclass
class Send:
    place: Place
    #: No value is sent twice in a run.
    value: int
    #: As the broker's answer said; None without one.
    offset: int | None = None


@dataclass
class Transaction:
    """The sends that become visible together; a plain send is a transaction of one."""

    process: str
    sends: list[Send] = field(default_factory=list)
    #: The highest (offset, value) of each partition that it read before it ended, by a reader of committed records.
    reads: dict[Place, tuple[int, int]] = field(default_factory=dict)
    outcome: Outcome = Outcome.UNKNOWN


@dataclass
class Poll:
    """Records that one poll returned. A session is a time in which the reader's place was not moved by anything but polls."""

    session: str
    place: Place
    rows: list[tuple[int, int]]


@dataclass
class Commit:
    """A group's offset of one partition, which a member asked the broker to keep."""

    place: Place
    offset: int
    outcome: Outcome = Outcome.UNKNOWN


@dataclass
class Done:
    """The answer to a commit came."""

    commit: Commit


@dataclass
class Resume:
    """The offset at which a member was told to start; None if the group had none."""

    place: Place
    offset: int | None


@dataclass
class History:
    transactions: list[Transaction] = field(default_factory=list)
    polls: list[Poll] = field(default_factory=list)
    #: In the order in which they happened: a commit stands where it was asked for.
    group: list[Commit | Done | Resume] = field(default_factory=list)


def anomalies(history: History, logs: Mapping[Place, Rows]) -> Counter[str]:
    """Return how often each of `NEVER` happened.

    Args:
        logs: what a reader of committed records found in each partition at the end.
    """
    found: Counter[str] = Counter()
    seen: dict[Place, dict[int, int]] = defaultdict(dict)
    where: dict[int, tuple[Place, int]] = {}
    sends = [(one.place, one.offset, one.value) for t in history.transactions for one in t.sends]
    polled = [(poll.place, offset, value) for poll in history.polls for offset, value in poll.rows]
    in_logs = [(place, offset, value) for place, rows in logs.items() for offset, value in rows]
    for place, offset, value in itertools.chain(polled, in_logs, sends):
        if offset is None:
            continue
        found["inconsistent offset"] += seen[place].setdefault(offset, value) != value
        found["value at two offsets"] += where.setdefault(value, (place, offset)) != (place, offset)
    present = {value for _, _, value in in_logs}
    read = present | {value for _, _, value in polled}
    for transaction in history.transactions:
        values = {send.value for send in transaction.sends}
        if transaction.outcome is Outcome.FAILED:
            found["aborted read"] += bool(values & read)
        elif transaction.outcome is Outcome.OK:
            found["lost write"] += len(values - present)
        found["torn transaction"] += bool(values & read) and not values <= present
    found["lost write"] += len(read - present)
    for offsets in _offsets_by_sender(history.transactions).values():
        found["offset of a sender went back"] += sum(after < before for before, after in itertools.pairwise(offsets))
    found += _commits(history.group)
    return found


def _offsets_by_sender(transactions: Iterable[Transaction]) -> dict[tuple[str, Place], list[int]]:
    offsets: dict[tuple[str, Place], list[int]] = defaultdict(list)
    for transaction in transactions:
        for send in transaction.sends:
            if send.offset is not None:
                offsets[transaction.process, send.place].append(send.offset)
    return offsets


def _commits(events: Iterable[Commit | Done | Resume]) -> Counter[str]:
    """Check that a group goes on where its last successful commit said, or where one of unknown outcome did."""
    found: Counter[str] = Counter()
    kept: dict[Place, int | None] = {}
    possible: dict[Place, set[int | None]] = defaultdict(set)
    for event in events:
        match event:
            case Commit(place, offset, outcome):
                if outcome is not Outcome.FAILED:
                    possible[place].add(offset)
            case Done(commit):
                if commit.outcome is Outcome.OK:
                    kept[commit.place] = commit.offset
                    possible[commit.place].discard(commit.offset)
            case Resume(place, offset):
                found["commit forgotten"] += offset != kept.get(place) and offset not in possible[place]
    return found


def oddities(history: History, logs: Mapping[Place, Rows]) -> Counter[str]:
    """Return how often something happened that Kafka does not rule out."""
    found: Counter[str] = Counter()
    rank = {(place, offset): n for place, rows in logs.items() for n, (offset, _) in enumerate(rows)}
    last: dict[tuple[str, Place], int] = {}
    for poll in history.polls:
        for offset, _ in poll.rows:
            now, before = rank.get((poll.place, offset)), last.get((poll.session, poll.place))
            if now is None:
                continue
            if before is not None:
                found["poll skipped"] += now > before + 1
                found["poll went back"] += now <= before
            last[poll.session, poll.place] = now
    for transaction in history.transactions:
        by_place: dict[Place, list[int]] = defaultdict(list)
        for send in transaction.sends:
            if send.offset is not None and (n := rank.get((send.place, send.offset))) is not None:
                by_place[send.place].append(n)
        found["others between the sends of a transaction"] += any(
            after > before + 1 for row in by_place.values() for before, after in itertools.pairwise(row)
        )
    found += _cycles(history.transactions, logs)
    return found


def _cycles(transactions: Sequence[Transaction], logs: Mapping[Place, Rows]) -> Counter[str]:
    """Count the groups of transactions that depend on each other.

    By writes alone (G0), with reads of what another wrote (G1c), and with reads that another has overwritten (G2).
    """
    number = {send.value: n for n, transaction in enumerate(transactions) for send in transaction.sends}
    ww: set[tuple[int, int]] = set()
    following: dict[tuple[Place, int], int] = {}
    for place, rows in logs.items():
        for (offset, before), (_, after) in itertools.pairwise(rows):
            following[place, offset] = after
            if before in number and after in number:
                ww.add((number[before], number[after]))
    wr: set[tuple[int, int]] = set()
    rw: set[tuple[int, int]] = set()
    for reader, transaction in enumerate(transactions):
        for place, (offset, value) in transaction.reads.items():
            if value in number:
                wr.add((number[value], reader))
            if (after_it := following.get((place, offset))) in number:
                rw.add((reader, number[after_it]))
    with_writes, with_reads, with_all = (_groups(len(transactions), edges) for edges in (ww, ww | wr, ww | wr | rw))
    return Counter({"G0": with_writes, "G1c or G0": with_reads, "G2, G1c or G0": with_all})


def _groups(size: int, edges: Iterable[tuple[int, int]]) -> int:
    """Return how many groups of two and more nodes reach each other."""
    rows = [edge for edge in edges if edge[0] != edge[1]]
    if not rows:
        return 0
    sources, targets = zip(*rows, strict=True)
    graph = csr_matrix(([1] * len(rows), (sources, targets)), shape=(size, size))
    _, labels = connected_components(graph, directed=True, connection="strong")
    return sum(count > 1 for count in Counter(labels.tolist()).values())
