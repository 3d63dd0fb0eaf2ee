"""The pages of a broker, imported and made with the first request for one."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ottla.broker.broker import Broker
    from ottla.broker.http.facts import LiveFacts
    from ottla.broker.http.pages import Pages
    from ottla.network.http import HttpResponse


class LatePages:
    """Answers as `Pages` does, with the facts of a running broker."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    @cached_property
    def _facts(self) -> LiveFacts:
        from ottla.broker.http.facts import LiveFacts

        return LiveFacts(self._broker)

    @cached_property
    def _pages(self) -> Pages:
        from ottla.broker.http.pages import Pages

        return Pages(self._facts)

    def handle(self, path: str) -> HttpResponse:
        """Answer GET (and HEAD) of `path`."""
        return self._pages.handle(path)

    def handle_stranger(self, path: str) -> HttpResponse:
        """Answer a client without a login or a right that it needs."""
        return self._pages.handle_stranger(path)

    def metrics(self) -> Iterator[bytes]:
        """Return the page of /metrics, in steps."""
        from ottla.broker.http.metrics_page import metrics_page

        return metrics_page(self._facts)
