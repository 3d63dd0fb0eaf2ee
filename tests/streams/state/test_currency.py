"""When a store on disk may go forward from where it is, and when it has to be rebuilt."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ottla.streams.state.currency import Changelog, reason_to_rebuild
from ottla.streams.state.homes import StoreNote

DAY_MS = 86_400_000
NOTE = StoreNote(topic="log", topic_id="a", position=50, leader_epoch=2, committed_ms=1_000)
LOG = Changelog(topic="log", topic_id="a", start=0, end=100, delete_retention_ms=DAY_MS, epoch_end=60)


def test_a_current_store_goes_forward() -> None:
    assert reason_to_rebuild(NOTE, LOG, 2_000) is None
    assert reason_to_rebuild(NOTE, replace(LOG, start=50, end=50), 2_000) is None


def test_changelog_recreated_longer() -> None:
    """The topic was deleted and made again, and has more records than before: only its id tells."""
    assert "made again" in (reason_to_rebuild(NOTE, replace(LOG, topic_id="b"), 2_000) or "")


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (replace(LOG, end=49), "above the changelog's end 49"),
        (replace(LOG, start=51), "below the changelog's start 51"),
        (replace(LOG, epoch_end=40), "leader epoch 2 ends at 40"),
        (replace(LOG, topic="other"), "filled from 'log'"),
    ],
)
def test_lost_records_rebuild(log: Changelog, said: str) -> None:
    assert said in (reason_to_rebuild(NOTE, log, 2_000) or "")


def test_resurrected_key() -> None:
    """A tombstone written while the store was away may be compacted away: going forward would keep the key."""
    hour_ms = 3_600_000
    late = NOTE.committed_ms + DAY_MS - hour_ms + 1
    assert reason_to_rebuild(NOTE, LOG, late - 1) is None
    assert "tombstones are kept for 86400 s" in (reason_to_rebuild(NOTE, LOG, late) or "")
    assert reason_to_rebuild(NOTE, replace(LOG, end=50, epoch_end=None), late) is None, "nothing was written since"
    assert reason_to_rebuild(NOTE, replace(LOG, delete_retention_ms=None), late) is None
