"""Topics that get records older than their retention: what is written now is deleted at the next look at retention.

Apache Kafka deletes them as well and says nothing; the data is gone before its owner has looked. This broker logs a warning
per topic and hour, and shows the same sentence on the page for as long as it is true. Decides when and what to say; knows
no log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ottla.storage.config import LogConfig
    from ottla.types import TopicPartition

logger = logging.getLogger(__name__)

#: A topic is warned about once in this time, and shown for so long after such a batch.
INTERVAL_MS = 3_600_000
#: With less than this the topic is meant to be emptied (the usual way to purge one), and whatever arrives is too old.
RETENTION_MS_MIN = 60_000


class _Seen(NamedTuple):
    retention_ms: int
    sentence: str
    told_ms: int
    last_ms: int


class OldRecords:
    """Warns about topics whose records are deleted right after they were written.

    Args:
        wall_ms: the clock.
        is_kept: whether nothing is deleted where this partition lies, whatever the settings say.
        config_of: a topic's present configuration; None if it is gone.
    """

    def __init__(
        self,
        wall_ms: Callable[[], int],
        *,
        is_kept: Callable[[TopicPartition], bool],
        config_of: Callable[[str], LogConfig | None],
    ) -> None:
        self._wall_ms = wall_ms
        self._is_kept = is_kept
        self._config_of = config_of
        self._seen: dict[str, _Seen] = {}

    def note(self, topic_partition: TopicPartition, newest_ms: int, retention_ms: int) -> None:
        """A batch was appended, and the newest record of its segment, of `newest_ms`, is older than `retention_ms`."""
        if retention_ms < RETENTION_MS_MIN:
            return
        topic, now_ms = topic_partition.topic, self._wall_ms()
        seen = self._seen.get(topic)
        if seen is not None and seen.retention_ms == retention_ms and now_ms - seen.told_ms < INTERVAL_MS:
            self._seen[topic] = seen._replace(last_ms=now_ms)
        elif not self._is_kept(topic_partition):
            sentence = _sentence(topic, newest_ms, retention_ms)
            self._seen[topic] = _Seen(retention_ms, sentence, now_ms, now_ms)
            logger.warning("%s", sentence)

    def sentences(self) -> list[str]:
        """Return what was said of the last hour and is still true, topic by topic."""
        now_ms = self._wall_ms()
        for topic, seen in list(self._seen.items()):
            config = self._config_of(topic)
            is_true = config is not None and config.cleanup_delete and config.retention_ms == seen.retention_ms
            if not is_true or now_ms - seen.last_ms > INTERVAL_MS:
                del self._seen[topic]
        return [seen.sentence for _, seen in sorted(self._seen.items())]


def _sentence(topic: str, newest_ms: int, retention_ms: int) -> str:
    try:
        newest = f"{datetime.fromtimestamp(newest_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, OSError, ValueError):
        newest = f"timestamp {newest_ms}"
    return (
        f"topic {topic} gets records that are older than its retention.ms={retention_ms}, the newest of {newest}: they are "
        "deleted at the next look, within log.retention.check.interval.ms. To keep them set retention.ms of the topic "
        f"(kafka-configs --alter --topic {topic} --add-config retention.ms=-1 keeps all), or "
        "message.timestamp.type=LogAppendTime, which counts their age from their arrival"
    )
