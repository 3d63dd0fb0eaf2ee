"""`App.run()`: one instance in this process, until a signal ends it."""

from __future__ import annotations

import atexit
import logging
import signal
import threading
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Final, Protocol

from ottla.streams.queries.desk import Desk
from ottla.streams.runtime.settings import StreamsSettings, read_settings
from ottla.streams.runtime.worker import Application, Worker

logger: logging.Logger = logging.getLogger(__name__)

#: Seconds that the end of the process waits for an instance in a daemon thread.
_END_S: Final = 10.0


class ConfiguredApplication(Application, Protocol):
    """An application with its configuration, as `ottla.streams.App` has it."""

    @property
    def bootstrap_servers(self) -> str | None:
        """Where the cluster is; None: where KAFKA_BOOTSTRAP_SERVERS says."""
        ...

    @property
    def processing_guarantee(self) -> str:
        """Kafka's key of that name."""
        ...

    def on_desk(self, desk: Desk | None) -> None:
        """Keep what answers questions about the state of this instance; None: it does not run any more."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """Keys with _ for ., and `config`."""
        ...


class RunnableApplication(ConfiguredApplication, Protocol):
    """One that knows what runs of it."""

    def on_run(self, stop: Callable[[], None]) -> None:
        """Keep what stops the instance that begins now."""
        ...

    def on_end(self, stop: Callable[[], None]) -> None:
        """That instance has ended."""
        ...


def settings_of(app: ConfiguredApplication, overrides: Mapping[str, Any] | None = None) -> StreamsSettings:
    """Return an application's settings: its keywords, its `config=`, and `overrides` above them.

    Raises:
        ConfigurationError: a key is unknown, or has a value it cannot have.
    """
    given = dict(app.settings)
    config: dict[str, Any] = dict(given.pop("config", None) or {})
    config.update({name.replace("_", "."): value for name, value in given.items()})
    if app.bootstrap_servers is not None:
        config["bootstrap.servers"] = app.bootstrap_servers
    config["processing.guarantee"] = app.processing_guarantee
    config.update(overrides or {})
    return read_settings(app.application_id, config)


def run(
    app: RunnableApplication,
    *,
    overrides: Mapping[str, Any] | None = None,
    on_progress: Callable[[int, int], object] | None = None,
    on_tasks: Callable[[int], object] | None = None,
    on_server: Callable[[str], object] | None = None,
) -> None:
    """Run one instance until SIGTERM, SIGINT or `App.stop()`: it commits, hands its tasks over, leaves the group, returns.

    In a thread other than the main one signals are not listened to. There the end of the process ends it in the same way, if
    the thread is a daemon (Python waits for other threads), and `App.stop()`.

    Raises:
        StreamsError, KafkaError: it cannot go on. What was not committed comes again at the next start.
    """
    worker = Worker(
        app,
        settings_of(app, overrides),
        on_progress=on_progress,
        on_tasks=on_tasks,
        on_desk=app.on_desk,
        on_server=on_server,
    )
    app.on_run(worker.stop)
    try:
        _run(worker)
    finally:
        app.on_end(worker.stop)


def _run(worker: Worker) -> None:
    if threading.current_thread() is not threading.main_thread():
        _run_beside(worker)
        return
    before = {number: signal.signal(number, lambda *_: worker.stop()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        worker.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run_beside(worker: Worker) -> None:
    """Run in a thread that is not the main one; at the end of the process the instance is stopped before its clients are."""
    done = threading.Event()

    def end() -> None:
        worker.stop()
        if not done.wait(_END_S):
            logger.warning("the instance did not stop within %g s: what is not committed comes again", _END_S)

    import_module("ottla.client.background")  # it closes clients at the end; what was registered later runs earlier
    atexit.register(end)
    try:
        worker.run()
    finally:
        done.set()
        atexit.unregister(end)
