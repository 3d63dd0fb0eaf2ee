"""SASL mechanisms as state machines: what one side says to what the other one said. No I/O, no clock, no dice.

A mechanism has both roles in one file, so that what one side writes the other one reads. Nonces are passed in. The server's
role is driven by the broker (`broker/login.py`), the client's by `network/login.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

#: Names of mechanisms.
PLAIN: Final = "PLAIN"
OAUTHBEARER: Final = "OAUTHBEARER"
GSSAPI: Final = "GSSAPI"
#: Those of SCRAM, and their hashes.
SCRAM_HASHES: Final[Mapping[str, str]] = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}


class SaslError(Exception):
    """The exchange has failed. The text is for the log of the side that raised it, never for the other side."""


class WorkNeededError(Exception):
    """A step needs hashing first that is not for the event loop: run `work` in a thread, then take the step again."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__("work is needed first")
        self.work = work


class TokenFetchError(SaslError):
    """There is no token or ticket to log in with right now; later there may be one. The text says why."""


class AuthenticationFailedError(SaslError):
    """The exchange has failed with a sentence that the other side may have, as in Kafka."""


class ServerExchange(Protocol):
    """The server's role in one login.

    Attributes:
        is_complete: the client has proved who it is: `user` is its name.
        expires_at_ms: wall time at which what it logged in with ends; None: never.
        claimed: the name that the client has given, proved or not; "" while there is none.
    """

    @property
    def claimed(self) -> str: ...

    @property
    def is_complete(self) -> bool: ...

    @property
    def user(self) -> str: ...

    @property
    def expires_at_ms(self) -> int | None: ...

    def respond(self, token: bytes) -> bytes:
        """Answer what the client said.

        Raises:
            SaslError: the login has failed.
        """
        ...


class ClientExchange(Protocol):
    """The client's role in one login.

    Attributes:
        mechanism: its name in the handshake.
        is_complete: the server has said all that it has to say.
    """

    @property
    def mechanism(self) -> str: ...

    @property
    def is_complete(self) -> bool: ...

    def begin(self) -> bytes:
        """Return the first message."""
        ...

    def respond(self, challenge: bytes) -> bytes | None:
        """Answer what the server said; None: nothing is left to say.

        Raises:
            SaslError: the server is not the one it should be, or speaks another language.
        """
        ...
