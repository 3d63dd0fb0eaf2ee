"""The keys with which signed tokens are checked: fetched from the configured place, off the loop, one fetch at a time.

Tokens are checked with what is there. One that names a key which is not there is refused, as in Apache Kafka, and has the
keys fetched anew, once a minute at most: strangers can name keys as they like.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ottla.broker.settings.oauth import OAuthSettings
from ottla.network.fetching import FetchError
from ottla.security.sasl.oauthbearer import TokenError, ValidToken
from ottla.security.tokens import KeySet, check_signed, check_unsecured, key_id_of, parse_key_set

logger = logging.getLogger(__name__)

#: An unknown key has the keys fetched anew no sooner than so many seconds after the last time.
UNKNOWN_KEY_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What the keys need from outside.

    Attributes:
        fetch: returns the document at a URL; raises FetchError. Blocks.
        off_loop: runs a function in a thread.
        now: seconds of the loop. `wall_ms`: milliseconds since 1970.
    """

    fetch: Callable[[str], bytes]
    off_loop: Callable[[Callable[[], bytes]], Awaitable[bytes]]
    now: Callable[[], float]
    wall_ms: Callable[[], int]


class TokenKeys:
    """Checks the tokens of one listener."""

    def __init__(self, listener: str, settings: OAuthSettings, around: Environment) -> None:
        self._listener = listener
        self._settings = settings
        self._around = around
        self._keys: KeySet | None = None
        self._wanted = asyncio.Event()
        self._asked_at: float | None = None
        self._task: asyncio.Task[None] | None = None

    def check(self, token: str) -> ValidToken:
        """Return what a token says.

        Raises:
            TokenError: it is not good.
        """
        settings = self._settings
        if settings.url is None:
            return check_unsecured(token, settings.rules, self._around.wall_ms())
        key_id = key_id_of(token)
        if self._keys is None:
            raise TokenError("a token that cannot be checked: there are no keys yet")
        if self._keys.find(key_id) is None:
            self._ask_anew()
        return check_signed(token, self._keys, settings.rules, self._around.wall_ms())

    def _ask_anew(self) -> None:
        now = self._around.now()
        if self._asked_at is None or now - self._asked_at >= UNKNOWN_KEY_SECONDS:
            self._asked_at = now
            self._wanted.set()

    async def start(self) -> None:
        """Fetch the keys, and keep them fresh from now on. While they cannot be had, tokens are refused."""
        if self._settings.url is not None:
            await self._fetch()
            self._task = asyncio.get_running_loop().create_task(self._keep_fresh(), name="token keys")

    async def stop(self) -> None:
        """Fetch no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _keep_fresh(self) -> None:
        settings = self._settings
        failures = 0 if self._keys is not None else 1
        while True:
            wait_ms = settings.refresh_ms
            if failures:
                wait_ms = min(settings.retry_ms * 2 ** min(failures - 1, 20), settings.retry_max_ms, wait_ms)
            try:
                async with asyncio.timeout(wait_ms / 1000):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            failures = 0 if await self._fetch() else failures + 1

    async def _fetch(self) -> bool:
        """Fetch the keys; return whether that has worked. Else those from before stay."""
        url = self._settings.url
        assert url is not None
        try:
            keys = parse_key_set(await self._around.off_loop(lambda: self._around.fetch(url)))
        except (FetchError, ValueError) as error:
            logger.error("listener %s has no new keys for tokens: %s", self._listener, error)
            return False
        if self._keys is None:
            logger.info("listener %s has %d keys for tokens", self._listener, len(keys))
        self._keys = keys
        return True
