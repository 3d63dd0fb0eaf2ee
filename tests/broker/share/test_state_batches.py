"""Ranges laid over each other: the same as offset by offset."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ottla.broker.coordinators.share.batches import StateBatch, combine

BATCH = st.builds(
    lambda first, size, state, deliveries: StateBatch(first, first + size, state, deliveries),
    st.integers(0, 30),
    st.integers(0, 8),
    st.sampled_from((0, 2, 4)),
    st.integers(1, 3),
)


@given(st.lists(BATCH, max_size=8), st.lists(BATCH, max_size=8), st.integers(-1, 35))
def test_the_furthest_state_of_every_offset_is_kept(
    known: list[StateBatch], newer: list[StateBatch], start: int
) -> None:
    expected: dict[int, tuple[int, int]] = {}
    for batch in (*known, *newer):
        for offset in range(max(batch.first, start), batch.last + 1):
            expected[offset] = max(expected.get(offset, (0, 0)), (batch.deliveries, batch.state))
    combined = combine(known, newer, start)
    found = {
        offset: (batch.deliveries, batch.state) for batch in combined for offset in range(batch.first, batch.last + 1)
    }
    assert found == expected
    assert sum(batch.last - batch.first + 1 for batch in combined) == len(expected)
    assert combined == sorted(combined)
    for before, after in pairwise(combined):
        assert before.last < after.first
        joined = before.last + 1 == after.first and before[2:] == after[2:]
        assert not joined or len(known) + len(newer) < 2


def test_what_is_below_the_start_is_cut_off() -> None:
    assert combine([StateBatch(0, 9, 0, 1)], [StateBatch(3, 5, 2, 1)], 4) == [
        StateBatch(4, 5, 2, 1),
        StateBatch(6, 9, 0, 1),
    ]
