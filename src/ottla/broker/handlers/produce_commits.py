"""The answer to a Produce request read by position whose batches are appended and wait for their fsync.

The answer is given when every batch is below its partition's high watermark, or has failed, or when the request's time is
over: what waits then is answered with a time-out, though it may still become durable. A client that goes away takes nothing
back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ottla.errors import ErrorCode, KafkaError
from ottla.protocol.produce_frames import AcceptedPart, encode_accepted

if TYPE_CHECKING:
    from collections.abc import Callable

    from ottla.broker.deadlines import Deadlines
    from ottla.broker.replicas.partition import Partition


class AwaitedBatch:
    """One batch that waits for its partition's high watermark: a `CommitWaiter`. `parts[number]` is its answer."""

    __slots__ = ("_is_done", "_number", "_parts", "acks_all", "answer", "last_offset", "partition")

    answer: CommittedAnswer

    def __init__(
        self, partition: Partition, last_offset: int, parts: list[AcceptedPart], number: int, *, acks_all: bool
    ) -> None:
        self.partition = partition
        self.acks_all = acks_all
        self.last_offset = last_offset
        self._parts = parts
        self._number = number
        self._is_done = False

    def done(self) -> bool:
        return self._is_done

    def set_result(self, _result: None, /) -> None:
        self._is_done = True
        self.answer.on_ended()

    def set_exception(self, error: KafkaError, /) -> None:
        self.refuse(error.code)
        self.answer.on_ended()

    def refuse(self, code: ErrorCode) -> None:
        """Have this batch answered with an error."""
        self._is_done = True
        self._parts[self._number] = AcceptedPart(self._parts[self._number].partition, -1, -1, -1, code)


class CommittedAnswer:
    """The answer to one request, ready when none of its batches waits any more."""

    __slots__ = ("_answers", "_callback", "_deadlines", "_missing", "_version", "_waits", "due")

    is_prompt = False  # it is given when a batch is committed, which may be within the handling of another one

    def __init__(
        self,
        version: int,
        answers: list[tuple[bytes, list[AcceptedPart]]],
        waits: list[AwaitedBatch],
        deadlines: Deadlines[CommittedAnswer],
        timeout_s: float,
    ) -> None:
        """Wait for batches.

        Args:
            version: of the request.
            answers: what is answered if all goes well.
            waits: batches that are not committed yet; at least one.
            deadlines: calls `on_timeout` when the time is over.
            timeout_s: of the request.
        """
        self._version = version
        self._answers = answers
        self._waits = waits
        self._missing = len(waits)
        self._callback: Callable[[bytes], None] | None = None
        self._deadlines = deadlines
        self.due = 0.0
        for wait in waits:
            wait.answer = self
            wait.partition.wait_for_commit(wait.last_offset, wait, acks_all=wait.acks_all)
        deadlines.add(self, timeout_s)

    def then(self, callback: Callable[[bytes], None]) -> None:
        """Have `callback` called with the encoded body, once."""
        self._callback = callback

    def abandon(self) -> None:
        """The client has gone; what it has sent stays."""

    def on_ended(self) -> None:
        """One batch waits no more."""
        self._missing -= 1
        if not self._missing:
            self._deadlines.remove(self)
            self._answer()

    def on_timeout(self) -> None:
        """The time is over: what still waits is refused."""
        for wait in self._waits:
            if not wait.done():
                wait.refuse(ErrorCode.REQUEST_TIMED_OUT)
        self._answer()

    def _answer(self) -> None:
        assert self._callback is not None
        self._callback(encode_accepted(self._version, self._answers))
