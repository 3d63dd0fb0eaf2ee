"""A client's configuration in a file, as Java's clients and Kafka's tools read it (`--command-config`)."""

from __future__ import annotations

import os

from ottla.client.errors import ConfigurationError
from ottla.config.keys import ConfigError
from ottla.config.properties import parse_properties
from ottla.config.variables import read_text, resolve_variables


def read_properties(path: str) -> dict[str, str]:
    """Return the keys of a `.properties` file, for `config=` of a client; variables (`${file:...}`) are resolved.

        with ottla.Producer(config=ottla.read_properties("alice.properties")) as producer:
            ...

    Raises:
        ConfigurationError: the file cannot be read, or a line of it. No value is shown.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}.") from None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("latin-1")  # what Java's format was for a long time
    try:
        found = parse_properties(text, path)
        if "config.providers" in found or any("${" in value for value in found.values()):
            found = resolve_variables(found, environment=os.environ, read=read_text).settings
            found.pop("config.providers", None)
        return found
    except ConfigError as error:
        raise ConfigurationError(f"{error}.") from None
