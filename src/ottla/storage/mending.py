"""What a log does about damage: it notes bytes that cannot be read, and builds indexes anew that are wrong.

A read that meets damage for the first time notes how far it reaches, and the owner hears of it; then the read runs again
and goes around the damage, or gets the error. The batches are the truth: an index that contradicts them is replaced.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

from ottla.storage.damage import Damage, UnreadableError, UnreliableIndexError
from ottla.storage.index_builder import IndexBuilder

if TYPE_CHECKING:
    from collections.abc import Callable

    from ottla.storage.log import PartitionLog
    from ottla.storage.segment import Segment

logger = logging.getLogger(__name__)

T = TypeVar("T")


class LogMender:
    """Notes the damage of one log and mends its indexes."""

    __slots__ = ("_log",)

    def __init__(self, log: PartitionLog) -> None:
        self._log = log

    def around_damage(self, read: Callable[[], T]) -> T:
        """Run `read`. Damage that it meets first is noted, an index that is wrong is built anew, and it runs again.

        Raises:
            UnreadableError: it meets damage that is noted already.
        """
        while True:
            try:
                return read()
            except (UnreadableError, UnreliableIndexError) as error:
                self.note_trouble(error)

    def note_trouble(self, error: UnreadableError | UnreliableIndexError) -> None:
        """Note the damage that a read met, or build the wrong index anew. May read much: off the loop.

        Raises:
            UnreadableError: the damage is noted already.
        """
        if is_known(error):
            raise error
        if isinstance(error, UnreadableError):
            self.note_unreadable(error)
        else:
            logger.warning("%s: %s; the indexes of this segment are built anew", self._log.topic_partition, error)
            self._mend_indexes(error.segment)

    def note_unreadable(self, error: UnreadableError) -> None:
        """Find out how far the damage reaches, and note it. See `PartitionLog.note_unreadable`."""
        log, segment = self._log, error.segment
        damage = segment.extent_of(error, end_offset=log.log_end_offset)
        with log.lock:
            if segment.is_known_damage(damage.position) or segment not in log.segments:
                return
            segment.note_damage(damage)
        self.report(segment, damage)

    def report(self, segment: Segment, damage: Damage) -> None:
        """Write the damage to the log file of the broker, and call the owner."""
        log = self._log
        logger.error(
            "%s: %s cannot be read from byte %d to %d, offsets %d to %d: %s. Everything else is served; "
            "`ottla log check` and `ottla log repair` help",
            log.topic_partition,
            segment.name,
            damage.position,
            damage.end,
            damage.first_offset,
            damage.next_offset - 1,
            damage.reason,
        )
        log.hooks.on_damaged(log)

    def _mend_indexes(self, segment: Segment) -> None:
        """Build the offset and time index of a segment anew, without the lock as far as possible."""
        log = self._log
        builder = IndexBuilder(segment, log.config.index_interval_bytes, log.log_end_offset)
        builder.read()
        with log.lock:
            if segment not in log.segments or segment.suffix:
                raise FileNotFoundError(f"{segment.name} was removed or replaced")
            if segment is log.active_segment:
                builder.read()  # what was appended meanwhile
            else:
                builder.seal()
            known = segment.damages
            segment.adopt_indexes(builder)
        for damage in segment.damages:
            if damage not in known:
                self.report(segment, damage)


def is_known(error: UnreadableError | UnreliableIndexError) -> bool:
    """Whether `error` is about damage that is noted already."""
    return isinstance(error, UnreadableError) and error.segment.is_known_damage(error.position)
