"""One question, one broker, one answer: what the admin client's calls are made of, without I/O.

Decides which broker an `Ask` goes to (any, the controller, one by id), when it is sent again after a connection broke,
and when it has taken too long. What an answer means is the caller's business, and so is a coordinator or leader: the
caller asks for it and then asks that broker. As in Kafka's Java client (KafkaAdminClient) a request that got no answer is
sent again until `default.api.timeout.ms` has passed, each try for `request.timeout.ms` at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from ottla.client._core.backoff import RECONNECT, RETRY, Backoff
from ottla.client._core.connections import Connections
from ottla.client._core.metadata import Metadata, Node
from ottla.client._core.operation import Operation
from ottla.client._core.requests import FOREVER, Action, Send
from ottla.errors import BrokerNotAvailableError, KafkaError, RequestTimedOutError, UnsupportedVersionError
from ottla.protocol.api import APIS, ApiKey
from ottla.protocol.messages.metadata import MetadataResponse
from ottla.protocol.schema import Message

if TYPE_CHECKING:
    from random import Random

#: Who is asked: any broker, the controller, or the broker of an id.
Target = Literal["any", "controller"] | int
ANY: Final = "any"
CONTROLLER: Final = "controller"

_METADATA: Final = "metadata"


@dataclass(frozen=True, slots=True, kw_only=True)
class AskSettings:
    """Kafka's names with `_` for `.`, Kafka's defaults; times in milliseconds."""

    api_timeout_ms: float = 60_000
    request_timeout_ms: float = 30_000
    retry_backoff: Backoff = RETRY
    reconnect_backoff: Backoff = RECONNECT
    metadata_max_age_ms: float = 300_000
    connections_max_idle_ms: float = 300_000
    rebootstrap: bool = True


class CallTimeoutError(RequestTimedOutError, TimeoutError):
    """No answer within `timeout=`, or `default.api.timeout.ms`. What was asked for may have been done all the same."""


class Ask(Operation):
    """One question. `answer` is there when it is done without an error.

    Attributes:
        limit_ms: how long its caller waits, where that is not `default.api.timeout.ms`.
    """

    __slots__ = (
        "answer",
        "at_most",
        "build",
        "deadline_ms",
        "failures",
        "in_flight",
        "key",
        "limit_ms",
        "obstacle",
        "retry_ms",
        "target",
        "updates",
        "version",
    )

    def __init__(
        self,
        key: ApiKey,
        build: Callable[[int], Message],
        target: Target,
        deadline_ms: float,
        at_most: int | None = None,
        limit_ms: float | None = None,
    ) -> None:
        super().__init__(APIS[key].name)
        self.key = key
        self.build = build
        self.target = target
        self.deadline_ms = deadline_ms
        self.at_most = at_most
        self.limit_ms = limit_ms
        self.answer: Any = None
        self.version = 0
        self.retry_ms = 0.0
        self.failures = 0
        self.in_flight = False
        self.obstacle: Exception | None = None
        self.updates = -1


class AskCounts:
    """What was asked so far. Attributes: `latency_ms`, `latency_ms_max`: from a request to its answer."""

    __slots__ = ("answers", "latency_ms", "latency_ms_max", "requests")

    def __init__(self) -> None:
        self.requests: int = 0
        self.answers: int = 0
        self.latency_ms: float = 0.0
        self.latency_ms_max: float = 0.0

    def on_answer(self, latency_ms: float) -> None:
        self.answers += 1
        self.latency_ms += latency_ms
        self.latency_ms_max = max(self.latency_ms_max, latency_ms)


class AskMachine:
    """All questions of one client."""

    def __init__(self, settings: AskSettings, bootstrap: Sequence[tuple[str, int]], random: Random) -> None:
        self.settings = settings
        self.counts: AskCounts = AskCounts()
        self.connections = Connections(
            bootstrap,
            backoff=settings.reconnect_backoff,
            idle_max_ms=settings.connections_max_idle_ms,
            rebootstrap=settings.rebootstrap,
            random=random,
        )
        self.metadata = Metadata(
            max_age_ms=settings.metadata_max_age_ms,
            max_idle_ms=FOREVER,
            backoff=settings.retry_backoff,
            random=random,
            allow_auto_topic_creation=False,
        )
        self._random = random
        self._asks: dict[Ask, None] = {}
        self._fired: list[Callable[[], object]] = []
        self._closing: list[Action] = []

    # -- the caller's side ------------------------------------------------------------------------------------------

    def add(self, ask: Ask) -> None:
        """Ask; `Ask.callbacks` are called when it is done."""
        self._asks[ask] = None

    def cancel(self, ask: Ask) -> None:
        """The caller does not wait for the answer any longer."""
        self._asks.pop(ask, None)

    def fail_all(self, error: Exception) -> None:
        """The client is closed."""
        for ask in list(self._asks):
            self._finish(ask, error)

    def add_node(self, node: Node) -> None:
        """Take in a broker that an answer named."""
        self.connections.add(node)

    # -- what to do next --------------------------------------------------------------------------------------------

    def poll(self, now_ms: float) -> tuple[list[Action], float]:
        """Return (what to do now, when to poll again at the latest if nothing else happens)."""
        actions: list[Action] = []
        wake_ms = min((self._poll_ask(ask, now_ms, actions) for ask in list(self._asks)), default=FOREVER)
        wake_ms = min(wake_ms, self._poll_metadata(now_ms, actions))
        actions += self._closing
        self._closing = []
        actions += self.connections.idle(now_ms)
        return actions, wake_ms

    def _poll_ask(self, ask: Ask, now_ms: float, actions: list[Action]) -> float:
        if ask.deadline_ms <= now_ms:
            self._finish(ask, self._too_late(ask))
            return FOREVER
        if ask.in_flight:
            return ask.deadline_ms
        if ask.retry_ms > now_ms:
            return min(ask.retry_ms, ask.deadline_ms)
        node_id, wake_ms = self._choose(ask, now_ms, actions)
        if node_id is None:
            return min(wake_ms, ask.deadline_ms)
        version = self.connections.version(node_id, ask.key, at_most=ask.at_most)
        if version is None:
            self._finish(ask, _not_served(ask, offered=self.connections.offers(node_id, ask.key)))
            return FOREVER
        ask.in_flight = True
        ask.version = version
        send = Send(
            ask.name,
            node_id,
            ask.key,
            version,
            ask.build,
            timeout_ms=min(self.settings.request_timeout_ms, ask.deadline_ms - now_ms),
            context=ask,
        )
        send.sent_ms = now_ms
        send.generation = self.connections.on_sent(node_id, now_ms)
        self.counts.requests += 1
        actions.append(send)
        return ask.deadline_ms

    def _choose(self, ask: Ask, now_ms: float, actions: list[Action]) -> tuple[int | None, float]:
        """Return (the broker to ask now or None, when to look again)."""
        if ask.target == ANY:
            node_id, connect, wake_ms = self.connections.least_loaded(now_ms)
            if connect is not None:
                actions.append(connect)
            return node_id, wake_ms
        image = self.metadata.image
        wanted = image.controller_id if ask.target == CONTROLLER else ask.target
        assert isinstance(wanted, int)
        if not self.connections.knows(wanted) or wanted < 0:
            if ask.updates < 0:
                ask.updates = self.metadata.updates
            if ask.target != CONTROLLER and self.metadata.updates > ask.updates:
                known = ", ".join(map(str, sorted(image.nodes)))
                self._finish(ask, BrokerNotAvailableError(f"There is no broker {wanted} in the cluster, only {known}."))
                return None, FOREVER
            self.metadata.request_update()
            return None, FOREVER
        if self.connections.has_room(wanted):
            return wanted, now_ms
        if self.connections.is_up(wanted):
            return None, FOREVER
        connect = self.connections.want(wanted, now_ms)
        if connect is not None:
            actions.append(connect)
        failure = self.connections.failure(wanted)
        if failure is not None:
            ask.obstacle = failure
            self.metadata.request_update()
        return None, self.connections.retry_ms(wanted)

    def _poll_metadata(self, now_ms: float, actions: list[Action]) -> float:
        due = self.metadata.due_ms()
        if due > now_ms:
            return due
        node_id, connect, retry_ms = self.connections.least_loaded(now_ms)
        if connect is not None:
            actions.append(connect)
        if node_id is None:
            return retry_ms
        version = self.connections.version(node_id, ApiKey.METADATA)
        request = self.metadata.make_request(now_ms, version or 0)
        send = Send(
            _METADATA,
            node_id,
            ApiKey.METADATA,
            version or 0,
            lambda _version: request,
            timeout_ms=self.settings.request_timeout_ms,
        )
        send.sent_ms = now_ms
        send.generation = self.connections.on_sent(node_id, now_ms)
        self.counts.requests += 1
        actions.append(send)
        return FOREVER

    def due_ms(self) -> float:
        """Return when to poll, after an answer: at once."""
        return 0.0

    # -- what happened ----------------------------------------------------------------------------------------------

    def take_fired(self) -> list[Callable[[], object]]:
        """Return the callbacks that are to be called now."""
        fired, self._fired = self._fired, []
        return fired

    def take_finished(self) -> list[Any]:
        return []

    def on_connected(
        self, node_id: int, versions: dict[int, tuple[int, int]], features: dict[str, int], now_ms: float
    ) -> None:
        self.connections.on_connected(node_id, versions, features, now_ms)

    def on_down(self, node_id: int, error: Exception, now_ms: float) -> None:
        self.connections.on_down(node_id, error, now_ms)
        if node_id == self.metadata.image.controller_id:
            self.metadata.request_update()

    def on_response(self, send: Send, response: Message, now_ms: float) -> None:
        self.connections.on_answered(send.node_id, send.generation)
        self.counts.on_answer(now_ms - send.sent_ms)
        if send.purpose == _METADATA:
            assert isinstance(response, MetadataResponse)
            updates = self.metadata.updates
            self.metadata.on_response(response, now_ms)
            if self.metadata.updates > updates:
                self._closing += self.connections.learn(self.metadata.image.nodes)
            return
        ask = send.context
        assert isinstance(ask, Ask)
        if ask in self._asks:
            ask.answer = response
            self._finish(ask, None)

    def on_failed(self, send: Send, error: Exception, now_ms: float) -> None:
        self.connections.on_answered(send.node_id, send.generation)
        if send.purpose == _METADATA:
            self.metadata.on_failure(now_ms)
            return
        ask = send.context
        assert isinstance(ask, Ask)
        ask.in_flight = False
        if ask not in self._asks:
            return
        if not (isinstance(error, KafkaError) and error.retriable):
            self._finish(ask, error)
            return
        ask.obstacle = error
        ask.failures += 1
        ask.retry_ms = now_ms + self.settings.retry_backoff.delay_ms(ask.failures, self._random)

    def on_sent_unanswered(self, send: Send, now_ms: float) -> None:
        raise AssertionError(send)

    def _finish(self, ask: Ask, error: Exception | None) -> None:
        self._asks.pop(ask, None)
        self._fired += ask.finish(error)

    def _too_late(self, ask: Ask) -> CallTimeoutError:
        return self.too_late(ask.name, ask.limit_ms, ask.obstacle)

    def too_late(self, name: str, limit_ms: float | None, obstacle: Exception | None = None) -> CallTimeoutError:
        """Return that a question was not answered in time, and why as far as that is known."""
        reason = obstacle or self.connections.error
        limit = f"{limit_ms / 1000:g} s" if limit_ms is not None else ""
        error = CallTimeoutError(
            f"{name} was not answered within "
            + (limit or f"default.api.timeout.ms ({self.settings.api_timeout_ms / 1000:g} s)")
            + (f": {reason}" if reason is not None else ".")
        )
        error.__cause__ = reason
        return error


def _not_served(ask: Ask, *, offered: bool) -> UnsupportedVersionError:
    error = UnsupportedVersionError(
        f"The broker serves {ask.name}, but in no version that this client speaks."
        if offered
        else f"The broker does not serve {ask.name}."
    )
    error.hint = "It is older than this request, or does not have what the request is about."
    return error
