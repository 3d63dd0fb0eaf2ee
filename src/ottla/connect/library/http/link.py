"""The way to an HTTP server: settings, one connection that is kept, and what its answers mean for whoever asked.

All requests of a connector go to one origin (scheme, host, port): a redirect to another one is refused, since it would be
told the secrets of this one. Python's http.client; proxies of the environment are not used.
"""

from __future__ import annotations

import re
import ssl
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urljoin, urlsplit

from ottla.connect.config_def import HIDDEN, ConfigError, ConfigKey, ConfigType, Importance, Password, at_least, check
from ottla.connect.errors import ConnectError, RetriableError

#: Redirects that are followed for one request.
_REDIRECTS_MAX = 5
#: Bytes of an answer that are shown to people.
_SHOWN = 200
#: The longest that a server may have us wait, by Retry-After.
_RETRY_AFTER_MAX_S = 3600.0
_TEMPLATE = re.compile(r"\$\{([\w.]+)\}")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: Headers that are made of other settings, or of the body.
_OWN = ("authorization", "connection", "content-length", "content-type", "host", "idempotency-key", "transfer-encoding")


def _check_url(name: str, value: Any, names: Sequence[str]) -> None:
    """Accept an address. What is wrong is said without it: it may hold a password."""
    bare = _TEMPLATE.sub("x", value)
    try:
        parts = urlsplit(bare)
        where = parts.hostname, parts.port
    except ValueError:
        raise ConfigError(f"{name} is no address such as https://host:8443/orders") from None
    if parts.scheme not in ("http", "https") or not where[0]:
        raise ConfigError(f"{name} is no address such as https://host:8443/orders")
    if "@" in parts.netloc:
        raise ConfigError(f"{name} has a user in it: http.user and http.password are for that, and are not shown")
    if _TEMPLATE.search(urlsplit(value).netloc):
        raise ConfigError(f"{name} has ${{...}} in its host: it may stand in the path and behind the question mark")
    unknown = set(_TEMPLATE.findall(value)) - set(names)
    if unknown:
        known = " and ".join(f"${{{part}}}" for part in names)
        raise ConfigError(f"{name} has ${{{min(unknown)}}}: {known} may stand in it")
    if not bare.isascii() or any(letter <= " " or letter == "\x7f" for letter in bare):
        raise ConfigError(f"{name} has spaces or letters beyond ASCII: they are written as %20 and the like")
    if parts.fragment:
        raise ConfigError(f"{name} has a part behind #, which no server is told")


def _check_header_value(name: str, value: Any) -> None:
    if value is not None and not (value.isprintable() and value.isascii()):
        raise ConfigError(f"{name} is no value of a header")


HEADER_VALUE = check(_check_header_value, "a value of a header")


def _check_headers(name: str, value: Any) -> None:
    text = value.value if isinstance(value, Password) else value
    if text:
        headers_of(name, text)


def headers_of(name: str, text: str) -> dict[str, str]:
    """Return the headers in `Name: value|Name: value`.

    Raises:
        ConfigError: they are none. No value is shown.
    """
    found = {}
    for number, part in enumerate(text.split("|"), 1):
        header, colon, value = part.partition(":")
        header, value = header.strip(), value.strip()
        if not colon or not _TOKEN.fullmatch(header) or not value.isprintable() or not value.isascii():
            raise ConfigError(f"{name}: part {number} is no header such as X-Shop: 7 (several are parted by |)")
        if header.lower() in _OWN:
            raise ConfigError(f"{name}: {header} is made of other settings")
        found[header] = value
    return found


KEYS = (
    ConfigKey(name="http.user", default=None, documentation="The user, for servers that ask for Basic authentication."),
    ConfigKey(name="http.password", type=ConfigType.PASSWORD, default=None, documentation="The user's password."),
    ConfigKey(
        name="http.authorization",
        type=ConfigType.PASSWORD,
        default=None,
        documentation="The header Authorization as it is sent: Bearer and a token.",
    ),
    ConfigKey(
        name="http.headers",
        default="",
        validator=check(_check_headers, "Name: value|Name: value"),
        documentation="Further headers, parted by |.",
    ),
    ConfigKey(
        name="http.secret.headers",
        type=ConfigType.PASSWORD,
        default=None,
        validator=check(_check_headers, "Name: value|Name: value"),
        documentation="Further headers that nobody is shown: X-Api-Key: ...",
    ),
    ConfigKey(
        name="http.timeout.ms",
        type=ConfigType.INT,
        default=30000,
        validator=at_least(1),
        documentation="How long a server may say nothing.",
    ),
    ConfigKey(name="http.ssl.ca.location", default=None, documentation="A file of authorities' certificates, in PEM."),
    ConfigKey(
        name="http.ssl.certificate.location", default=None, documentation="A file with the client's certificate."
    ),
    ConfigKey(name="http.ssl.key.location", default=None, documentation="A file with its key."),
    ConfigKey(
        name="retry.backoff.ms",
        type=ConfigType.INT,
        default=1000,
        validator=at_least(1),
        importance=Importance.LOW,
        documentation="The pause before a request is tried again; it doubles, up to a minute. Retry-After counts if it is "
        "longer.",
    ),
    ConfigKey(
        name="max.retries",
        type=ConfigType.INT,
        default=-1,
        validator=at_least(-1),
        importance=Importance.LOW,
        documentation="How often in a row a request is tried again before the task fails; -1: without end.",
    ),
)


def url_key(documentation: str, parts: Sequence[str]) -> ConfigKey:
    """Return the row of the address.

    Args:
        parts: names of what may stand in it as ${name}.
    """

    def check_url(name: str, value: Any) -> None:
        if value is None:
            raise ConfigError(f"{name} is no address such as https://host:8443/orders")
        _check_url(name, value, parts)

    return ConfigKey(
        name="http.url",
        validator=check(check_url, "http://host:port/path or https://host:port/path"),
        importance=Importance.HIGH,
        documentation=documentation,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a server has answered.

    Attributes:
        is_whole: the body was not longer than was asked for.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_whole: bool

    def header(self, name: str) -> str | None:
        return self.headers.get(name.lower())


class NotNow(RetriableError):
    """A server cannot be asked now.

    Attributes:
        after_s: how long it wants to be left alone.
    """

    def __init__(self, message: str, after_s: float = 0.0) -> None:
        super().__init__(message)
        self.after_s = after_s


class Link:
    """Asks one server, one request at a time.

    Args:
        values: of KEYS and `http.url`.

    Raises:
        ConfigError: settings contradict each other.
        ConnectError: a file of a certificate cannot be used.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        parts = urlsplit(values["http.url"])
        #: The server as people are told of it.
        self.where = f"{parts.scheme}://{parts.netloc}"
        self._secrets: list[str] = []
        self._headers = self._made(values)
        self._timeout_s = values["http.timeout.ms"] / 1000
        assert parts.hostname is not None
        self._is_tls = parts.scheme == "https"
        self._address = parts.hostname, parts.port
        self._context = _tls(values) if self._is_tls else None
        self._connection: HTTPConnection | None = None
        self._is_used = False

    def _made(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Return the headers of every request."""
        check_login(values)
        found = {"User-Agent": "ottla-connect"}
        found |= headers_of("http.headers", values["http.headers"]) if values["http.headers"] else {}
        if values["http.secret.headers"] is not None and values["http.secret.headers"].value:
            secret = headers_of("http.secret.headers", values["http.secret.headers"].value)
            self._secrets += secret.values()
            found |= secret
        if values["http.authorization"] is not None:
            found["Authorization"] = values["http.authorization"].value
            self._secrets += values["http.authorization"].value.split()
        if values["http.user"] is not None:
            password = "" if values["http.password"] is None else values["http.password"].value
            coded = b64encode(f"{values['http.user']}:{password}".encode()).decode("ascii")
            found["Authorization"] = f"Basic {coded}"
            self._secrets += [coded, password]
        return found

    def ask(
        self,
        method: str,
        url: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        limit: int = 1 << 16,
    ) -> Answer:
        """Return the answer to a request, whatever its status is, behind redirects.

        Args:
            url: at the origin of `http.url`.
            limit: the most bytes of the answer that are read.

        Raises:
            NotNow: there was no answer, or it says to come again (408, 425, 429, 5xx).
            ConnectError: it redirects to where it is not followed, or the server is not who it should be.
        """
        for _ in range(_REDIRECTS_MAX):
            answer = self._ask_again(method, url, body, headers or {}, limit)
            if answer.status not in (301, 302, 303, 307, 308):
                self._check_now(method, answer)
                return answer
            url = self._redirected(method, url, answer)
        raise ConnectError(f"{self.where} redirects {method} more than {_REDIRECTS_MAX} times, at last to {shown(url)}")

    def told(self, answer: Answer) -> str:
        """Return an answer in a few words, without secrets."""
        text = " ".join(answer.body[: 4 * _SHOWN].decode("utf-8", "replace").split())
        for secret in self._secrets:
            if len(secret) >= 4:
                text = text.replace(secret, HIDDEN)
        text = text[:_SHOWN] + ("..." if len(text) > _SHOWN else "")
        return f"{answer.status}" + (f": {text}" if text else "")

    def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask_again(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str], limit: int) -> Answer:
        """Ask; once more if the server has ended a connection that it had kept."""
        while True:
            was_used = self._is_used and self._connection is not None
            try:
                return self._ask(method, url, body, headers, limit)
            except ssl.SSLCertVerificationError as error:
                self.close()
                raise ConnectError(
                    f"The certificate of {self.where} is not accepted: {error.verify_message} (http.ssl.ca.location)"
                ) from error
            except (OSError, HTTPException) as error:
                self.close()
                if was_used and isinstance(error, ConnectionError):
                    continue
                raise NotNow(f"{self.where} does not answer {method}: {str(error) or type(error).__name__}") from error

    def _ask(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str], limit: int) -> Answer:
        if self._connection is None:
            host, port = self._address
            self._connection = (
                HTTPSConnection(host, port, timeout=self._timeout_s, context=self._context)
                if self._is_tls
                else HTTPConnection(host, port, timeout=self._timeout_s)
            )
            self._is_used = False
        self._connection.request(method, _target(url), body, {**self._headers, **headers})
        with self._connection.getresponse() as response:
            found = self._read(response, limit)
            is_whole = len(found) <= limit
        self._is_used = True
        if not is_whole or response.will_close:
            self.close()
        told = {name.lower(): value for name, value in response.getheaders()}
        return Answer(status=response.status, headers=told, body=found[:limit], is_whole=is_whole)

    def _read(self, response: HTTPResponse, limit: int) -> bytes:
        """Read one byte more than the limit at most, and not for ever from a server that sends byte by byte."""
        end = time.monotonic() + 10 * self._timeout_s
        found = bytearray()
        while len(found) <= limit:
            more = response.read1(limit + 1 - len(found))
            if not more:
                break
            found += more
            if time.monotonic() > end:
                raise TimeoutError(f"its answer is not at its end after {10 * self._timeout_s:g} s")
        if not found or response.length in (None, 0) or len(found) > limit:
            return bytes(found)
        raise HTTPException(f"its answer ends {response.length} bytes before its end")

    def _redirected(self, method: str, url: str, answer: Answer) -> str:
        target = urljoin(url, answer.header("location") or "")
        if _origin(target) != _origin(url):
            raise ConnectError(
                f"{self.where} redirects to {shown(target)} ({answer.status}), which is another server: it is not "
                "followed; if it is the right one, it belongs into http.url"
            )
        if method not in ("GET", "HEAD") and answer.status not in (307, 308):
            raise ConnectError(
                f"{self.where} redirects {method} to {shown(target)} by {answer.status}, which takes no body along: "
                "it belongs into http.url"
            )
        return target

    def _check_now(self, method: str, answer: Answer) -> None:
        if answer.status in (408, 425, 429) or answer.status >= 500:
            raise NotNow(f"{self.where} answers {method} with {self.told(answer)}", retry_after_s(answer))


def check_login(values: Mapping[str, Any]) -> None:
    """Raise if there is more than one way to log in.

    Raises:
        ConfigError: there is.
    """
    if values["http.authorization"] is not None and values["http.user"] is not None:
        raise ConfigError("http.authorization and http.user both say who asks: one of them is needed")
    if values["http.password"] is not None and values["http.user"] is None:
        raise ConfigError("http.password is there, and no http.user")
    given = values["http.authorization"]
    if given is not None and not (given.value.isprintable() and given.value.isascii()):
        raise ConfigError("http.authorization is no value of a header, such as Bearer and a token")


def shown(url: str) -> str:
    """Return an address without what stands behind the question mark, which may be secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def retry_after_s(answer: Answer) -> float:
    """Return the seconds of Retry-After, also of one with a date (RFC 9110, 10.2.3); 0: there is none."""
    text = (answer.header("retry-after") or "").strip()
    if text.isdecimal() and text.isascii():
        return min(float(text[:12]), _RETRY_AFTER_MAX_S)
    try:
        seconds = parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(0.0, seconds), _RETRY_AFTER_MAX_S)


def pause_s(values: Mapping[str, Any], failures: int, after_s: float) -> float:
    """Return how long to wait before a request is tried again.

    Args:
        failures: how often in a row it has failed, 1 or more.
        after_s: what the server asks for.

    Raises:
        ConnectError: it has failed too often.
    """
    if 0 <= values["max.retries"] < failures:
        raise ConnectError(f"it has failed {failures} times in a row (max.retries={values['max.retries']})")
    first: float = values["retry.backoff.ms"] / 1000
    return max(after_s, min(max(60.0, first), first * 2.0 ** min(failures - 1, 16)))


def _origin(url: str) -> tuple[str, str | None, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _target(url: str) -> str:
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _tls(values: Mapping[str, Any]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=values["http.ssl.ca.location"])
        if values["http.ssl.certificate.location"] is not None:
            context.load_cert_chain(values["http.ssl.certificate.location"], values["http.ssl.key.location"])
    except OSError as error:
        raise ConnectError(f"A file of http.ssl.* cannot be used: {error}") from error
    return context
