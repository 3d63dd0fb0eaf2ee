"""Values that stand elsewhere: `${file:/path:key}`, `${dir:/path:file}`, `${env:NAME}`, and keeping them secret.

The worker's `config.providers` says which of the three may be used. Configurations are kept as they were written; values
are looked up when a connector is checked or started, in the process that does it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from ottla.config.keys import ConfigError as VariableError
from ottla.config.variables import PREFIX, read_text, resolve_variables
from ottla.connect.config_def import HIDDEN, ConfigError

#: What is shorter is no secret, and would make texts unreadable.
_SECRET_LENGTH_MIN = 4


def resolved(worker: Mapping[str, str], config: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return a configuration with its variables resolved.

    Raises:
        ConfigError: a variable names nothing. No value is shown.
    """
    if not worker.get("config.providers") or not any("${" in (text or "") for text in config.values()):
        return dict(config)
    providers = {name: text for name, text in worker.items() if name == "config.providers" or name.startswith(PREFIX)}
    texts = {name: text for name, text in config.items() if text is not None and name not in providers}
    try:
        found = resolve_variables(providers | texts, environment=os.environ, read=read_text).settings
    except VariableError as error:
        raise ConfigError(str(error)) from None
    return {name: found.get(name) if text is not None else None for name, text in config.items()}


class Redactor:
    """Takes secrets out of texts that people see: traces, messages, headers."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = sorted({text for text in secrets if len(text) >= _SECRET_LENGTH_MIN}, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text
