"""Whether a store that was found on disk may be restored forward, or has to be rebuilt from the start of its changelog.

Pure: takes what the store has noted and what the cluster says of the changelog. Each reason to rebuild stands for a way in
which going forward would give wrong state:

  * another topic id: the topic was deleted and made again; its offsets mean other records.
  * a position above the end, or an epoch under which the log ends before the position: records that the store has seen are
    lost, and the log may have others in their place.
  * a position below the log start: the records between are gone.
  * a last commit older than `delete.retention.ms`: compaction may have removed a tombstone, and the key would stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ottla.streams.state.homes import StoreNote

#: A store is rebuilt this much before `delete.retention.ms` is over: a tenth of it, one hour at most.
_MARGIN_MAX_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Changelog:
    """What the cluster says of one partition of a changelog.

    Attributes:
        end: behind the last record, uncommitted ones included.
        delete_retention_ms: how long compaction keeps tombstones; None for a topic that is not compacted.
        epoch_end: where the log of the leader epoch that the store has noted ends; None if nobody knows that epoch.
    """

    topic: str
    topic_id: str
    start: int
    end: int
    delete_retention_ms: int | None
    epoch_end: int | None = None


def reason_to_rebuild(note: StoreNote, log: Changelog, now_ms: int) -> str | None:
    """Return why a store cannot be restored forward, in words; None if it can."""
    if note.topic != log.topic:
        return f"it was filled from {note.topic!r}, and its changelog is {log.topic!r}"
    if note.topic_id and log.topic_id and note.topic_id != log.topic_id:
        return "its changelog was deleted and made again"
    if note.position > log.end:
        return f"its position {note.position} is above the changelog's end {log.end}"
    if log.epoch_end is not None and note.leader_epoch >= 0 and log.epoch_end < note.position:
        return (
            f"the changelog of leader epoch {note.leader_epoch} ends at {log.epoch_end}, "
            f"below the store's position {note.position}"
        )
    if note.position < log.start:
        return f"its position {note.position} is below the changelog's start {log.start}"
    if log.delete_retention_ms is not None and note.position < log.end:
        margin = min(log.delete_retention_ms // 10, _MARGIN_MAX_MS)
        age = now_ms - note.committed_ms
        if age > log.delete_retention_ms - margin:
            return (
                f"its last commit is {age / 1000:.0f} s old, and tombstones are kept for "
                f"{log.delete_retention_ms / 1000:.0f} s (delete.retention.ms)"
            )
    return None
