"""What programs with a live page share: the command line, a broker and an application in processes of their own, one end.

A program says what it is (`Program`) and calls `main(program)`. SIGINT, SIGTERM and SIGHUP raise `Ended` in it, so that
every `with` is left and nothing stays behind. The exit code is 0 if `play` says that all is right, 1 if not, and 128 plus
the number of the signal.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from types import FrameType
from typing import Any, NamedTuple

from flights import own_broker
from live_page import LivePage, Snapshot

import ottla
from ottla.streams import App

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Seconds without news of the application after which it is given up.
PATIENCE_S = 60
#: Of the broker: a group does not wait for company before its first member begins, and may notice a death after a second.
OPTIONS = ("-X", "group.initial.rebalance.delay.ms=0", "-X", "group.min.session.timeout.ms=1000")


class Ended(Exception):
    """A signal ends the program."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program: its name, `__doc__`, page, application, and what it does.

    `make_app(servers, state_dir)` is called in a process of its own. `play(page, options)` says whether all is right.
    """

    name: str
    doc: str | None
    title: str
    about: str
    legend: list[str]
    seconds: float
    make_app: Callable[[str, str], App]
    play: Callable[[LivePage, argparse.Namespace], bool]
    add_options: Callable[[argparse.ArgumentParser], object] = lambda parser: None


class Event(NamedTuple):
    """A record to send: when, in the time that is played, and the record. Its time is `time_ms`, or when it is sent."""

    sent_ms: int
    topic: str
    key: str
    value: Any
    time_ms: int | None = None


class Application:
    """A stream application in processes of its own, its instances, beside its broker at `servers`.

    Attributes:
        deaths: how many instances were killed.
        endpoints: where each instance answers questions about its state, if it was started so.
    """

    def __init__(self, name: str, servers: str, directory: str, endpoints: list[str], stack: ExitStack) -> None:
        self.servers = servers
        self.deaths = 0
        self.endpoints = endpoints
        self._name = name
        self._directory = directory
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._stack = stack
        self._readers: dict[str, ottla.Consumer[Any, Any]] = {}

    def start(self, number: int) -> None:
        """Start an instance: a process with a state directory of its own, as if on another machine."""
        state = os.path.join(self._directory, str(number))
        command = [sys.executable, os.path.abspath(sys.argv[0]), "--application", self.servers, "--state", state]
        if self.endpoints:
            command += ["--endpoint", self.endpoints[number]]
        # A process group of its own: Ctrl-C in a terminal goes to this process, which ends the other one in its turn.
        self._processes[number] = subprocess.Popen(command, process_group=0)

    def kill(self, number: int) -> None:
        """End an instance at once, whatever it is at; it can be started again."""
        process = self._processes.pop(number)
        process.kill()
        process.wait()
        self.deaths += 1

    def end(self) -> None:
        """End all instances: they commit, and leave."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()

    def check(self) -> None:
        """End the program with a sentence if a process has ended by itself."""
        for process in self._processes.values():
            if process.poll() is not None:
                raise SystemExit(f"{self._name}: the application has ended with code {process.returncode}")

    def wait_until(self, is_there: Callable[[], bool], read: Callable[[], bool]) -> None:
        """Call `read` until all `is_there`, or it had no news for long."""
        newest = time.monotonic()
        while not is_there() and time.monotonic() < newest + PATIENCE_S:
            self.check()
            if read():
                newest = time.monotonic()

    def read(self, topic: str, timeout: float = 0.05) -> list[Any]:
        """Return the records that were committed to a topic since the last call: keys are text, values JSON."""
        if topic not in self._readers:
            self._readers[topic] = self._stack.enter_context(results(self.servers, topic))
        return list(self._readers[topic].poll(10_000, timeout=timeout))

    def ask(self, path: str) -> Any:
        """Ask the first instance for state, over HTTP; None while it starts, or the state moves between instances.

        What other instances have, it asks there: ask("/stores/fleet?limit=1000").
        """
        try:
            with urllib.request.urlopen(f"http://{self.endpoints[0]}{path}", timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                if error.code != HTTPStatus.SERVICE_UNAVAILABLE:
                    raise SystemExit(f"{self._name}: {path} was answered with {error}") from error
        except OSError:
            self.check()
        return None

    def play(self, events: Iterable[Event], seconds: float, is_complete: Callable[[], bool]) -> Iterator[Moment]:
        """Send events at the pace at which they happen, made so much faster that they take `seconds`.

        Yields again and again while it does so, and after the last event until everything is there, as `is_complete` says,
        or for a minute. Values that are no text are sent as JSON; None deletes.
        """
        waiting = sorted(events, key=lambda event: event.sent_ms)
        first_ms, last_ms = waiting[0].sent_ms, waiting[-1].sent_ms
        begun, sent, deadline = time.monotonic(), 0, 0.0
        with ottla.Producer(self.servers) as producer:
            while sent < len(waiting) or (not is_complete() and time.monotonic() < deadline):
                self.check()
                progress = min(1.0, (time.monotonic() - begun) / seconds)
                now_ms = first_ms + int((last_ms - first_ms) * progress)
                while sent < len(waiting) and waiting[sent].sent_ms <= now_ms:
                    _send(producer, waiting[sent])
                    sent += 1
                    deadline = time.monotonic() + PATIENCE_S
                yield Moment(now_ms, sent, progress)
            producer.flush()


class Moment(NamedTuple):
    """How far a play is: the time that is played, events sent, and a number from 0 to 1."""

    now_ms: int
    sent: int
    progress: float


@contextmanager
def running(
    name: str,
    *,
    instances: int = 1,
    with_questions: bool = False,
    before: Iterable[Event] = (),
    **topics: dict[str, Any],
) -> Iterator[Application]:
    """Start a broker with `topics` (what `Admin.create_topic` is given for each) and the application; end both.

    `with_questions`: each instance answers questions about its state, over HTTP on this machine. `before`: what is in the
    topics before the application starts.
    """
    endpoints = [f"127.0.0.1:{free_port()}" for _ in range(instances)] if with_questions else []
    with (
        own_broker("--log-level", "warning", *OPTIONS) as servers,
        tempfile.TemporaryDirectory(prefix=f"ottla-{name}-") as directory,
        ExitStack() as stack,
    ):
        with ottla.Admin(servers) as admin:
            for topic, settings in topics.items():
                admin.create_topic(topic, **settings)
        with ottla.Producer(servers) as producer:
            for event in before:
                _send(producer, event)
            producer.flush()
        application = Application(name, servers, directory, endpoints, stack)
        try:
            for number in range(instances):
                application.start(number)
            yield application
        finally:
            application.end()


def _send(producer: ottla.Producer[Any, Any], event: Event) -> None:
    time_ms = event.sent_ms if event.time_ms is None else event.time_ms
    value = event.value if isinstance(event.value, str | None) else json.dumps(event.value)
    producer.send(event.topic, value, key=event.key, timestamp=time_ms)


def yesterday(hour: int) -> int:
    """Return an hour of yesterday, UTC, in ms: what is simulated happened then, so that no topic's retention deletes it."""
    today = datetime.now(UTC).replace(hour=hour, minute=0, second=0, microsecond=0)
    return int((today - timedelta(days=1)).timestamp() * 1000)


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def results(servers: str, topic: str) -> ottla.Consumer[Any, Any]:
    """Return a reader of what the application has committed to a topic: keys are text, values JSON."""
    return ottla.Consumer(
        servers,
        topics=[topic],
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        key_deserializer=ottla.serde.string,
        value_deserializer=ottla.serde.json(),
    )


def main(program: Program) -> int:
    """Run the program, or its application if this process is for that; return the exit code."""
    parser = argparse.ArgumentParser(
        prog=program.name, description=program.doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=_seconds, default=program.seconds, help="how long it plays (default: %(default)s)"
    )
    parser.add_argument("--port", type=int, default=0, help="of the page, on this machine (default: any free one)")
    parser.add_argument("--seed", type=int, default=7, help="of the dice, where something is simulated")
    parser.add_argument("--stay", action="store_true", help="keep the page at the end, until Ctrl-C")
    parser.add_argument("--application", metavar="HOST:PORT", help=argparse.SUPPRESS)
    parser.add_argument("--state", help=argparse.SUPPRESS)
    parser.add_argument("--endpoint", help=argparse.SUPPRESS)
    program.add_options(parser)
    options = parser.parse_args()
    if options.application:
        app = program.make_app(options.application, options.state)
        if options.endpoint:
            app.settings["application_server"] = options.endpoint
        app.run()
        return 0
    try:
        page = LivePage(options.port, program.title, program.about, program.legend)
    except (OSError, OverflowError) as error:
        parser.error(f"--port {options.port}: {error}")
    for number in _SIGNALS:
        signal.signal(number, _end)
    try:
        print(f"The page is at {page.address}", flush=True)
        page.show(Snapshot(status="starting a broker"))
        is_right = program.play(page, options)
        if options.stay:
            print("The page stays until Ctrl-C.", flush=True)
            while True:
                signal.pause()
    except Ended as ended:
        number = ended.args[0]
        print(f"{program.name}: ended by {signal.Signals(number).name}", file=sys.stderr)
        return 128 + int(number)
    finally:
        page.close()
    return 0 if is_right else 1


def _end(number: int, frame: FrameType | None) -> None:
    for other in _SIGNALS:
        signal.signal(other, signal.SIG_IGN)  # what is under way now is the end
    raise Ended(number)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 86400")
    return seconds
