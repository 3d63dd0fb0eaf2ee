"""Names and passwords of the REST interface, as Kafka's BasicAuthSecurityRestExtension asks for them.

Users stand in a file of `name=password` lines. As with Java's, an empty file lets everybody in.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Callable, Mapping
from typing import Final

from ottla.connect.config_def import ConfigError
from ottla.web import WebRequest, WebResponse

EXTENSION: Final = "org.apache.kafka.connect.rest.basic.auth.extension.BasicAuthSecurityRestExtension"
_JAAS_OPTION = re.compile(r"-Djava\.security\.auth\.login\.config=(?:\"([^\"]+)\"|(\S+))")
_ENTRY = re.compile(r"KafkaConnect\s*\{[^}]*?\bfile\s*=\s*[\"']([^\"']+)[\"'][^}]*\}", re.DOTALL)


class BasicLogin:
    """Says who may ask."""

    def __init__(self, users: Mapping[str, str]) -> None:
        self._users = dict(users)

    @property
    def has_users(self) -> bool:
        """Whether anybody is asked for a password."""
        return bool(self._users)

    def refuse(self, request: WebRequest) -> WebResponse | None:
        """Return what is answered to a request that may not be made; None: it may."""
        if not self._users or self._is_right(request.headers.get("Authorization", "")):
            return None
        return WebResponse(
            status=401,
            body="User cannot access the resource.",
            content_type="text/plain",
            headers={"WWW-Authenticate": "Basic"},
        )

    def _is_right(self, header: str) -> bool:
        scheme, _, given = header.partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            name, _, password = base64.b64decode(given.strip(), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
        wanted = self._users.get(name)
        return hmac.compare_digest(password.encode(), (wanted or "").encode()) and wanted is not None


def users_file(own: str | None, kafka_opts: str, read: Callable[[str], str]) -> str:
    """Return the file with users: the worker's own key, else the one that a JAAS configuration names.

    Args:
        kafka_opts: the environment's KAFKA_OPTS.
        read: returns the text of a file.

    Raises:
        ConfigError: none is named.
    """
    if own:
        return own
    found = _JAAS_OPTION.search(kafka_opts)
    if found is not None:
        entry = _ENTRY.search(read(found[1] or found[2]))
        if entry is not None:
            return entry[1]
    raise ConfigError(
        f"{EXTENSION} needs a file of name=password lines: set rest.basic.auth.file, or name a JAAS configuration with an "
        "entry KafkaConnect in KAFKA_OPTS"
    )
