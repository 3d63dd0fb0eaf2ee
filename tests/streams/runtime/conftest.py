"""What tests of running applications share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import ottla
from ottla.streams.handlers import Handlers
from ottla.streams.queries.desk import Desk
from ottla.streams.runtime.run import settings_of
from ottla.streams.runtime.worker import Worker
from ottla.streams.timers import Timer
from ottla.streams.topology import Topology
from ottla.testing import Broker


@dataclass
class Application:
    """A topology with a configuration."""

    made: Topology
    bootstrap_servers: str | None
    settings: dict[str, Any]
    application_id: str = "app"
    processing_guarantee: str = "exactly_once_v2"
    handlers: Handlers = field(default_factory=Handlers)
    idle_advance_ms: int | None = None
    timers: Sequence[Timer] = ()

    desk: Desk | None = None

    def topology(self) -> Topology:
        return self.made

    def on_desk(self, desk: Desk | None) -> None:
        self.desk = desk


class Instance:
    """A worker on a thread of its own; what it raised is raised by `stop`."""

    def __init__(self, app: Application) -> None:
        self.app = app
        self.worker = Worker(app, settings_of(app), on_desk=app.on_desk)
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.worker.run()
        except BaseException as error:
            self.error = error

    def stop(self) -> None:
        self.worker.stop()
        self.join()

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive(), "the instance does not end"
        if self.error is not None:
            raise self.error


Start = Callable[..., Instance]
#: Those of the present test.
_instances: list[Instance] = []


@pytest.fixture
def start(kafka_broker: Broker, tmp_path: Path) -> Iterator[Start]:
    """Start instances of an application on the broker of this test; they are stopped at its end."""
    instances = _instances
    instances.clear()

    def start(
        topology: Topology,
        *,
        state: str = "state",
        guarantee: str = "exactly_once_v2",
        timers: Sequence[Timer] = (),
        **settings: Any,
    ) -> Instance:
        app = Application(
            topology,
            kafka_broker.bootstrap_servers,
            {"state_dir": str(tmp_path / state), "producer.linger.ms": 0, **settings},
            processing_guarantee=guarantee,
            timers=timers,
        )
        app.settings["config"] = {name: value for name, value in app.settings.items() if "." in name}
        app.settings = {name: value for name, value in app.settings.items() if "." not in name}
        instances.append(Instance(app))
        return instances[-1]

    yield start
    for instance in instances:
        instance.worker.stop()
    for instance in instances:
        instance._thread.join(30)


def read_committed(broker: str, topic: str) -> dict[str, list[str]]:
    """What readers of committed records see of a topic, by key."""
    found: dict[str, list[str]] = {}
    with ottla.Consumer(
        broker, topics=[topic], auto_offset_reset="earliest", isolation_level="read_committed"
    ) as reader:
        for record in reader.records(until="end"):
            assert record.key is not None
            assert record.value is not None
            found.setdefault(record.key.decode(), []).append(record.value.decode())
    return found


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Wait until something holds; what an instance has raised is raised at once."""
    deadline = time.monotonic() + seconds
    while not condition():
        for instance in _instances:
            if instance.error is not None:
                raise instance.error
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)
