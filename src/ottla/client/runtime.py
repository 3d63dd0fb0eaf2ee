"""Runs a client's core: channels, timers, and the lock that it is shared under. All of it belongs to one event loop.

The core decides; this does. Callers of other threads take `lock`, call the core, release it and `wake()`. The lock is
held for the core's calls only: requests are built, and callers' callbacks called, without it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from ottla.client._core.batch import Batch
from ottla.client._core.connections import Connect, Disconnect
from ottla.client._core.metadata import Node
from ottla.client._core.operation import Operation
from ottla.client._core.requests import Action, Send
from ottla.client._core.telemetry import PURPOSE, Telemetry
from ottla.errors import KafkaError
from ottla.network.channel import Channel, ChannelSettings
from ottla.network.channel_errors import ConnectionClosedError
from ottla.protocol.schema import Message

logger: logging.Logger = logging.getLogger(__name__)

#: Polls in a row without giving other tasks of the loop a turn.
_POLLS_MAX = 64
#: How long the last metrics may take when a client ends.
_LAST_PUSH_S = 1.0
#: No timer is shorter: 0.2 ms.
_TIMER_MIN_S = 0.0002


class Machine(Protocol):
    """A core, as this module sees it; see `ProducerMachine` and `FetchMachine`."""

    def poll(self, now_ms: float, /) -> tuple[list[Action], float]: ...

    def due_ms(self) -> float: ...

    def take_fired(self) -> list[Callable[[], object]]: ...

    def take_finished(self) -> list[Any]: ...

    def on_connected(
        self, node_id: int, versions: dict[int, tuple[int, int]], features: dict[str, int], now_ms: float, /
    ) -> None: ...

    def on_down(self, node_id: int, error: Exception, now_ms: float, /) -> None: ...

    def on_response(self, send: Send, response: Message, now_ms: float, /) -> None: ...

    def on_failed(self, send: Send, error: Exception, now_ms: float, /) -> None: ...

    def on_sent_unanswered(self, send: Send, now_ms: float, /) -> None: ...


class Runtime:
    """One core on the running loop.

    Attributes:
        connected: done when a first connection has come about; failed when another try cannot help.
        on_finished: called with batches that have got an outcome, on the loop's thread, without the lock.
    """

    def __init__(
        self,
        machine: Machine,
        settings: ChannelSettings,
        lock: AbstractContextManager[object],
        on_finished: Callable[[list[Batch]], None] | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.connected: Operation = Operation("connect")
        self._machine = machine
        self._settings = settings
        self._lock = lock
        self._on_finished = on_finished
        self._telemetry = telemetry
        self._loop = asyncio.get_running_loop()
        self._channels: dict[int, Channel] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = float("inf")
        self._woken = False
        self._stopped = False
        #: Addresses that were reached once, or of which the log has said that they cannot be.
        self._known_addresses: set[tuple[str, int]] = set()

    def now_ms(self) -> float:
        """The core's time; may be called from any thread."""
        return self._loop.time() * 1000

    def wake(self) -> None:
        """Poll the core soon; for the loop's own thread."""
        if not self._woken and not self._stopped:
            self._woken = True
            self._loop.call_soon(self._poll)

    def wake_threadsafe(self) -> None:
        """Poll the core soon; for other threads, which hold the lock or do not."""
        if not self._woken and not self._stopped:
            self._woken = True
            self._loop.call_soon_threadsafe(self._poll)

    def call_threadsafe(self, function: Callable[[], object]) -> None:
        """Call a function on the loop soon; for other threads and for signal handlers."""
        if not self._stopped:
            self._loop.call_soon_threadsafe(function)

    async def stop(self) -> None:
        """Close all connections; nothing is sent any more but, where brokers want them, the last metrics."""
        await self._push_last()
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        channels = list(self._channels.values())
        for channel in channels:
            channel.close()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        for channel in channels:
            await channel.wait_closed()
        self._fire()

    async def _push_last(self) -> None:
        if self._telemetry is None or self._stopped:
            return
        with self._lock:
            operation = self._telemetry.end()
        if operation is None:
            return
        done = asyncio.Event()
        operation.callbacks.append(done.set)
        self._poll()
        try:
            async with asyncio.timeout(_LAST_PUSH_S):
                await done.wait()
        except TimeoutError:
            logger.debug("the last metrics were not pushed within %g s", _LAST_PUSH_S)

    # -- one turn ---------------------------------------------------------------------------------------------------

    def _poll(self) -> None:
        self._woken = False
        if self._stopped:
            return
        for _ in range(_POLLS_MAX):
            with self._lock:
                actions, wake_ms = self._machine.poll(self.now_ms())
                if self._telemetry is not None:
                    wake_ms = min(wake_ms, self._telemetry.poll(self.now_ms(), actions))
            for action in actions:
                self._act(action)
            self._fire()
            now_ms = self.now_ms()
            if wake_ms > now_ms:
                break
        else:
            self.wake()
        if wake_ms < self._timer_ms and not self._woken:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_ms = wake_ms
            # A moment that is now, but for rounding, would come again and again.
            self._timer = self._loop.call_at(max(wake_ms / 1000, self._loop.time() + _TIMER_MIN_S), self._on_timer)

    def _on_timer(self) -> None:
        # It may have been set for what is due later by now: moved forward with each answer it would cost more than one poll.
        self._timer = None
        self._timer_ms = float("inf")
        self._poll()

    def _fire(self) -> None:
        with self._lock:
            fired = self._machine.take_fired()
            finished = self._machine.take_finished()
        if finished and self._on_finished is not None:
            self._on_finished(finished)
        for callback in fired:
            try:
                callback()
            except Exception:
                logger.exception("a callback of the caller's failed")

    def _act(self, action: Action) -> None:
        match action:
            case Send():
                self._send(action)
            case Connect(node):
                task = self._loop.create_task(self._connect(node))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case Disconnect(node_id):
                channel = self._channels.get(node_id)
                if channel is not None:
                    channel.close()

    def _send(self, send: Send) -> None:
        channel = self._channels.get(send.node_id)
        try:
            if channel is None:
                raise ConnectionClosedError("The connection was closed.")
            message = send.build(send.version)
            if not send.answered:
                channel.send_unanswered(message, send.version)
                with self._lock:
                    self._machine.on_sent_unanswered(send, self.now_ms())
                return
            channel.send_to(
                message,
                send.version,
                lambda answer: self._on_answer(send, answer),
                lambda error: self._on_no_answer(send, error),
                timeout_s=send.timeout_ms / 1000,
            )
        except Exception as error:
            if not isinstance(error, KafkaError):
                logger.exception("a request could not be made")
            with self._lock:
                told = self._failed(send, error)
            self._call(told)
            self.wake()
            return

    def _on_answer(self, send: Send, answer: Message) -> None:
        if self._stopped:
            return
        told: list[Callable[[], object]] = []
        due_ms = 0.0
        with self._lock:
            if send.purpose == PURPOSE and self._telemetry is not None:
                told = self._telemetry.on_response(send, answer, self.now_ms())
            else:
                self._machine.on_response(send, answer, self.now_ms())
                due_ms = self._machine.due_ms()
        self._call(told)
        if due_ms < self._timer_ms:
            self._poll()
        else:
            self._fire()

    def _on_no_answer(self, send: Send, error: Exception) -> None:
        if self._stopped:
            return
        with self._lock:
            told = self._failed(send, error)
        self._call(told)
        self._poll()

    def _failed(self, send: Send, error: Exception) -> list[Callable[[], object]]:
        """A request got no answer; return whom to call. Called with the lock held."""
        if send.purpose == PURPOSE and self._telemetry is not None:
            return self._telemetry.on_failed(send, error, self.now_ms())
        self._machine.on_failed(send, error, self.now_ms())
        return []

    def _call(self, callbacks: list[Callable[[], object]]) -> None:
        for callback in callbacks:
            callback()

    # -- connections ------------------------------------------------------------------------------------------------

    async def _connect(self, node: Node) -> None:
        try:
            channel = await Channel.open(node.host, node.port, self._settings)
        except (KafkaError, OSError) as error:
            self._on_unreachable(node, error)
            return
        except asyncio.CancelledError:
            raise
        except Exception as error:
            logger.exception("connecting to %s:%d failed", node.host, node.port)
            self._on_unreachable(node, error)
            return
        if self._stopped:
            channel.close()
            return
        self._channels[node.id] = channel
        channel.on_closed = lambda error: self._on_closed(node, channel, error)
        logger.debug("connected to %s:%d (node %d)", node.host, node.port, node.id)
        self._known_addresses.add((node.host, node.port))
        with self._lock:
            self._machine.on_connected(node.id, dict(channel.versions), dict(channel.features), self.now_ms())
            callbacks = self.connected.finish()
        for callback in callbacks:
            callback()
        self._poll()

    def _on_unreachable(self, node: Node, error: Exception) -> None:
        if node.id >= 0 and (node.host, node.port) not in self._known_addresses:
            self._known_addresses.add((node.host, node.port))
            logger.warning(
                "broker %d advertises %s:%d, which cannot be reached from here: %s",
                node.id,
                node.host,
                node.port,
                error,
            )
        callbacks: list[Callable[[], object]] = []
        with self._lock:
            self._machine.on_down(node.id, error, self.now_ms())
            if isinstance(error, KafkaError) and not error.retriable:
                callbacks = self.connected.finish(error)
        for callback in callbacks:
            callback()
        self._poll()

    def _on_closed(self, node: Node, channel: Channel, error: Exception) -> None:
        if self._channels.get(node.id) is channel:
            del self._channels[node.id]
        if self._stopped:
            return
        logger.debug("the connection to %s:%d ended: %s", node.host, node.port, error)
        with self._lock:
            self._machine.on_down(node.id, error, self.now_ms())
        self.wake()
