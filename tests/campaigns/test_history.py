"""Each anomaly is found where it is, and a history without one is not blamed."""

from __future__ import annotations

import pytest
from tests.campaigns.history import (
    NEVER,
    Commit,
    Done,
    History,
    Outcome,
    Place,
    Poll,
    Resume,
    Send,
    Transaction,
    anomalies,
    oddities,
)

A, B = ("t", 0), ("t", 1)


def transaction(
    *sends: tuple[Place, int, int | None],
    outcome: Outcome = Outcome.OK,
    reads: dict[Place, tuple[int, int]] | None = None,
    process: str = "p",
) -> Transaction:
    return Transaction(process, [Send(place, value, offset) for place, value, offset in sends], reads or {}, outcome)


def commit(offset: int, outcome: Outcome) -> Commit:
    return Commit(A, offset, outcome)


KEPT, MAYBE, LATER = commit(5, Outcome.OK), commit(9, Outcome.UNKNOWN), commit(7, Outcome.OK)
Case = tuple[History, dict[Place, list[tuple[int, int]]]]
GOOD: dict[str, Case] = {
    "committed": (History([transaction((A, 1, 0), (B, 2, 0))]), {A: [(0, 1)], B: [(0, 2)]}),
    "aborted": (History([transaction((A, 1, 0), outcome=Outcome.FAILED)]), {A: []}),
    "unknown, and there": (
        History([transaction((A, 1, None), (B, 2, None), outcome=Outcome.UNKNOWN)]),
        {A: [(3, 1)], B: [(4, 2)]},
    ),
    "unknown, and not there": (History([transaction((A, 1, None), outcome=Outcome.UNKNOWN)]), {A: []}),
    "an empty group": (History(group=[Resume(A, None)]), {}),
    "a commit kept": (History(group=[KEPT, Done(KEPT), Resume(A, 5)]), {}),
    "a commit of unknown outcome": (History(group=[KEPT, Done(KEPT), MAYBE, Resume(A, 9)]), {}),
    "a commit that is on its way": (
        History(group=[KEPT, Done(KEPT), LATER, Resume(A, 5), Done(LATER), Resume(A, 7)]),
        {},
    ),
}
BAD: dict[str, list[Case]] = {
    "aborted read": [
        (History([transaction((A, 1, 0), outcome=Outcome.FAILED)]), {A: [(0, 1)]}),
    ],
    "inconsistent offset": [
        (History([transaction((A, 1, 0)), transaction((A, 2, 0))]), {A: [(0, 1), (1, 2)]}),
        (History(polls=[Poll("s", A, [(0, 1)])]), {A: [(0, 2), (1, 1)]}),
    ],
    "value at two offsets": [
        (History([transaction((A, 1, 0))]), {A: [(0, 1), (1, 1)]}),
    ],
    "lost write": [
        (History([transaction((A, 1, 0), (A, 2, 1))]), {A: []}),
        (History(polls=[Poll("s", A, [(0, 1)])]), {A: []}),
    ],
    "torn transaction": [
        (History([transaction((A, 1, None), (B, 2, None), outcome=Outcome.UNKNOWN)]), {A: [(0, 1)], B: []}),
    ],
    "offset of a sender went back": [
        (History([transaction((A, 1, 4)), transaction((A, 2, 3))]), {A: [(3, 2), (4, 1)]}),
    ],
    "commit forgotten": [
        (History(group=[KEPT, Done(KEPT), Resume(A, None)]), {}),
        (History(group=[KEPT, Done(KEPT), LATER, Done(LATER), Resume(A, 5)]), {}),
    ],
}


def test_all_anomalies_are_tried() -> None:
    assert set(BAD) == set(NEVER)


@pytest.mark.parametrize("name", GOOD)
def test_nothing_is_found_where_nothing_is(name: str) -> None:
    assert +anomalies(*GOOD[name]) == {}


@pytest.mark.parametrize(("name", "number"), [(name, n) for name, cases in BAD.items() for n in range(len(cases))])
def test_anomalies(name: str, number: int) -> None:
    found = anomalies(*BAD[name][number])
    assert found[name] > 0
    assert not found.keys() - set(NEVER)


def test_oddities() -> None:
    logs = {A: [(0, 1), (1, 2), (2, 3), (3, 5)], B: [(0, 6), (1, 4)]}
    history = History(
        [
            transaction((A, 1, 0), (A, 3, 2)),  # 2 is between them
            transaction((A, 2, 1)),  # after 1 and before 3: G0
            transaction((A, 5, 3), reads={B: (1, 4)}),
            transaction((B, 4, 1), reads={A: (3, 5)}),  # each has read what the other wrote: G1c
        ],
        [Poll("s", A, [(0, 1), (2, 3)]), Poll("s", A, [(1, 2)]), Poll("other", A, [(0, 1)])],
    )
    found = oddities(history, logs)
    assert found["others between the sends of a transaction"] == 1
    assert (found["poll skipped"], found["poll went back"]) == (1, 1)
    assert found["G0"] == 1
    assert found["G1c or G0"] == 2
