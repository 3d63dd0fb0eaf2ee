"""What the core of every client without records to send has: connections, metadata, requests and their answers.

A machine is made of parts. `poll` asks each what it wants to send; a request carries whom its answer goes to. Parts
reach each other through the machine that owns them. Time is passed in as milliseconds of a clock that never goes back.
Callers' callables are never called from here: `fired` collects them, and the shell calls them when it holds no lock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from ottla.client._core.backoff import RECONNECT, RETRY, Backoff
from ottla.client._core.connections import Connections, Disconnect
from ottla.client._core.metadata import Metadata
from ottla.client._core.operation import Operation
from ottla.client._core.requests import FOREVER, Action, Send
from ottla.errors import UnsupportedVersionError
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.metadata import MetadataResponse
from ottla.protocol.schema import Message

if TYPE_CHECKING:
    from random import Random

#: What is called with the answer of a request.
OnAnswer = Callable[[Send, Message, float], None]
#: What is called with the reason if there is none.
OnFailure = Callable[[Send, Exception, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreSettings:
    """Kafka's names with `_` for `.`, Kafka's defaults; times in milliseconds, sizes in bytes."""

    request_timeout_ms: float = 30_000
    retry_backoff: Backoff = RETRY
    reconnect_backoff: Backoff = RECONNECT
    metadata_max_age_ms: float = 300_000
    connections_max_idle_ms: float = 540_000
    allow_auto_create_topics: bool = True
    rebootstrap: bool = True


class Part(Protocol):
    """One concern of a machine."""

    def poll(self, now_ms: float, actions: list[Action]) -> float:
        """Add what is to be done now; return when to poll again at the latest if nothing else happens."""
        ...


class ClientMachine:
    """Connections, metadata and parts of one client.

    Attributes:
        parts: polled in this order.
        waiters: callables of those who wait for any news; each is called once.
        fired: whom the shell is to call.
    """

    def __init__(self, core: CoreSettings, bootstrap: Sequence[tuple[str, int]], random: Random) -> None:
        self.core = core
        self.random = random
        self.connections: Connections = Connections(
            bootstrap,
            backoff=core.reconnect_backoff,
            idle_max_ms=core.connections_max_idle_ms,
            rebootstrap=core.rebootstrap,
            random=random,
        )
        self.metadata: Metadata = Metadata(
            max_age_ms=core.metadata_max_age_ms,
            max_idle_ms=FOREVER,
            backoff=core.retry_backoff,
            random=random,
            allow_auto_topic_creation=core.allow_auto_create_topics,
        )
        self.parts: list[Part] = []
        self.waiters: list[Callable[[], object]] = []
        self.fired: list[Callable[[], object]] = []
        self._metadata_in_flight = False
        self._image = self.metadata.image
        self._closing_connections: list[Disconnect] = []

    # -- what to do next --------------------------------------------------------------------------------------------

    def poll(self, now_ms: float) -> tuple[list[Action], float]:
        """Return (what to do now, when to poll again at the latest if nothing else happens)."""
        actions: list[Action] = []
        wake_ms = FOREVER
        for part in self.parts:
            wake_ms = min(wake_ms, part.poll(now_ms, actions))
        # The last: the others may have found that the image is wrong.
        wake_ms = min(wake_ms, self._poll_metadata(now_ms, actions))
        actions += self._closing_connections
        self._closing_connections = []
        actions += self.connections.idle(now_ms)
        return actions, wake_ms

    def due_ms(self) -> float:
        """Return when to poll, after an answer: at once, since any part may want something."""
        return 0.0

    def _poll_metadata(self, now_ms: float, actions: list[Action]) -> float:
        due = self.metadata.due_ms()
        if due > now_ms or self._metadata_in_flight:
            return due

        def build(version: int) -> Message:
            return self.metadata.make_request(now_ms, version)

        retry_ms = self.ask_any(now_ms, actions, ApiKey.METADATA, build, self._on_metadata, self._on_no_metadata)
        self._metadata_in_flight = retry_ms is None
        return FOREVER if retry_ms is None else retry_ms

    # -- requests of the parts --------------------------------------------------------------------------------------

    def reach(self, node_id: int, now_ms: float, actions: list[Action]) -> float | None:
        """Return None if a request may go to a node now, or when to try again; dials where that is needed."""
        if self.connections.has_room(node_id):
            return None
        connect = self.connections.want(node_id, now_ms)
        if connect is not None:
            actions.append(connect)
        if self.connections.failure(node_id) is not None:
            self.metadata.request_update()
        return self.connections.retry_ms(node_id)

    def ask(
        self,
        now_ms: float,
        actions: list[Action],
        node_id: int,
        key: ApiKey,
        build: Callable[[int], Message],
        on_answer: OnAnswer,
        on_failure: OnFailure,
        *,
        at_most: int | None = None,
        context: object = None,
        names: Mapping[bytes, str] | None = None,
        wait_ms: float = 0,
    ) -> None:
        """Send a request to a node that `reach` has found ready.

        Args:
            wait_ms: how long the broker may keep the answer back, beside `request.timeout.ms`.
        """
        version = self.connections.version(node_id, key, at_most=at_most)
        send = Send(
            key.name.lower(),
            node_id,
            key,
            version or 0,
            build,
            timeout_ms=self.core.request_timeout_ms + wait_ms,
            names=names,
            context=context,
        )
        send.on_answer = on_answer
        send.on_failure = on_failure
        send.sent_ms = now_ms
        send.generation = self.connections.on_sent(node_id, now_ms)
        if version is None:
            self.on_failed(send, UnsupportedVersionError(f"The broker is too old for {key.name}."), now_ms)
        else:
            actions.append(send)

    def ask_any(
        self,
        now_ms: float,
        actions: list[Action],
        key: ApiKey,
        build: Callable[[int], Message],
        on_answer: OnAnswer,
        on_failure: OnFailure,
    ) -> float | None:
        """Send a request that any broker can answer; return None if it goes out, or when to try again."""
        node_id, connect, retry_ms = self.connections.least_loaded(now_ms)
        if connect is not None:
            actions.append(connect)
        if node_id is None:
            return retry_ms
        self.ask(now_ms, actions, node_id, key, build, on_answer, on_failure)
        return None

    def disconnect(self, node_id: int) -> None:
        """Have the connection to a node closed, and with it what is in flight."""
        self._closing_connections.append(Disconnect(node_id))

    def finish(self, operation: Operation, error: Exception | None = None) -> None:
        """An operation has got its outcome: have those who wait for it called."""
        self.fired += operation.finish(error)

    def wake(self) -> None:
        """There is news for those who wait."""
        self.fired += self.waiters
        self.waiters = []

    def delay_ms(self, failures: int) -> float:
        """How long to wait after so many failures in a row."""
        return self.core.retry_backoff.delay_ms(failures, self.random)

    # -- what happened ----------------------------------------------------------------------------------------------

    def on_connected(
        self, node_id: int, versions: dict[int, tuple[int, int]], features: dict[str, int], now_ms: float
    ) -> None:
        """A connection that `poll` asked for came about."""
        self.connections.on_connected(node_id, versions, features, now_ms)

    def on_down(self, node_id: int, error: Exception, now_ms: float) -> None:
        """A connection did not come about, or broke; `on_failed` comes for each request that was in flight on it."""
        self.connections.on_down(node_id, error, now_ms)
        self.metadata.request_update()

    def on_response(self, send: Send, response: Message, now_ms: float) -> None:
        """An answer came."""
        self.connections.on_answered(send.node_id, send.generation)
        assert send.on_answer is not None
        send.on_answer(send, response, now_ms)

    def on_failed(self, send: Send, error: Exception, now_ms: float) -> None:
        """A request got no answer, or could not be written."""
        self.connections.on_answered(send.node_id, send.generation)
        assert send.on_failure is not None
        send.on_failure(send, error, now_ms)

    def on_sent_unanswered(self, send: Send, now_ms: float) -> None:
        raise AssertionError("every request but a producer's is answered")

    def take_fired(self) -> list[Callable[[], object]]:
        """Return whom to call, each once."""
        fired, self.fired = self.fired, []
        return fired

    def take_finished(self) -> list[object]:
        """Return nothing: only producers have batches that finish."""
        return []

    def _on_metadata(self, send: Send, response: Message, now_ms: float) -> None:
        self._metadata_in_flight = False
        self.metadata.on_response(cast(MetadataResponse, response), now_ms)
        self.take_image()

    def _on_no_metadata(self, send: Send, error: Exception, now_ms: float) -> None:
        self._metadata_in_flight = False
        self.metadata.on_failure(now_ms)

    def take_image(self) -> None:
        """The image may have changed."""
        image = self.metadata.image
        if image is not self._image:
            self._image = image
            self._closing_connections += self.connections.learn(image.nodes)
        self.on_image()
        self.wake()

    def on_image(self) -> None:
        """Metadata was taken in."""
