"""What can go wrong between two ends of a connection, in words that say what to do.

They stand beside Python's own `ConnectionError` and `TimeoutError`. `retriable` is False where trying again cannot help:
another protocol is spoken there, or a certificate is refused.
"""

from __future__ import annotations

from ottla.errors import NetworkError, RequestTimedOutError


class ConnectionFailedError(NetworkError, ConnectionError):
    """A connection could not be opened, or ended before an answer came.

    Attributes:
        address: host:port of the other end.
    """

    def __init__(self, message: str | None = None, *, address: str = "", hint: str = "") -> None:
        super().__init__(message if message is None or not hint else f"{message} {hint}")
        self.address = address
        self.hint = hint


class BrokerUnreachableError(ConnectionFailedError):
    """No connection comes about: nothing listens there, the name is unknown, or no answer comes."""


class ConnectionClosedError(ConnectionFailedError):
    """The other end closed the connection, or it broke. What was asked may have been done or not."""


class NotKafkaError(ConnectionFailedError):
    """Something listens there, but it does not speak the Kafka protocol."""

    retriable = False


class TlsError(ConnectionFailedError):
    """TLS does not come about: only one end speaks it, or a certificate is refused."""

    retriable = False


class AnswerTimeoutError(RequestTimedOutError, TimeoutError):
    """A request was not answered in time. The connection was closed: later answers could not be told apart."""

    def __init__(self, message: str | None = None, *, address: str = "") -> None:
        super().__init__(message)
        self.address = address
