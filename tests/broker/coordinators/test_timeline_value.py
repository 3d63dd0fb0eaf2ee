"""TimelineValue, and counting in the committed view."""

from __future__ import annotations

from ottla.broker.coordinators.timeline import Timeline, TimelineDict, TimelineValue


def test_a_value_shows_what_is_committed_until_the_commit() -> None:
    timeline = Timeline()
    epoch = TimelineValue(timeline, 0)
    epoch.value = 1
    first = timeline.advance()
    epoch.value = 2
    assert (epoch.value, epoch.committed) == (2, 0)
    timeline.commit(first)
    assert (epoch.value, epoch.committed) == (2, 1)
    timeline.roll_back()
    assert (epoch.value, epoch.committed) == (1, 1)


def test_the_committed_count_knows_neither_what_came_nor_what_went() -> None:
    timeline = Timeline()
    table: TimelineDict[str, int] = TimelineDict(timeline)
    table["a"] = 1
    table["b"] = 2
    timeline.commit(timeline.advance())
    table["c"] = 3
    table["a"] = 4
    table.pop("b")
    assert (len(table), table.count_committed) == (2, 2)
    table.pop("a")
    assert (len(table), table.count_committed) == (1, 2)
    timeline.commit(timeline.advance())
    assert table.count_committed == 1
