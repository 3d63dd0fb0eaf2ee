"""The requests of a share consumer (KIP-932): ShareFetch and ShareAcknowledge, made of what is wanted and what is said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeVar

from ottla.client._core.client import CoreSettings
from ottla.protocol.messages import share_acknowledge, share_fetch
from ottla.protocol.messages.share_acknowledge import ShareAcknowledgeRequest
from ottla.protocol.messages.share_fetch import ShareFetchRequest
from ottla.types import TopicIdPartition

T = TypeVar("T")

#: From this version of ShareFetch and ShareAcknowledge on locks can be renewed (KIP-1222), numbers of records are exact
#: (KIP-1206).
RENEWING: Final = 2
_RECORD_LIMIT: Final = 1

#: (first offset, last offset, what is said of each, or once for all).
Run = tuple[int, int, list[int]]


class Kind(Enum):
    """What is said of a record."""

    GAP = 0
    ACCEPT = 1
    RELEASE = 2
    REJECT = 3
    RENEW = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareSettings(CoreSettings):
    """Kafka's names with `_` for `.`; times in milliseconds, sizes in bytes.

    Attributes:
        max_processing_ms: for how long the lock of one record is renewed.
    """

    group_id: str
    client_rack: str = ""
    fetch_min_bytes: int = 1
    fetch_max_bytes: int = 52_428_800
    fetch_max_wait_ms: int = 500
    max_poll_records: int = 500
    record_limit: bool = True
    max_processing_ms: float = 600_000


#: What is said of which offset, and whether the caller said it.
Said = dict[int, tuple[Kind, bool]]


def fetch_request(
    settings: ShareSettings,
    member_id: str,
    epoch: int,
    *,
    count: int,
    exact: bool,
    partitions: Mapping[TopicIdPartition, list[Run]],
    forgotten: Iterable[TopicIdPartition],
) -> ShareFetchRequest:
    """Return a ShareFetch for `count` records.

    Args:
        partitions: those that the broker does not know yet, and those of which something is said.
        forgotten: those that are not wanted any more.
    """
    return ShareFetchRequest(
        group_id=settings.group_id,
        member_id=member_id,
        share_session_epoch=epoch,
        max_wait_ms=settings.fetch_max_wait_ms,
        min_bytes=settings.fetch_min_bytes,
        max_bytes=settings.fetch_max_bytes,
        max_records=count,
        batch_size=count,
        share_acquire_mode=_RECORD_LIMIT if exact else 0,
        topics=[
            share_fetch.FetchTopic(
                topic_id=topic_id,
                partitions=[
                    share_fetch.FetchPartition(
                        partition_index=number,
                        acknowledgement_batches=[
                            share_fetch.AcknowledgementBatch(
                                first_offset=run[0], last_offset=run[1], acknowledge_types=run[2]
                            )
                            for run in said
                        ],
                    )
                    for number, said in found.items()
                ],
            )
            for topic_id, found in _by_topic(partitions).items()
        ],
        forgotten_topics_data=[
            share_fetch.ForgottenTopic(topic_id=topic_id, partitions=list(found))
            for topic_id, found in _by_topic(dict.fromkeys(forgotten)).items()
        ],
    )


def acknowledge_request(
    group_id: str, member_id: str, epoch: int, *, renews: bool, partitions: Mapping[TopicIdPartition, list[Run]]
) -> ShareAcknowledgeRequest:
    """Return a ShareAcknowledge; `renews`: locks are among what is said."""
    return ShareAcknowledgeRequest(
        group_id=group_id,
        member_id=member_id,
        share_session_epoch=epoch,
        is_renew_ack=renews,
        topics=[
            share_acknowledge.AcknowledgeTopic(
                topic_id=topic_id,
                partitions=[
                    share_acknowledge.AcknowledgePartition(
                        partition_index=number,
                        acknowledgement_batches=[
                            share_acknowledge.AcknowledgementBatch(
                                first_offset=run[0], last_offset=run[1], acknowledge_types=run[2]
                            )
                            for run in said
                        ],
                    )
                    for number, said in found.items()
                ],
            )
            for topic_id, found in _by_topic(partitions).items()
        ],
    )


def _by_topic(partitions: Mapping[TopicIdPartition, T]) -> dict[bytes, dict[int, T]]:
    found: dict[bytes, dict[int, T]] = {}
    for where, value in partitions.items():
        found.setdefault(where.topic_id, {})[where.partition] = value
    return found


def runs(said: Said) -> list[Run]:
    """Return what is said of neighbouring offsets together."""
    found: list[Run] = []
    for offset in sorted(said):
        kind = said[offset][0].value
        if found and found[-1][1] == offset - 1:
            first, _, kinds = found[-1]
            kinds.append(kind)
            found[-1] = first, offset, kinds
        else:
            found.append((offset, offset, [kind]))
    return [(first, last, kinds[:1] if len(set(kinds)) == 1 else kinds) for first, last, kinds in found]
