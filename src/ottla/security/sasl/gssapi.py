"""SASL GSSAPI (RFC 4752): Kerberos tickets instead of a password.

First a security context of Kerberos is made, in as many messages as it takes. Then the server offers security layers, and
the client takes one. As with Kafka there is none but authentication alone: who wants secrecy takes TLS. The identity that a
client asks to act as (authzid) is not looked at, as in Kafka, whose clients send all kinds of text there: the ticket says who
the client is.

What Kerberos itself does is behind `Context` (`security/kerberos.py` has the one that counts): it reads files and talks to
key distribution centres, so its steps are not for an event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ottla.security.sasl import GSSAPI, SaslError, WorkNeededError

MECHANISM = GSSAPI

#: "No security layer", in the mask of an offer and as what is taken. Behind it stands the longest message; it has no use.
_NO_LAYER = 1
_OFFER = bytes([_NO_LAYER, 0, 0, 0])
#: Authorization ids are names of Kerberos.
_CHOICE_BYTES_MAX = 4 + 4096


class Context(Protocol):
    """One side of a security context of Kerberos.

    Attributes:
        is_complete: both sides know each other.
        peer: the other side's principal (`alice@EXAMPLE.COM`), once it is complete.
    """

    @property
    def is_complete(self) -> bool: ...

    @property
    def peer(self) -> str: ...

    def step(self, token: bytes) -> bytes:
        """Take what the other side said, b"" at the client's beginning; return what it is to hear, b"" for nothing.

        May read files and, for a client, wait for a key distribution centre.

        Raises:
            SaslError: it has failed.
        """
        ...

    def wrap(self, message: bytes) -> bytes:
        """Return the message with a signature."""
        ...

    def unwrap(self, token: bytes) -> bytes:
        """Return what was signed.

        Raises:
            SaslError: the signature is not the other side's.
        """
        ...


class GssapiServer:
    """The server's role. Its first messages take work in a thread.

    Args:
        context: makes the accepting side of a context.
        user_of: returns the user of a principal; None if no rule is about it.
    """

    expires_at_ms = None
    #: The client has the last word: where tokens are bare nothing answers it, not even an empty one (Kafka).
    ends_silently = True

    def __init__(self, context: Callable[[], Context], user_of: Callable[[str], str | None]) -> None:
        self._make_context = context
        self._context: Context | None = None
        self._user_of = user_of
        self._worked: bytes | SaslError | None = None
        self._has_offered = self._is_over = False
        self.is_complete = False
        self.user = self.claimed = ""

    def respond(self, token: bytes) -> bytes:
        if self._is_over or self.is_complete:
            raise SaslError("the exchange is over")
        try:
            return self._choose(token) if self._has_offered else self._accept(token)
        except SaslError:
            self._is_over = True
            raise

    def _accept(self, token: bytes) -> bytes:
        context = self._context
        if context is not None and context.is_complete and self._worked is None:
            if token:
                raise SaslError("a client that says more after its context is complete")
            return self._offer(context)
        if self._worked is None:
            raise WorkNeededError(lambda: self._work(token))
        answer, self._worked = self._worked, None
        if isinstance(answer, SaslError):
            raise answer
        assert context is not None
        if context.is_complete:
            self.claimed = context.peer
            if not answer:
                return self._offer(context)
        return answer

    def _work(self, token: bytes) -> None:
        try:
            if self._context is None:
                self._context = self._make_context()
            self._worked = self._context.step(token)
        except SaslError as error:
            self._worked = error

    def _offer(self, context: Context) -> bytes:
        self._has_offered = True
        return context.wrap(_OFFER)

    def _choose(self, token: bytes) -> bytes:
        assert self._context is not None
        choice = self._context.unwrap(token)
        if not len(_OFFER) <= len(choice) <= _CHOICE_BYTES_MAX:
            raise SaslError(f"a choice of security layers of {len(choice)} bytes")
        if choice[0] != _NO_LAYER:
            raise SaslError(f"a client that takes the security layer {choice[0]}, which was not offered")
        user = self._user_of(self._context.peer)
        if not user:
            raise SaslError(f"no rule of sasl.kerberos.principal.to.local.rules is about {self._context.peer}")
        self.user = user
        self.is_complete = True
        return b""


class GssapiClient:
    """The client's role. `begin` and `respond` may wait for a key distribution centre.

    Args:
        context: makes the initiating side of a context.
        principal: who asks, for the server's log.
    """

    mechanism = MECHANISM

    def __init__(self, context: Callable[[], Context], principal: str = "") -> None:
        self._make_context = context
        self._context: Context | None = None
        self._principal = principal
        self._has_chosen = False
        self.is_complete = False

    def begin(self) -> bytes:
        self._context = self._make_context()
        return self._context.step(b"")

    def respond(self, challenge: bytes) -> bytes | None:
        context = self._context
        assert context is not None, "begin comes first"
        if self._has_chosen:
            if challenge:
                raise SaslError("a server that has more to say after GSSAPI's end")
            self.is_complete = True
            return None
        if not context.is_complete:
            return context.step(challenge)
        offer = context.unwrap(challenge)
        if len(offer) != len(_OFFER) or not offer[0] & _NO_LAYER:
            raise SaslError("the server wants a security layer of GSSAPI, which Kafka does not have")
        self._has_chosen = True
        return context.wrap(_OFFER + self._principal.encode())
