"""Follower role of one partition: what to ask its leader for, where to truncate, when not to.

Knows offsets and epochs; knows no files, no network. The log ends where the next fetch begins, so this keeps no offset of
its own: the log's end and the epoch of its last batch are passed in.

Invariants:
  * A follower asks only in its own leader epoch, and takes an answer only if it was asked for by this very role.
  * It never truncates below its own high watermark, unless the leader was elected although records may be lost: by an
    unclean election, or as the longest log after all replicas had been down (`recovered_in`), which the follower's last
    epoch is older than. Otherwise the leader lacks records that were acknowledged, and an operator has to decide.

KIP-101, KIP-279, KIP-595 (divergence in the answer to Fetch).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ottla.cluster.image import PartitionImage


class Truncation(NamedTuple):
    """What a follower does about a log that diverges from its leader's.

    Attributes:
        offset: where the log is to end.
        below_high_watermark: records that were committed go: a copy is kept.
        refusal: why nothing may be cut off; then the replica goes offline.
    """

    offset: int
    below_high_watermark: bool = False
    refusal: str | None = None


class Follower:
    """The follower of one leader in one leader epoch.

    Attributes:
        leader, leader_epoch: whom it follows.
        is_busy: an answer is being taken in, so the log's end moves: nothing is asked.
        asks_at: when it may ask again (loop time, seconds), after an error.
        refused: why it asks no more.
        lag: committed records that the log lacked after the last answer.
    """

    __slots__ = (
        "_is_in_sync",
        "_recovered_in",
        "_recovery_state",
        "asks_at",
        "is_busy",
        "lag",
        "leader",
        "leader_epoch",
        "refused",
    )

    def __init__(self, node_id: int, state: PartitionImage) -> None:
        self.leader = state.leader
        self.leader_epoch = state.leader_epoch
        self.is_busy = False
        self.asks_at = 0.0
        self.refused: str | None = None
        self.lag = 0
        self._recovery_state = 0
        self._recovered_in = -1
        self._is_in_sync = False
        self.on_state(node_id, state)

    def on_state(self, node_id: int, state: PartitionImage) -> None:
        """The tree shows a state of this leader epoch."""
        self._recovery_state = state.leader_recovery_state
        self._recovered_in = state.recovered_in
        self._is_in_sync = node_id in state.isr or node_id in state.elr

    @property
    def is_in_sync(self) -> bool:
        """Whether the cluster counts on the records of this replica."""
        return self._is_in_sync

    def truncation(
        self,
        diverging_epoch: int,
        diverging_end: int,
        *,
        own_end_of: Callable[[int], tuple[int, int]],
        log_end: int,
        high_watermark: int,
        last_epoch: int,
    ) -> Truncation:
        """Return where to cut the log when the leader says that the logs part.

        Args:
            diverging_epoch, diverging_end: the largest epoch of the leader up to the follower's last one, and where it ends
                there; (-1, offset) if the leader knows none.
            own_end_of: the same of this log.
        """
        if diverging_epoch < 0:
            offset = min(max(diverging_end, 0), log_end)
        else:
            epoch, end_offset = own_end_of(diverging_epoch)
            if epoch < 0:
                offset = min(max(diverging_end, 0), log_end)
            elif epoch == diverging_epoch:
                offset = min(diverging_end, end_offset, log_end)
            else:
                offset = min(
                    end_offset, diverging_end, log_end
                )  # of an earlier epoch: the next answer goes further back
        return self.cut(offset, high_watermark=high_watermark, last_epoch=last_epoch)

    def cut(self, offset: int, *, high_watermark: int, last_epoch: int) -> Truncation:
        """Return whether the log may be cut at `offset`."""
        if offset >= high_watermark:
            return Truncation(offset)
        if self._recovery_state or last_epoch < self._recovered_in:
            return Truncation(offset, below_high_watermark=True)
        return Truncation(
            offset,
            refusal=f"broker {self.leader}, which leads in epoch {self.leader_epoch}, has records only up to {offset}, and "
            f"up to {high_watermark} they were committed: nothing is cut off here until an operator has decided",
        )
