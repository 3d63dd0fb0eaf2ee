"""The addresses at which a worker's REST interface is, and who may ask there."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from ottla.connect.config_def import ConfigError
from ottla.connect.errors import ConnectError
from ottla.connect.rest.login import BasicLogin
from ottla.web import Answer, WebRequest, WebResponse, WebServer

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class RestServer:
    """Listens from the start; answers from `start()` on.

    Args:
        settings: the worker's configuration, typed.
        tls: makes what an https listener needs.

    Raises:
        ConnectError: an address is wrong, or cannot be listened on.
    """

    def __init__(
        self, settings: Mapping[str, Any], *, tls: Callable[[], ssl.SSLContext], login: BasicLogin | None = None
    ) -> None:
        self._servers: list[WebServer] = []
        self._login = login
        self._advertised = (settings["rest.advertised.host.name"], settings["rest.advertised.port"])
        try:
            for listener in settings["listeners"]:
                self._servers.append(_listen(listener, tls))
        except ConnectError:
            self.close()
            raise

    @property
    def urls(self) -> Sequence[str]:
        """Where it is."""
        return [f"{server.scheme}://{server.endpoint}" for server in self._servers]

    @property
    def is_open(self) -> bool:
        """Whether other machines may ask without a login."""
        is_asked = self._login is not None and self._login.has_users
        return not is_asked and not all(server.is_loopback for server in self._servers)

    @property
    def worker_id(self) -> str:
        """What statuses call the worker: the host and port at which others find it."""
        host, port = self._advertised
        if not self._servers:
            return "localhost"
        first = self._servers[0]
        shown = host or first.host
        return f"[{shown}]:{port or first.port}" if ":" in shown else f"{shown}:{port or first.port}"

    @property
    def advertised_url(self) -> str:
        """Where other workers find it."""
        return f"{self._servers[0].scheme if self._servers else 'http'}://{self.worker_id}"

    def start(self, answer: Answer, headers: Mapping[str, str] | None = None) -> None:
        """Answer from now on.

        Args:
            headers: what every answer has, a refusal, too.
        """

        def guarded(request: WebRequest) -> WebResponse:
            refused = None if self._login is None else self._login.refuse(request)
            found = answer(request) if refused is None else refused
            return replace(found, headers={**found.headers, **headers}) if headers else found

        for server in self._servers:
            server.start(guarded)

    def close(self) -> None:
        """Answer no more."""
        for server in self._servers:
            server.close()


def _listen(listener: str, tls: Callable[[], ssl.SSLContext]) -> WebServer:
    try:
        parts = urlsplit(listener.strip())
        port = parts.port
    except ValueError as error:
        raise ConfigError.of("listeners", listener, str(error)) from None
    if parts.scheme not in ("http", "https") or parts.path not in ("", "/") or port is None:
        raise ConfigError.of("listeners", listener, "it must look like http://localhost:8083 or https://:8443")
    context = tls() if parts.scheme == "https" else None
    try:
        return WebServer(parts.hostname or "", port, name="rest", tls=context, methods=_METHODS)
    except OSError as error:
        raise ConnectError(
            f"The REST interface cannot listen on {listener}: {error.strerror or error}. Say listeners=http://localhost:PORT "
            "with another port, or listeners= for none."
        ) from error
