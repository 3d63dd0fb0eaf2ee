"""Two views of a dictionary, against a model that keeps a copy per epoch."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ottla.broker.coordinators.timeline import Timeline, TimelineDict


def test_uncommitted_values_are_seen_by_decisions_only() -> None:
    timeline = Timeline()
    table: TimelineDict[str, int] = TimelineDict(timeline)
    table["a"] = 1
    assert table["a"] == 1
    assert table.get_committed("a") is None
    timeline.commit(timeline.advance())
    assert table.get_committed("a") == 1


def test_rolling_back_restores_what_was_removed_and_reports_what_is_gone() -> None:
    timeline = Timeline()
    table: TimelineDict[str, int] = TimelineDict(timeline)
    table["kept"] = 1
    timeline.commit(timeline.advance())
    table.pop("kept")
    table["made"] = 2
    assert timeline.roll_back() == [2]
    assert table.items() == [("kept", 1)]
    assert timeline.is_clean


def test_nothing_is_remembered_while_a_log_is_replayed() -> None:
    timeline = Timeline(tracks=False)
    table: TimelineDict[str, int] = TimelineDict(timeline)
    table["a"] = 1
    assert table.get_committed("a") == 1
    assert timeline.is_clean


def test_an_empty_dictionary_is_in_use_while_somebody_can_still_see_its_values() -> None:
    timeline = Timeline()
    table: TimelineDict[str, int] = TimelineDict(timeline)
    table["a"] = 1
    timeline.commit(timeline.advance())
    table.pop("a")
    assert not table.is_unused
    timeline.commit(timeline.advance())
    assert table.is_unused


KEYS = st.sampled_from("abcd")


class TimelineModel(RuleBasedStateMachine):
    """Two dictionaries on one timeline; the model is a list of snapshots, one per epoch that is not committed."""

    def __init__(self) -> None:
        super().__init__()
        self.timeline = Timeline()
        self.tables: list[TimelineDict[str, int]] = [TimelineDict(self.timeline), TimelineDict(self.timeline)]
        self.newest: list[dict[str, int]] = [{}, {}]
        self.committed: list[dict[str, int]] = [{}, {}]
        self.waiting: list[tuple[int, list[dict[str, int]]]] = []

    @rule(table=st.integers(0, 1), key=KEYS, value=st.integers())
    def put(self, table: int, key: str, value: int) -> None:
        self.tables[table][key] = value
        self.newest[table][key] = value

    @rule(table=st.integers(0, 1), key=KEYS)
    def pop(self, table: int, key: str) -> None:
        assert self.tables[table].pop(key) == self.newest[table].pop(key, None)

    @rule()
    def advance(self) -> None:
        self.waiting.append((self.timeline.advance(), [dict(values) for values in self.newest]))

    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        if not self.waiting:
            return
        index = data.draw(st.integers(0, len(self.waiting) - 1))
        epoch, snapshot = self.waiting[index]
        del self.waiting[: index + 1]
        self.timeline.commit(epoch)
        self.committed = snapshot

    @rule()
    def roll_back(self) -> None:
        self.timeline.roll_back()
        self.waiting.clear()
        self.newest = [dict(values) for values in self.committed]

    @invariant()
    def views_are_right(self) -> None:
        for table, newest, committed in zip(self.tables, self.newest, self.committed, strict=True):
            assert dict(table.items()) == newest
            assert sorted(table.items_committed()) == sorted(committed.items())
            assert {key: table.get_committed(key) for key in "abcd"} == {key: committed.get(key) for key in "abcd"}
            assert len(table) == len(newest)


TestTimelineModel = TimelineModel.TestCase
TestTimelineModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
