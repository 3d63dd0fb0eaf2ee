"""Logging in by SASL: the guard that stands before a connection's requests until its client is known (KIP-12, 43, 152, 368).

Decides, frame by frame, what an unknown client may say: ApiVersions once, SaslHandshake, then tokens of the mechanism,
in SaslAuthenticate or, after a handshake of version 0, bare. Anything else closes the connection, as in Kafka; what has come
behind a refused step is never looked at. When the login is done the guard stays, for sessions that end
(`connections.max.reauth.ms`) and for logging in again; it costs a request one call then.

Where we differ from Apache Kafka: an unknown SCRAM user is refused one step later, after a challenge of its own
(`security/sasl/scram.py`). The client sees the same error.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from struct import Struct
from typing import TYPE_CHECKING, Any

from ottla.broker.context import PASS, Session
from ottla.errors import ErrorCode, RemoteProtocolError
from ottla.network.connection import BrokerConnection, PendingReply
from ottla.observability.logs import shown
from ottla.protocol.api import SERVED, ApiKey, request_header_version, response_header_version
from ottla.protocol.codec import decode, encode
from ottla.protocol.messages.api_versions import ApiVersionsRequest, ApiVersionsResponse
from ottla.protocol.messages.headers import RequestHeader
from ottla.protocol.messages.sasl_authenticate import SaslAuthenticateRequest, SaslAuthenticateResponse
from ottla.protocol.messages.sasl_handshake import SaslHandshakeRequest, SaslHandshakeResponse
from ottla.security.sasl import AuthenticationFailedError, SaslError, WorkNeededError

if TYPE_CHECKING:
    from ottla.broker.audit import Audit
    from ottla.file_region import Sendable
    from ottla.protocol.schema import Message
    from ottla.security.sasl import ServerExchange

logger = logging.getLogger(__name__)

_KEY_AND_VERSION = Struct(">hh")
_SIZE = Struct(">i")
#: A client may not log in again sooner than this after it has done so (Kafka's MIN_REAUTH_INTERVAL).
REAUTHENTICATION_SECONDS_MIN = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginRules:
    """How clients of one listener log in.

    Attributes:
        mechanisms: what makes the server's role of each mechanism, in the order in which clients are told of them.
        reauthenticate_ms: by mechanism, after how long a client has to log in again; 0: never.
        failure_delay_ms: how long the answer to a wrong login is held back (`connection.failed.authentication.delay.ms`).
        token_bytes_max: `sasl.server.max.receive.size`.
        off_loop: runs a function in a thread.
    """

    mechanisms: Mapping[str, Callable[[], ServerExchange]]
    reauthenticate_ms: Mapping[str, int]
    failure_delay_ms: int
    token_bytes_max: int
    off_loop: Callable[[Callable[[], None]], Awaitable[None]]


class _State(Enum):
    FIRST = auto()  # ApiVersions or a handshake
    HANDSHAKE = auto()  # a handshake
    TOKENS = auto()
    DONE = auto()
    OVER = auto()


class LoginGuard:
    """Sees every frame of one connection of a listener with SASL."""

    def __init__(
        self,
        connection: BrokerConnection,
        rules: Callable[[], LoginRules],
        *,
        loop_time: Callable[[], float],
        wall_ms: Callable[[], int],
        audit: Audit,
    ) -> None:
        self._audit = audit
        self._connection = connection
        self._rules = rules
        self._now = loop_time
        self._wall_ms = wall_ms
        self._state = _State.FIRST
        self._mechanism = ""
        self._previous_mechanism: str | None = None
        self._exchange: ServerExchange | None = None
        self._wraps_tokens = True
        self._versions_asked: int | None = None
        self._expires_at: float | None = None
        self._began_again_at: float | None = None

    def take(self, session: Session, frame: memoryview) -> Any:
        """See `context.Guard`."""
        if self._state is _State.DONE:
            if (
                len(frame) >= 8
                and _KEY_AND_VERSION.unpack_from(frame)[0] == ApiKey.SASL_HANDSHAKE
                and self._may_begin_again()
            ):
                return self._begin_again(session, frame)
            if self._expires_at is not None and self._now() > self._expires_at:
                self._audit.ended(session, self._mechanism)
                raise RemoteProtocolError("the session has expired, and the client has not logged in again")
            return PASS
        if self._state is _State.TOKENS and not self._wraps_tokens:
            return self._take_bare_token(session, bytes(frame))
        if len(frame) < 8:
            raise RemoteProtocolError(f"a request of {len(frame)} bytes has no header")
        key, version = _KEY_AND_VERSION.unpack_from(frame)
        if self._state is _State.TOKENS:
            return self._take_token(session, frame, key, version)
        if self._state is _State.OVER:
            raise RemoteProtocolError("the login has failed")
        if key == ApiKey.SASL_HANDSHAKE:
            return self._take_handshake(session, frame, version)
        if key == ApiKey.API_VERSIONS and self._previous_mechanism is None and self._may_ask_versions(session):
            if version <= SERVED[ApiKey.API_VERSIONS][1]:
                self._versions_asked = version
            return PASS
        raise RemoteProtocolError(f"unexpected request {_name(key)} before the login")

    # -- handshake

    def _may_ask_versions(self, session: Session) -> bool:
        """Once, except that a question which was not valid may be asked again."""
        return self._versions_asked is None or (self._versions_asked >= 3 and session.software is None)

    def _take_handshake(self, session: Session, frame: memoryview, version: int) -> Any:
        header, request = _decode(frame, SaslHandshakeRequest, ApiKey.SASL_HANDSHAKE, version)
        rules = self._rules()
        mechanism = request.mechanism
        names = list(rules.mechanisms)
        if mechanism not in rules.mechanisms:
            refusal = SaslHandshakeResponse(error_code=ErrorCode.UNSUPPORTED_SASL_MECHANISM, mechanisms=names)
            return self._refuse(
                session,
                [_frame(header, refusal, version)],
                f"asked for the mechanism {shown(mechanism)}, which is not enabled",
            )
        if self._previous_mechanism not in (None, mechanism):
            # As in Kafka: the handshake is answered, and the next frame ends it.
            self._state = _State.OVER
        else:
            self._state = _State.TOKENS
            self._mechanism = mechanism
            self._exchange = rules.mechanisms[mechanism]()
            self._wraps_tokens = version >= 1
            if self._previous_mechanism is None:
                self._connection.frame_bytes_max = rules.token_bytes_max
        return [_frame(header, SaslHandshakeResponse(mechanisms=names), version)]

    # -- tokens

    def _take_bare_token(self, session: Session, token: bytes) -> Any:
        exchange = self._exchange
        assert exchange is not None
        try:
            answer = exchange.respond(token)
            if exchange.is_complete:
                self._complete(session)
        except WorkNeededError as needed:
            return self._after(needed, lambda: self._take_bare_token(session, token))
        except SaslError as error:
            return self._refuse(session, [], self._why(error), exchange)
        if exchange.is_complete and getattr(exchange, "ends_silently", False):
            return []
        return [_SIZE.pack(len(answer)) + answer]

    def _take_token(self, session: Session, frame: memoryview, key: int, version: int) -> Any:
        if key != ApiKey.SASL_AUTHENTICATE:
            why = f"unexpected request {_name(key)} during the login"
            return self._refuse(session, _illegal_state(frame, key, version), why)
        header, request = _decode(frame, SaslAuthenticateRequest, ApiKey.SASL_AUTHENTICATE, version)
        exchange = self._exchange
        assert exchange is not None
        response = SaslAuthenticateResponse()
        try:
            response.auth_bytes = exchange.respond(bytes(request.auth_bytes))
            if exchange.is_complete:
                response.session_lifetime_ms = self._complete(session)
        except WorkNeededError as needed:
            kept = memoryview(bytes(frame))
            return self._after(needed, lambda: self._take_token(session, kept, key, version))
        except SaslError as error:
            response = SaslAuthenticateResponse(error_code=ErrorCode.SASL_AUTHENTICATION_FAILED)
            if isinstance(error, AuthenticationFailedError):
                response.error_message = str(error)
            else:
                doing = "authentication" if self._previous_mechanism is None else "re-authentication"
                response.error_message = (
                    f"Authentication failed during {doing} due to invalid credentials with SASL mechanism "
                    f"{self._mechanism}"
                )
            return self._refuse(session, [_frame(header, response, version)], self._why(error), exchange)
        return [_frame(header, response, version)]

    def _after(self, needed: WorkNeededError, take_again: Callable[[], Any]) -> PendingReply:
        """Have work done in a thread and take the step again; frames behind it wait unread meanwhile."""
        answer: asyncio.Future[list[Sendable] | None] = asyncio.get_running_loop().create_future()

        async def work() -> None:
            try:
                await self._rules().off_loop(needed.work)
                reply = take_again()
            except Exception as error:
                if not answer.done():
                    answer.set_exception(error)
                return
            # A refusal answers by itself, later, and closes.
            if isinstance(reply, list) and not answer.done():
                answer.set_result(reply)

        task = asyncio.get_running_loop().create_task(work(), name="login")
        return PendingReply(answer, work=task)

    def _why(self, error: SaslError) -> str:
        why = getattr(error, "why", "") or str(error)
        return f"could not log in by {self._mechanism}: {shown(why)}"

    def _refuse(
        self, session: Session, answer: list[Sendable], reason: str, exchange: ServerExchange | None = None
    ) -> Any:
        """Answer later, so that guessing takes its time, and close; nothing else of this connection is handled meanwhile."""
        self._state = _State.OVER
        self._audit.refused(session, self._mechanism, "" if exchange is None else exchange.claimed, reason)
        self._connection.logins_failed()
        loop = asyncio.get_running_loop()
        delay_ms = self._rules().failure_delay_ms
        if not delay_ms:
            self._connection.refuse(answer, reason)
            return None
        never: asyncio.Future[list[Sendable] | None] = loop.create_future()
        loop.call_later(delay_ms / 1000, self._connection.refuse, answer, reason)
        return PendingReply(never)

    # -- done

    def _complete(self, session: Session) -> int:
        """The client is known. Return how long for, in ms; 0: for as long as the connection lasts.

        Raises:
            AuthenticationFailedError: it has logged in again as somebody else.
        """
        exchange = self._exchange
        assert exchange is not None
        principal = f"User:{exchange.user}"
        if self._previous_mechanism is not None and principal != session.principal:
            before, now = session.principal.partition(":"), principal.partition(":")
            raise AuthenticationFailedError(
                f"Cannot change principals during re-authentication from {before[0]}.{before[2]}: {now[0]}.{now[2]}"
            )
        limit_ms = self._rules().reauthenticate_ms.get(self._mechanism, 0)
        lifetime_ms = limit_ms
        if exchange.expires_at_ms is not None:
            left = max(exchange.expires_at_ms - self._wall_ms(), 0)
            lifetime_ms = min(left, limit_ms) if limit_ms > 0 else left
        has_end = limit_ms > 0 or exchange.expires_at_ms is not None
        self._expires_at = self._now() + lifetime_ms / 1000 if has_end else None
        self._exchange = None
        self._state = _State.DONE
        if self._previous_mechanism is None:
            session.principal = principal
            self._connection.authenticated()
            logger.debug("%s has logged in as %s by %s", self._connection.peer, shown(principal), self._mechanism)
        session.is_by_token = getattr(exchange, "is_by_token", False)
        self._audit.logged_in(session, self._mechanism, again=self._previous_mechanism is not None)
        self._previous_mechanism = self._mechanism
        return lifetime_ms

    def _may_begin_again(self) -> bool:
        if self._expires_at is None:
            return False
        now = self._now()
        if self._began_again_at is not None and now - self._began_again_at < REAUTHENTICATION_SECONDS_MIN:
            return False
        self._began_again_at = now
        return True

    def _begin_again(self, session: Session, frame: memoryview) -> Any:
        self._state = _State.HANDSHAKE
        _, version = _KEY_AND_VERSION.unpack_from(frame)
        return self._take_handshake(session, frame, version)


def _illegal_state(frame: memoryview, key: int, version: int) -> list[Sendable]:
    """Return what Kafka answers to a step of a login that is out of turn; to other requests nothing."""
    low, high = SERVED.get(ApiKey(key), (0, -1)) if key in _STEPS else (0, -1)
    if not low <= version <= high:
        return []
    header, _ = _decode(frame, _STEPS[key][0], ApiKey(key), version)
    return [_frame(header, _STEPS[key][1](error_code=ErrorCode.ILLEGAL_SASL_STATE), version)]


_STEPS: dict[int, tuple[type[Any], type[Any]]] = {
    ApiKey.SASL_HANDSHAKE: (SaslHandshakeRequest, SaslHandshakeResponse),
    ApiKey.API_VERSIONS: (ApiVersionsRequest, ApiVersionsResponse),
}


def _name(key: int) -> str:
    try:
        return ApiKey(key).name
    except ValueError:
        return f"of api key {key}"


def _decode(frame: memoryview, message: type[Any], key: ApiKey, version: int) -> tuple[RequestHeader, Any]:
    low, high = SERVED[key]
    if not low <= version <= high:
        raise RemoteProtocolError(f"{key.name} version {version} is not served")
    data = bytes(frame)
    header, position = decode(RequestHeader, request_header_version(key, version), data)
    request, _ = decode(message, version, data, position)
    return header, request


def _frame(header: RequestHeader, response: Message, version: int) -> bytes:
    tags = b"\x00" if response_header_version(ApiKey(header.request_api_key), version) == 1 else b""
    body = _SIZE.pack(header.correlation_id) + tags + encode(response, version)
    return _SIZE.pack(len(body)) + body
