"""Families of handlers that are imported and made when the first request for one of them comes.

A broker serves Produce, Fetch and Metadata from its first moment; most brokers never see a share group, a delegation token or
a reassignment. What a family's modules need (the messages of its APIs, the state machines of its groups) is a third of what
there is to import, and nobody waits for it at a start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from ottla.broker.context import Route, ShortCut

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from ottla.broker.context import RequestContext, Routes, Session
    from ottla.protocol.api import ApiKey


class Family(Protocol):
    """The handlers of some APIs."""

    def routes(self) -> Routes: ...


class LateFamily:
    """Stands for a family until its first request.

    Args:
        make: imports the family and makes it.
        keys: the APIs that it answers.
        short_cuts, for_controller, ends_with_connection: those of `keys` whose routes say so.
    """

    def __init__(
        self,
        make: Callable[[], Family],
        *keys: ApiKey,
        short_cuts: Collection[ApiKey] = (),
        for_controller: Collection[ApiKey] = (),
        ends_with_connection: Collection[ApiKey] = (),
    ) -> None:
        self._make = make
        self._made: Routes | None = None
        self._routes = {
            key: Route(
                self._handler(key),
                short_cut=ShortCut(self._frame_handler(key)) if key in short_cuts else None,
                for_controller=key in for_controller,
                ends_with_connection=key in ends_with_connection,
            )
            for key in keys
        }

    def routes(self) -> Routes:
        """Return routes that make the family when they are first used."""
        return self._routes

    def make(self) -> Routes:
        """Return the routes of the family itself."""
        made = self._made
        if made is None:
            made = self._make().routes()
            assert {key: _shape(route) for key, route in made.items()} == {
                key: _shape(route) for key, route in self._routes.items()
            }, f"what stands for a family has other routes than the family: {sorted(made)}"
            self._made = made
        return made

    def _handler(self, key: ApiKey) -> Callable[[RequestContext, Any], Any | Awaitable[Any]]:
        def handle(context: RequestContext, request: Any) -> Any | Awaitable[Any]:
            return (self._made or self.make())[key].handler(context, request)

        return handle

    def _frame_handler(self, key: ApiKey) -> Callable[[memoryview, int, Session], Any]:
        def handle_frame(frame: memoryview, version: int, session: Session) -> Any:
            short_cut = (self._made or self.make())[key].short_cut
            assert short_cut is not None
            return short_cut.handle_frame(frame, version, session)

        return handle_frame


def _shape(route: Route) -> tuple[bool, bool, bool, bool, bool]:
    """Return what of a route has to be known before its family is made."""
    short_cut = route.short_cut
    return (
        short_cut is not None,
        short_cut is not None and short_cut.finish is not None,
        route.keeps_order is not None,
        route.for_controller,
        route.ends_with_connection,
    )
