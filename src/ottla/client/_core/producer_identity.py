"""How an idempotent producer without transactions gets its producer id: any broker gives one (KIP-98)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ottla.client._core.requests import FOREVER
from ottla.client._core.transactions import Wanted
from ottla.errors import ErrorCode, KafkaError, error_for
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.init_producer_id import InitProducerIdRequest, InitProducerIdResponse

if TYPE_CHECKING:
    from random import Random

    from ottla.client._core.backoff import Backoff
    from ottla.client._core.sequences import Sequences

#: Of a producer without transactions.
_NO_TIMEOUT_MS: Final = 2_147_483_647


class ProducerIdentity:
    """Says when to ask for a producer id, and takes the answers in.

    Attributes:
        error: what brokers answered last, if that was an error that may pass.
    """

    def __init__(self, sequences: Sequences, backoff: Backoff, random: Random) -> None:
        self.error: KafkaError | None = None
        self._sequences = sequences
        self._backoff = backoff
        self._random = random
        self._in_flight = False
        self._failures = 0
        self._retry_ms = 0.0

    def due_ms(self) -> float:
        """Return when to ask: FOREVER while that is not needed, or a request is in flight."""
        return FOREVER if self._in_flight or self._sequences.has_identity else self._retry_ms

    def next_request(self) -> Wanted:
        """Return the request to send; `on_sending` when it goes out."""

        def build(version: int) -> InitProducerIdRequest:
            return InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=_NO_TIMEOUT_MS)

        return Wanted(ApiKey.INIT_PRODUCER_ID, None, build)

    def on_sending(self) -> None:
        """The request goes out."""
        self._in_flight = True

    def on_response(self, response: InitProducerIdResponse, now_ms: float) -> KafkaError | None:
        """Take an answer in; return the error if there will never be a producer id."""
        self._in_flight = False
        if response.error_code == ErrorCode.NONE:
            self._failures = 0
            self.error = None
            self._sequences.set_identity(response.producer_id, response.producer_epoch)
            return None
        error = error_for(response.error_code)
        if error.retriable:
            self.error = error
            self._retry(now_ms)
            return None
        error.hint = "Pass enable_idempotence=False to produce without."
        return error

    def on_failed(self, error: Exception, now_ms: float) -> KafkaError | None:
        """The request got no answer, or could not be written; return the error if there will never be a producer id."""
        self._in_flight = False
        if isinstance(error, KafkaError) and not error.retriable:
            return error
        self._retry(now_ms)
        return None

    def _retry(self, now_ms: float) -> None:
        self._failures += 1
        self._retry_ms = now_ms + self._backoff.delay_ms(self._failures, self._random)
