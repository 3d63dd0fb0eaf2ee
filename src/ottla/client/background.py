"""A thread with an event loop, for clients with a blocking face; and what becomes of it at the end of the process."""

from __future__ import annotations

import asyncio
import atexit
import logging
import socket
import threading
import weakref
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from ottla.client import sockets
from ottla.client.sockets import keeping

logger: logging.Logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds within which a loop has to stop.
_STOP_TIMEOUT_S = 10.0

_here = threading.local()


def check_may_wait() -> None:
    """Raise if the caller runs on a client's own thread: waiting there would wait for itself.

    Raises:
        RuntimeError: it is called in a callback.
    """
    if getattr(_here, "is_client_thread", False):
        raise RuntimeError("a callback of the client's runs on the client's own thread and cannot wait for it")


class _Loop(asyncio.SelectorEventLoop):
    """Resolves names also while the interpreter shuts down, when no threads can be started any more. Gives the interpreter
    to the caller's threads when there is nothing to do, not for each read and write."""

    def _make_socket_transport(self, sock: socket.socket, *arguments: Any, **options: Any) -> Any:
        return super()._make_socket_transport(keeping(sock), *arguments, **options)  # type: ignore[misc]

    def _make_self_pipe(self) -> None:
        super()._make_self_pipe()  # type: ignore[misc]
        self._wakes = bytearray(4096)

    def _read_from_self(self) -> None:
        # asyncio's reads until nothing is left, by calls that give the interpreter away. One is enough: if there is
        # more, the selector says so again.
        if sockets.extension is None:
            super()._read_from_self()  # type: ignore[misc]
            return
        with suppress(BlockingIOError, InterruptedError):
            sockets.extension.receive_into(self._ssock.fileno(), self._wakes)  # type: ignore[attr-defined]

    def _write_to_self(self) -> None:
        # By one of the caller's threads: it goes on, and gives the interpreter away when it waits.
        if sockets.extension is None:
            super()._write_to_self()  # type: ignore[misc]
            return
        with suppress(OSError, AttributeError):  # it is full, which wakes as well, or the loop is closed
            sockets.extension.send(self._csock.fileno(), b"\0")  # type: ignore[attr-defined]

    async def getaddrinfo(self, host: Any, port: Any, **options: int) -> Any:
        try:
            return await super().getaddrinfo(host, port, **options)
        except RuntimeError:
            return socket.getaddrinfo(host, port, **options)


class LoopThread:
    """One daemon thread that runs one event loop until `stop`."""

    def __init__(self, name: str) -> None:
        self._loop = _Loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        _here.is_client_thread = True
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            try:
                self._loop.run_until_complete(self._loop.shutdown_default_executor())
            except RuntimeError:
                pass  # it needs a thread, and the interpreter shuts down
            self._loop.close()

    def call(self, function: Callable[[], T]) -> T:
        """Run a function on the loop and return what it returns."""

        async def run() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(_STOP_TIMEOUT_S)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and return what it returns; a wait that is interrupted (Ctrl-C) cancels it."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stop(self, last: Coroutine[Any, Any, None]) -> None:
        """Run a last coroutine, end the loop and the thread."""
        future = asyncio.run_coroutine_threadsafe(last, self._loop)
        try:
            future.result(_STOP_TIMEOUT_S)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_STOP_TIMEOUT_S)

    def stop_soon(self, last: Coroutine[Any, Any, None]) -> None:
        """Do as `stop`, without waiting."""

        async def run() -> None:
            try:
                await last
            finally:
                self._loop.stop()

        asyncio.run_coroutine_threadsafe(run(), self._loop)


class Closeable(Protocol):
    """A client that has a thread."""

    def _close_at_exit(self) -> None: ...


_running: weakref.WeakSet[Closeable] = weakref.WeakSet()


def register(client: Closeable) -> None:
    """Close a client at the end of the process if it still runs then."""
    _running.add(client)


def forget(client: Closeable) -> None:
    """The client is closed."""
    _running.discard(client)


@atexit.register
def _close_all() -> None:
    for client in list(_running):
        try:
            client._close_at_exit()
        except Exception:
            logger.exception("a client that was not closed could not be closed at the end of the process")
