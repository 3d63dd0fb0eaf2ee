"""Subscriptions by pattern in the life of a group: when patterns are resolved, and what comes of it.

A new pattern is checked at once and resolved beside the loop; until then it stands for no topics. The patterns of a group are
resolved together: when one is new, when topics have been created, or after `group.consumer.regex.refresh.interval.ms`, but
not more often than every 10 s unless nothing is resolved yet. What they match is written and kept with the group.
"""

from __future__ import annotations

import logging
from enum import Enum
from typing import TYPE_CHECKING, Final

from ottla.broker.coordinators.groups.consumer import records
from ottla.broker.coordinators.groups.consumer.group import ConsumerGroup
from ottla.broker.coordinators.groups.consumer.records import ResolvedRegex
from ottla.broker.coordinators.groups.consumer.regex import compile_pattern, resolve
from ottla.broker.coordinators.groups.modern.metadata import metadata_hash
from ottla.broker.coordinators.shard import CoordinatorRecord, Result

if TYPE_CHECKING:
    from collections.abc import Callable

    from ottla.broker.coordinators.groups.consumer.member import ConsumerMember
    from ottla.broker.coordinators.groups.group import ShardParts

logger = logging.getLogger(__name__)

#: Shortest time between two resolutions (fixed in Kafka).
_INTERVAL_MS_MIN: Final = 10_000


class RegexUpdate(Enum):
    """What a heartbeat changed about the member's pattern."""

    NONE = "none"
    CHANGED = "changed"
    #: Changed, and what it stands for is known: the group can be assigned anew.
    RESOLVED = "resolved"


class Regexes:
    """Resolves the patterns of the groups of one partition.

    Args:
        new_epoch: returns the record that begins a group epoch, from group, epoch and the hash of its topics.
    """

    def __init__(self, parts: ShardParts, new_epoch: Callable[[str, int, int], CoordinatorRecord]) -> None:
        self._parts = parts
        self._new_epoch = new_epoch
        self.resolutions = 0

    def is_due(self, group: ConsumerGroup, now_ms: int) -> bool:
        """Whether the patterns of a group that changes nothing are to be resolved again."""
        count = group.regex_count
        return count > 0 and self._must_resolve(group, count, now_ms)

    def update(
        self,
        group: ConsumerGroup,
        before: ConsumerMember,
        after: ConsumerMember,
        written: list[CoordinatorRecord],
        now_ms: int,
    ) -> RegexUpdate:
        """Take note of a member's pattern; begin to resolve if it is time.

        Raises:
            InvalidRegularExpressionError: the pattern is new and RE2 does not accept it.
        """
        change = RegexUpdate.NONE
        is_new = False
        old, new = before.topic_regex, after.topic_regex
        if old == new and not self.is_due(group, now_ms):
            return change
        if old != new:
            change = RegexUpdate.CHANGED
            if old and group.regex_member_count(old) == 1:
                written.append(records.regex_tombstone(group.group_id, old))
            if new:
                if not group.regex_member_count(new):
                    compile_pattern(new)
                    is_new = True
                elif new in group.regexes:
                    change = RegexUpdate.RESOLVED
            elif old:
                change = RegexUpdate.RESOLVED
        subscribed = group.subscribed_regexes(before, after)
        if subscribed and (is_new or group.regex_count) and self._must_resolve(group, len(subscribed), now_ms, is_new):
            self._resolve(group.group_id, subscribed, now_ms)
        return change

    def _must_resolve(self, group: ConsumerGroup, count: int, now_ms: int, is_new: bool = False) -> bool:
        if self._parts.background.is_running(_key(group.group_id)):
            return False
        last = next(iter(group.regexes.values()), None)
        if last is not None and now_ms <= last.timestamp_ms + _INTERVAL_MS_MIN:
            return False
        return (
            is_new
            or count != len(group.regexes)
            or group.needs_regex_refresh
            or last is None
            or now_ms > last.timestamp_ms + self._parts.config.consumer_regex_refresh_interval_ms
        )

    def _resolve(self, group_id: str, patterns: set[str], now_ms: int) -> None:
        image = self._parts.image()
        asked, names = sorted(patterns), list(image.topics)
        current = self._parts.groups.get(group_id)
        if isinstance(current, ConsumerGroup):
            current.needs_regex_refresh = False

        def then(found: dict[str, frozenset[str]] | None, error: BaseException | None, later_ms: int) -> Result[None]:
            if found is None:
                logger.error("group %s: patterns could not be resolved: %s", group_id, error)
                return Result(None)
            resolved = {
                pattern: ResolvedRegex(topics, max(image.epoch, 0), now_ms) for pattern, topics in found.items()
            }
            return self._apply(group_id, resolved)

        self.resolutions += 1
        self._parts.background.submit(_key(group_id), lambda: resolve(asked, names), then)

    def _apply(self, group_id: str, resolved: dict[str, ResolvedRegex]) -> Result[None]:
        group = self._parts.groups.get(group_id)
        if not isinstance(group, ConsumerGroup):
            return Result(None)
        written: list[CoordinatorRecord] = []
        # Members may have come and gone meanwhile: only what is still subscribed to counts.
        patterns = [pattern for pattern in resolved if group.regex_member_count(pattern)]
        names = group.subscribed_topics(gone_regexes=patterns)
        bump = False
        for pattern in patterns:
            before = group.regexes.get(pattern)
            after = resolved[pattern]
            bump = bump or (frozenset() if before is None else before.topics) != after.topics
            names |= after.topics
            written.append(records.regex(group_id, pattern, after))
        hashed = metadata_hash(names, self._parts.image())
        if bump or hashed != group.epochs.metadata_hash:
            written.append(self._new_epoch(group_id, group.group_epoch + 1, hashed))
        return Result(None, written)


def _key(group_id: str) -> tuple[str, ...]:
    return ("consumer-regex", group_id)
