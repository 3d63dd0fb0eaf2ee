"""A client's configuration in a file, as Java's clients and Kafka's tools read it (`--command-config`)."""

from __future__ import annotations

from ottla.client.errors import ConfigurationError
from ottla.config.keys import ConfigError
from ottla.config.properties import parse_properties


def read_properties(path: str) -> dict[str, str]:
    """Return the keys of a `.properties` file, for `config=` of a client.

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
        return parse_properties(text, path)
    except ConfigError as error:
        raise ConfigurationError(f"{error}.") from None
