"""Where a group's coordinator is: found by any broker, and looked for again once it is not, or cannot be reached.

Requests to it go over a connection of their own, so that they do not wait behind a Fetch.
"""

from __future__ import annotations

from typing import Final, cast

from ottla.client._core.client import ClientMachine
from ottla.client._core.connections import COORDINATOR, Disconnect
from ottla.client._core.denials import error_of
from ottla.client._core.metadata import Node
from ottla.client._core.requests import FOREVER, Action, Send
from ottla.errors import ErrorCode, KafkaError
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.find_coordinator import FindCoordinatorRequest, FindCoordinatorResponse
from ottla.protocol.schema import Message

GROUP: Final = 0
#: Look for the coordinator again.
MOVED: Final = frozenset({ErrorCode.NOT_COORDINATOR, ErrorCode.COORDINATOR_NOT_AVAILABLE})


class Coordinator:
    """The coordinator of one group.

    Attributes:
        node_id: under which its connection stands; None while it is looked for.
        error: why it cannot be found at all, or None.
        wanted: whether anything is to be sent to it.
    """

    def __init__(self, machine: ClientMachine, group_id: str) -> None:
        self.node_id: int | None = None
        self.error: KafkaError | None = None
        self.wanted: bool = False
        self._machine = machine
        self._group_id = group_id
        self._in_flight = False
        self._retry_ms = 0.0
        self._failures = 0
        self._closing: list[Disconnect] = []

    def poll(self, now_ms: float, actions: list[Action]) -> float:
        actions += self._closing
        self._closing = []
        if self.node_id is not None or not self.wanted or self._in_flight or self.error is not None:
            return FOREVER
        if self._retry_ms > now_ms:
            return self._retry_ms
        key = self._group_id

        def build(version: int) -> FindCoordinatorRequest:
            if version >= 4:
                return FindCoordinatorRequest(key_type=GROUP, coordinator_keys=[key])
            return FindCoordinatorRequest(key=key, key_type=GROUP)

        retry_ms = self._machine.ask_any(
            now_ms, actions, ApiKey.FIND_COORDINATOR, build, self._on_answer, self._on_failure
        )
        self._in_flight = retry_ms is None
        return FOREVER if retry_ms is None else retry_ms

    def reach(self, now_ms: float, actions: list[Action]) -> float | None:
        """Return None if a request may go to the coordinator now (`node_id`), or when to try again."""
        self.wanted = True
        if self.node_id is None:
            return FOREVER if self._in_flight else max(self._retry_ms, now_ms + 1)
        if self._machine.connections.failure(self.node_id) is not None:
            # It died, and another broker may coordinate now.
            self.lose(now_ms)
            return self._retry_ms
        return self._machine.reach(self.node_id, now_ms, actions)

    def lose(self, now_ms: float) -> None:
        """It is the coordinator no more, or cannot be reached: look for it again."""
        if self.node_id is not None:
            self.node_id = None
            self._retry(now_ms)

    def on_code(self, code: int, now_ms: float) -> None:
        """An answer had this error code."""
        if code in MOVED:
            self.lose(now_ms)

    def _retry(self, now_ms: float) -> None:
        self._failures += 1
        self._retry_ms = now_ms + self._machine.delay_ms(self._failures)

    def _on_failure(self, send: Send, error: Exception, now_ms: float) -> None:
        self._in_flight = False
        self._retry(now_ms)

    def _on_answer(self, send: Send, response: Message, now_ms: float) -> None:
        self._in_flight = False
        answer = cast(FindCoordinatorResponse, response)
        found = answer.coordinators[0] if answer.coordinators else answer
        if found.error_code:
            error = error_of(found.error_code, found.error_message, group=("DESCRIBE", self._group_id))
            if not error.retriable:
                self.error = error
                self._machine.wake()
            self._retry(now_ms)
            return
        self._failures = 0
        self.node_id = COORDINATOR + found.node_id
        self._closing += self._machine.connections.place(Node(self.node_id, found.host, found.port))

    def take_error(self) -> KafkaError | None:
        """Return why the coordinator cannot be found; the next turn looks again."""
        error, self.error = self.error, None
        return error
