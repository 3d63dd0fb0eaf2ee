"""The caller's side of a login by SASL, over an open channel (KIP-152, KIP-368).

Drives a mechanism's client role: a handshake, then tokens until both sides have said everything. Hashing that takes
milliseconds runs off the loop. A broker may say how long a login counts; the channel logs in again in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from ottla.errors import ErrorCode, SaslAuthenticationFailedError, UnsupportedSaslMechanismError
from ottla.network.channel_errors import ConnectionFailedError
from ottla.protocol.messages.sasl_authenticate import SaslAuthenticateRequest, SaslAuthenticateResponse
from ottla.protocol.messages.sasl_handshake import SaslHandshakeRequest, SaslHandshakeResponse
from ottla.security.sasl import SaslError, TokenFetchError

if TYPE_CHECKING:
    from ottla.network.channel import Channel
    from ottla.security.sasl import ClientExchange

T = TypeVar("T")

#: No mechanism takes more steps.
STEPS_MAX = 16
#: A client logs in again when this share of the login's time has passed.
SHARE_OF_LIFETIME = 0.9


def login_of(
    exchange: Callable[[str], ClientExchange],
    *,
    timeout_s: float = 30.0,
    off_loop: Callable[[Callable[[], T]], Awaitable[T]] = asyncio.to_thread,
) -> Callable[[Channel], Awaitable[None]]:
    """Return what `ChannelSettings.authenticate` takes.

    Args:
        exchange: makes the client's role of one login, to the host that is passed.
        off_loop: runs a function in a thread.
    """

    async def authenticate(channel: Channel) -> None:
        lifetime_ms = await _log_in(channel, exchange(channel.host), timeout_s, off_loop)  # type: ignore[arg-type]
        if lifetime_ms > 0:
            channel.log_in_again_after(lifetime_ms / 1000 * SHARE_OF_LIFETIME, authenticate)

    return authenticate


async def _log_in(
    channel: Channel,
    exchange: ClientExchange,
    timeout_s: float,
    off_loop: Callable[[Callable[[], bytes | None]], Awaitable[bytes | None]],
) -> int:
    """Log in; return for how long it counts, in ms, 0 for as long as the connection lasts.

    Raises:
        UnsupportedSaslMechanismError, SaslAuthenticationFailedError: the broker does not let us in, or is not the one it
            should be. Trying again does not help.
        ConnectionFailedError: the connection ended.
    """
    handshake = await channel.ask_urgently(
        SaslHandshakeRequest(mechanism=exchange.mechanism), SaslHandshakeResponse, at_most=1, timeout_s=timeout_s
    )
    if handshake.error_code == ErrorCode.UNSUPPORTED_SASL_MECHANISM:
        offered = ", ".join(handshake.mechanisms)
        raise UnsupportedSaslMechanismError(
            f"{channel.address} does not let clients log in by {exchange.mechanism}; it offers {offered}."
        )
    if handshake.error_code:
        raise SaslAuthenticationFailedError(
            f"{channel.address} does not let clients log in on this port (error {handshake.error_code}); "
            "is security.protocol the listener's?"
        )
    try:
        token: bytes | None = await off_loop(exchange.begin)  # a token may have to be fetched first
    except TokenFetchError as error:
        raise ConnectionFailedError(f"{channel.address}: {error}", address=channel.address) from None
    except SaslError as error:
        raise SaslAuthenticationFailedError(f"{channel.address}: {error}") from None
    for _ in range(STEPS_MAX):
        answer = await channel.ask_urgently(
            SaslAuthenticateRequest(auth_bytes=token or b""), SaslAuthenticateResponse, timeout_s=timeout_s
        )
        if answer.error_code:
            raise SaslAuthenticationFailedError(
                f"{channel.address}: {answer.error_message or 'Authentication failed.'}"
            )
        challenge = bytes(answer.auth_bytes)
        try:
            token = await off_loop(lambda challenge=challenge: exchange.respond(challenge))  # type: ignore[misc]
        except SaslError as error:
            raise SaslAuthenticationFailedError(f"{channel.address}: {error}") from None
        if exchange.is_complete:
            return answer.session_lifetime_ms
    raise SaslAuthenticationFailedError(f"{channel.address} does not come to an end with {exchange.mechanism}")
