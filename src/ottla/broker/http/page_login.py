"""Who may see the pages where Kafka clients have to log in: the same users, by HTTP's Basic or Bearer.

A password costs milliseconds of hashing, the same for users that do not exist. So it is checked off the loop, one at a time,
few wait, one for each address, and failures are answered late. What has been right is remembered by a keyed hash in which the
user's credential takes part: it is forgotten when the credential changes. Who is remembered need not wait: strangers shut
out nobody who watches the broker. Passwords are taken over TLS, from this machine, or where the listener takes PLAIN anyway.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ottla.broker.context import Session
from ottla.network.http import Verdict
from ottla.network.strangers import place_of
from ottla.observability.logs import LogOncePerPeer
from ottla.security.sasl.oauthbearer import TokenError, ValidToken
from ottla.security.sasl.scram import HASHES, ScramCredential, credential_from_salted, salted_password

if TYPE_CHECKING:
    from ottla.broker.audit import Audit
    from ottla.network.connection import BrokerConnection

logger = logging.getLogger(__name__)

#: Passwords that wait to be checked; above it the answer is 503.
QUEUE_MAX = 16
#: Logins that were right and are remembered.
REMEMBERED_MAX = 256
#: Of a user that does not exist: what `ottla user` and kafka-configs take.
_ITERATIONS = 8_192
_TEXT_MAX = 1024


#: How a login to the pages is called in the audit.
_BASIC, _BEARER = "HTTP Basic", "HTTP Bearer"


@dataclass(frozen=True, slots=True, kw_only=True)
class PageLogins:
    """How the clients of one listener log in to the pages.

    Attributes:
        mechanisms: those of SCRAM that the listener has, in order.
        check_plain: says whether this is a password of PLAIN; None: the listener has no PLAIN.
        check_token: returns what a token says; None: the listener has no OAUTHBEARER.
        is_private: whether nobody on the way can read along (TLS, or the listener is of this machine).
    """

    mechanisms: tuple[str, ...] = ()
    check_plain: Callable[[str, str], bool] | None = field(default=None, repr=False)
    check_token: Callable[[str], ValidToken] | None = field(default=None, repr=False)
    is_private: bool = False

    @property
    def takes_passwords(self) -> bool:
        """Whether Basic is taken."""
        return self.check_plain is not None or (bool(self.mechanisms) and self.is_private)


class PageLogin:
    """Decides about each request for a page of a listener with logins.

    Args:
        find: returns a user's credential of a mechanism.
        may_see: whether a principal may see the pages.
        off_loop: runs a function in a thread.
        secret: random bytes; what is remembered is keyed with them.
        failure_delay_ms: how late failures are answered.
    """

    def __init__(
        self,
        logins: Mapping[str, PageLogins],
        *,
        find: Callable[[str, str], ScramCredential | None],
        may_see: Callable[[Session], bool],
        off_loop: Callable[[Callable[[], bool]], Awaitable[bool]],
        secret: bytes,
        failure_delay_ms: int,
        audit: Audit,
    ) -> None:
        self._audit = audit
        self._logins = logins
        self._find = find
        self._may_see = may_see
        self._off_loop = off_loop
        self._secret = secret
        self._delay_s = failure_delay_ms / 1000
        self._remembered: dict[bytes, None] = {}
        self._busy: set[str] = set()
        self._queue: deque[Callable[[], Awaitable[None]]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._failures = LogOncePerPeer(logger, asyncio.get_running_loop().time)

    def __call__(self, connection: BrokerConnection, authorization: str, decide: Callable[[Verdict], None]) -> None:
        """Call `decide` once, now or later, with what becomes of a request that has this Authorization header."""
        logins = self._logins[connection.listener]
        scheme, _, text = authorization.strip().partition(" ")
        if scheme.lower() == "bearer" and logins.check_token is not None:
            self._decide_token(connection, logins.check_token, text.strip(), decide)
        elif scheme.lower() == "basic" and logins.takes_passwords:
            self._decide_password(connection, logins, text.strip(), decide)
        elif not logins.takes_passwords and logins.check_token is None:
            decide(Verdict.FORBIDDEN)
        else:
            decide(Verdict.WHO_ARE_YOU)

    def _decide_token(
        self,
        connection: BrokerConnection,
        check: Callable[[str], ValidToken],
        token: str,
        decide: Callable[[Verdict], None],
    ) -> None:
        try:
            found = check(token)
        except TokenError as error:
            self._refuse(connection, _BEARER, "", str(error), decide)
            return
        self._let_in(connection, _BEARER, found.user, decide)

    def _decide_password(
        self, connection: BrokerConnection, logins: PageLogins, text: str, decide: Callable[[Verdict], None]
    ) -> None:
        user, password = _user_and_password(text)
        place = place_of(connection.peer_host)
        if place in self._busy:
            decide(Verdict.BUSY)
            return
        credentials = {
            mechanism: found
            for mechanism in (logins.mechanisms if logins.is_private else ())
            if (found := self._find(mechanism, user)) is not None
        }
        if any(
            self._key(connection.listener, user, password, each) in self._remembered for each in credentials.values()
        ):
            self._let_in(connection, _BASIC, user, decide)
            return
        if logins.check_plain is not None and logins.check_plain(user, password):
            self._let_in(connection, _BASIC, user, decide)
            return
        self._busy.add(place)
        if len(self._queue) >= QUEUE_MAX:
            # Late as well: else whoever fills the queue could have passwords looked at above as fast as he can ask.
            self._decide_late(decide, Verdict.BUSY, place)
            return

        async def check() -> None:
            try:
                right = await self._off_loop(lambda: _is_right(credentials, logins.mechanisms, password))
            except Exception:
                logger.exception("a password could not be checked")
                self._busy.discard(place)
                decide(Verdict.BUSY)
                return
            if not right:
                self._refuse(connection, _BASIC, user, f"wrong password of {user!r}, or no such user", decide, place)
                return
            self._busy.discard(place)
            for each in credentials.values():
                if len(self._remembered) >= REMEMBERED_MAX:
                    del self._remembered[next(iter(self._remembered))]
                self._remembered[self._key(connection.listener, user, password, each)] = None
            self._let_in(connection, _BASIC, user, decide)

        self._queue.append(check)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work(), name="page logins")

    async def _work(self) -> None:
        try:
            while self._queue:
                try:
                    await self._queue[0]()
                finally:
                    self._queue.popleft()
        finally:
            self._task = None

    async def stop(self) -> None:
        """Decide nothing more."""
        self._queue.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _key(self, listener: str, user: str, password: str, credential: ScramCredential) -> bytes:
        parts = (listener.encode(), user.encode(), password.encode(), credential.salt, credential.stored_key)
        return hmac.digest(self._secret, b"".join(len(part).to_bytes(4, "big") + part for part in parts), "sha256")

    def _let_in(self, connection: BrokerConnection, scheme: str, user: str, decide: Callable[[Verdict], None]) -> None:
        session = Session(
            listener=connection.listener, client_host=connection.peer_host, client_port=connection.peer_port
        )
        session.principal = f"User:{user}"
        if connection.session is None:
            connection.session = session
            connection.authenticated()
            self._audit.logged_in(session, scheme)
        decide(Verdict.COME_IN if self._may_see(session) else Verdict.FORBIDDEN)

    def _refuse(
        self,
        connection: BrokerConnection,
        scheme: str,
        claimed: str,
        why: str,
        decide: Callable[[Verdict], None],
        place: str | None = None,
    ) -> None:
        connection.logins_failed()
        self._audit.refused(
            Session(listener=connection.listener, client_host=connection.peer_host), scheme, claimed, why
        )
        self._failures.tell(connection.peer_host, "%s could not log in to the pages: %s", connection.peer, why)
        self._decide_late(decide, Verdict.WHO_ARE_YOU, place)

    def _decide_late(self, decide: Callable[[Verdict], None], verdict: Verdict, place: str | None) -> None:
        """Answer after a delay; the address has its next try then."""

        def answer() -> None:
            if place is not None:
                self._busy.discard(place)
            decide(verdict)

        asyncio.get_running_loop().call_later(self._delay_s, answer)


def _user_and_password(text: str) -> tuple[str, str]:
    """Return what a Basic login says (RFC 7617); what cannot be read is nobody's."""
    try:
        user, colon, password = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return "", ""
    return (user, password) if colon and len(user) <= _TEXT_MAX and len(password) <= _TEXT_MAX else ("", "")


def _is_right(credentials: Mapping[str, ScramCredential], mechanisms: tuple[str, ...], password: str) -> bool:
    """Hash once, whether or not there is such a user, and compare."""
    for mechanism, credential in credentials.items():
        salted = salted_password(mechanism, password, credential.salt, credential.iterations)
        made = credential_from_salted(mechanism, salted, credential.salt, credential.iterations)
        return hmac.compare_digest(made.stored_key, credential.stored_key)
    salted_password(mechanisms[0] if mechanisms else next(iter(HASHES)), password, b"nobody", _ITERATIONS)
    return False
