"""Whether a log can still be used, and what an error of the disk means for it.

An error that passes (no space, no descriptor) is no failure where the step can be taken back: the caller gets a
KAFKA_STORAGE_ERROR. Any other error fails the log for good, and its owner takes the directory offline. An error that
passes but comes in the middle of a step (a truncation, a swap) fails the log and not its directory.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ottla.errors import KafkaStorageError, StorageError
from ottla.storage.files import PASSING

if TYPE_CHECKING:
    from ottla.storage.log import PartitionLog

logger = logging.getLogger(__name__)


class LogHealth:
    """The health of one log.

    Attributes:
        failure: why the log cannot be used any more, or None. Some threads read it without the lock.
    """

    __slots__ = ("_log", "failure")

    def __init__(self, log: PartitionLog) -> None:
        self.failure: str | None = None
        self._log = log

    def check(self) -> None:
        """Raise `StorageError` if the log has failed or is closed."""
        if self.failure is not None:
            raise StorageError(self.failure)

    def refuse(self, error: OSError) -> Exception:
        """Return what to raise for an error that has changed nothing: the log fails unless the error passes."""
        if error.errno in PASSING:
            log = self._log
            log.hooks.on_refused(log, error)
            return KafkaStorageError(f"{log.topic_partition}: {log.directory}: {error}")
        return self.fail(error)

    def fail(self, error: OSError, *, is_lost: bool = False) -> StorageError:
        """Fail the log; return what to raise. The directory fails, too, unless the error passes and no data `is_lost`."""
        if self.failure is None:
            log = self._log
            self.failure = f"{log.topic_partition}: the disk of {log.directory} failed: {error}"
            if error.errno in PASSING and not is_lost:
                logger.error("%s; the partition is out of use until the next start", self.failure)
            else:
                log.hooks.on_failed(log, error)
        return StorageError(self.failure)

    def stop(self, reason: str) -> None:
        """Refuse everything from now on, because of `reason` unless the log has failed before."""
        if self.failure is None:
            self.failure = reason
