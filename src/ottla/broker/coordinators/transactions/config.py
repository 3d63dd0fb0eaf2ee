"""What the transaction coordinator is configured with, as typed values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ottla.broker.config import BrokerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionConfig:
    """Limits and times of transactions; Kafka's keys and defaults.

    Attributes:
        timeout_ms_max: `transaction.max.timeout.ms`.
        abort_check_interval_ms: `transaction.abort.timed.out.transaction.cleanup.interval.ms`.
        id_expiration_ms: `transactional.id.expiration.ms`.
        id_expiration_check_interval_ms: `transaction.remove.expired.transaction.cleanup.interval.ms`.
    """

    timeout_ms_max: int = 900_000
    abort_check_interval_ms: int = 10_000
    id_expiration_ms: int = 604_800_000
    id_expiration_check_interval_ms: int = 3_600_000

    @staticmethod
    def from_broker(config: BrokerConfig) -> TransactionConfig:
        """Return the transaction coordinator's part of a broker's configuration."""
        return TransactionConfig(
            timeout_ms_max=config.transaction_max_timeout_ms,
            abort_check_interval_ms=config.transaction_abort_timed_out_transaction_cleanup_interval_ms,
            id_expiration_ms=config.transactional_id_expiration_ms,
            id_expiration_check_interval_ms=config.transaction_remove_expired_transaction_cleanup_interval_ms,
        )
