"""All that is wrong with a configuration, said at once: a user who mends a file starts the broker again once, not
once per mistake."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ottla.config.keys import ConfigError


class Mistakes:
    """Gathers sentences in the order in which they are found; one that is found twice is said once."""

    def __init__(self) -> None:
        self._sentences: dict[str, None] = {}

    def add(self, *sentences: str) -> None:
        self._sentences.update(dict.fromkeys(sentences))

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Note a ConfigError raised inside, and go on."""
        try:
            yield
        except ConfigError as error:
            self.add(*error.mistakes)

    def raise_all(self) -> None:
        """End the gathering.

        Raises:
            ConfigError: there were mistakes; `ConfigError.mistakes` has them all.
        """
        if self._sentences:
            raise ConfigError(*self._sentences)
