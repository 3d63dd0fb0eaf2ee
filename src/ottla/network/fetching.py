"""Small documents from a URL that the administrator named: key sets, tokens. Blocks: for a thread, not for the loop.

No redirect is followed, no proxy is asked, at most a megabyte is read, and all takes ten seconds at most a step. `file:` URLs
name files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    import http.client
    import ssl

TIMEOUT_S = 10.0
BYTES_MAX = 1_048_576


class FetchError(Exception):
    """The document could not be had; the text says why and shows no header, body or query."""


def check_url(url: str) -> None:
    """Make sure that a URL is one of http, https or file.

    Raises:
        ValueError: it is not; the text says what is wrong.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "file"):
        raise ValueError("it must begin with https://, http:// or file://")
    if parts.scheme != "file" and not parts.hostname:
        raise ValueError("it names no host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("it must not have a user or password")
    _ = parts.port


def fetch(
    url: str,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    context: ssl.SSLContext | None = None,
    timeout_s: float = TIMEOUT_S,
) -> bytes:
    """Return the document at a URL.

    Args:
        body: sent by POST; without it GET.
        context: of TLS; by default the system's authorities are trusted.

    Raises:
        FetchError: it could not be had.
    """
    try:
        check_url(url)
    except ValueError as error:
        raise FetchError(f"the URL is none: {error}") from None
    import http.client
    import ssl

    parts = urlsplit(url)
    if parts.scheme == "file":
        return _read(unquote(parts.path))
    host = parts.hostname or ""
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(
            host, parts.port, timeout=timeout_s, context=context or ssl.create_default_context()
        )
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=timeout_s)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request(
            "GET" if body is None else "POST",
            target,
            body=body,
            headers={"Accept": "application/json", **(headers or {})},
        )
        with connection.getresponse() as answer:
            if answer.status != 200:
                raise FetchError(f"{host} answered {answer.status}")
            data = answer.read(BYTES_MAX + 1)
    except ssl.SSLError as error:
        raise FetchError(f"{host}: {error.reason or 'TLS failed'}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise FetchError(f"{host}: {getattr(error, 'strerror', None) or error or type(error).__name__}") from None
    finally:
        connection.close()
    if len(data) > BYTES_MAX:
        raise FetchError(f"{host} sent more than {BYTES_MAX} bytes")
    return data


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise FetchError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(data) > BYTES_MAX:
        raise FetchError(f"{path} has more than {BYTES_MAX} bytes")
    return data
