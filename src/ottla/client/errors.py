"""What a client raises beside the brokers' own errors (`ottla.errors`).

All are `KafkaError`; many stand beside a builtin, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from ottla.errors import ErrorCode, KafkaError

if TYPE_CHECKING:
    from ottla.client._core.batch import Headers
    from ottla.client.consumed import Record
    from ottla.types import TopicPartition

#: A group of failed deliveries holds at most so many; `count` says how many there were.
DELIVERY_ERRORS_MAX = 100


class ConfigurationError(KafkaError, ValueError):
    """A key or value of the configuration is wrong. Nothing was connected yet."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message} {hint}" if hint else message)
        self.hint = hint


class ForkedError(KafkaError, RuntimeError):
    """The client was made before `os.fork()`, and this is the child: it shares sockets and has lost its thread."""

    default_message = "This client was made before the process was forked."
    hint = "Make a new client in the child."


class ClosedError(KafkaError, RuntimeError):
    """The client is closed."""

    default_message = "The client is closed."


class BlockedTooLongError(KafkaError, TimeoutError):
    """`send()` waited `max.block.ms` for room in memory or for a topic's metadata. The record was not accepted.

    `__cause__` is why the cluster could not be asked, where that is known.
    """

    retriable = True


class RecordTooLargeError(KafkaError, ValueError):
    """A record is larger than `max.request.size` or `buffer.memory` allows. It was not accepted."""


class SerializationError(KafkaError, ValueError):
    """A key or value could not be turned into bytes. `__cause__` is what the serializer raised."""


class DeliveryError(KafkaError):
    """A record that was accepted was not acknowledged. `__cause__` says why; `code`, `retriable` and `hint` are its.

    It may have been written all the same where no answer came (`cause.code` REQUEST_TIMED_OUT or NETWORK_EXCEPTION).

    Attributes:
        topic, partition: where it was to go.
        key, value, headers, timestamp_ms: the record, as bytes.
    """

    def __init__(
        self,
        cause: Exception,
        *,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        timestamp_ms: int,
    ) -> None:
        super().__init__(f"A record for {topic}-{partition} was not delivered: {cause}")
        self.__cause__: BaseException | None = cause
        self.topic = topic
        self.partition = partition
        self.key = key
        self.value = value
        self.headers = headers
        self.timestamp_ms = timestamp_ms
        if isinstance(cause, KafkaError):
            self.code: ErrorCode = cause.code  # type: ignore[misc]
            self.retriable: bool = cause.retriable  # type: ignore[misc]
            self.hint: str = cause.hint

    @property
    def cause(self) -> BaseException | None:
        """Why: the broker's error, or the client's."""
        return self.__cause__


class DeliveryErrors(ExceptionGroup[DeliveryError], KafkaError):  # type: ignore[override]
    """Records that were not delivered and whose failure nothing has looked at yet.

    Attributes:
        exceptions: the first of them, DELIVERY_ERRORS_MAX at most.
        count: how many there are.
    """

    count: int

    def __new__(cls, errors: Sequence[DeliveryError], count: int) -> Self:
        kept = list(errors[:DELIVERY_ERRORS_MAX])
        made = super().__new__(cls, _summary(kept, count), kept)
        made.count = count
        return made

    def __init__(self, errors: Sequence[DeliveryError], count: int) -> None:
        # `message` is the group's own.
        self.record_errors: tuple[()] = ()

    def derive(self, excs: Sequence[DeliveryError]) -> DeliveryErrors:  # type: ignore[override]
        return DeliveryErrors(excs, self.count)


def _summary(errors: Sequence[DeliveryError], count: int) -> str:
    first = errors[0]
    return f"{count} record{'s were' if count > 1 else ' was'} not delivered; the first: {first}"


class TransactionStateError(KafkaError, RuntimeError):
    """A call does not fit the state of the transaction."""


class TransactionAbortedError(KafkaError):
    """The transaction was aborted. `__cause__` says why, if it was not the caller's decision."""

    default_message = "The transaction was aborted."


class TransactionOutcomeUnknownError(KafkaError, TimeoutError):
    """No answer within `max.block.ms` to a commit or an abort: it may happen yet. The producer can only be closed.

    The next producer of the same transactional id finds the outcome settled.
    """


class Abort(Exception):  # it is no error
    """Raise it inside `with producer.transaction()` to abort quietly."""


class CommitFailedError(KafkaError):
    """Offsets were not committed: the group has given the partitions to others, or forgotten the member.

    `__cause__` is the coordinator's answer. Records behind the last commit are delivered again, to whichever member has the
    partitions now.
    """

    default_message = "The offsets were not committed."


class PollIntervalExceededError(CommitFailedError):
    """The program was away from the consumer for longer than `max.poll.interval.ms`; others got its partitions.

    The consumer goes on: its next call joins again.

    Attributes:
        exceeded_ms: by how much, in milliseconds.
        where: the partition of the record or batch that took so long, and its offset; None if it was none.
    """

    hint = "Raise max.poll.interval.ms, take fewer records at a time, or use run(workers=)."

    def __init__(self, message: str, *, exceeded_ms: float, where: tuple[TopicPartition, int] | None) -> None:
        super().__init__(message)
        self.exceeded_ms = exceeded_ms
        self.where = where


class LogTruncationError(KafkaError):
    """What was read of a partition is not in the log of its new leader (KIP-320): records that were read are lost there.

    Attributes:
        topic_partition: the partition.
        offset: where the logs part: `seek()` there, or elsewhere, to go on.
    """

    def __init__(self, message: str, *, topic_partition: TopicPartition, offset: int) -> None:
        super().__init__(message)
        self.topic_partition = topic_partition
        self.offset = offset


class DeserializationError(KafkaError, ValueError):
    """The bytes of a key or value are not what its deserializer expects. `__cause__` is what the deserializer raised.

    Attributes:
        record: the record; `key_bytes` and `value_bytes` are raw.
        part: "key" or "value".
    """

    def __init__(self, message: str, *, record: Record[Any, Any], part: str) -> None:
        super().__init__(message)
        self.record = record
        self.part = part
