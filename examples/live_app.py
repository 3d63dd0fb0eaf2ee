"""What programs with a live page share: the command line, a broker and an application in processes of their own, one end.

A program says what it is (`Program`) and calls `main(program)`. SIGINT, SIGTERM and SIGHUP raise `Ended` in it, so that
every `with` is left and nothing stays behind. The exit code is 0 if `play` says that all is right, 1 if not, and 128 plus
the number of the signal.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

from flights import own_broker
from live_page import LivePage, Snapshot

import ottla
from ottla.streams import App

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Seconds without news of the application after which it is given up.
PATIENCE_S = 60


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


class Application:
    """A stream application in a process of its own, beside its broker at `servers`."""

    def __init__(self, name: str, servers: str, process: subprocess.Popen[bytes]) -> None:
        self.servers = servers
        self._name = name
        self._process = process

    def check(self) -> None:
        """End the program with a sentence if the process has ended."""
        if self._process.poll() is not None:
            raise SystemExit(f"{self._name}: the application has ended with code {self._process.returncode}")

    def wait_until(self, is_there: Callable[[], bool], read: Callable[[], bool]) -> None:
        """Call `read` until all `is_there`, or it had no news for long."""
        newest = time.monotonic()
        while not is_there() and time.monotonic() < newest + PATIENCE_S:
            self.check()
            if read():
                newest = time.monotonic()


@contextmanager
def running(name: str, **topics: dict[str, Any]) -> Iterator[Application]:
    """Start a broker with `topics` (what `Admin.create_topic` is given for each) and the application; end both."""
    with (
        own_broker("--log-level", "warning") as servers,
        tempfile.TemporaryDirectory(prefix=f"ottla-{name}-") as state_dir,
    ):
        with ottla.Admin(servers) as admin:
            for topic, settings in topics.items():
                admin.create_topic(topic, **settings)
        command = [sys.executable, os.path.abspath(sys.argv[0]), "--application", servers, "--state", state_dir]
        # A process group of its own: Ctrl-C in a terminal goes to this process, which ends the other one in its turn.
        process = subprocess.Popen(command, process_group=0)
        try:
            yield Application(name, servers, process)
        finally:
            process.terminate()  # it commits, and ends
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()


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
    parser.add_argument("--stay", action="store_true", help="keep the page at the end, until Ctrl-C")
    parser.add_argument("--application", metavar="HOST:PORT", help=argparse.SUPPRESS)
    parser.add_argument("--state", help=argparse.SUPPRESS)
    program.add_options(parser)
    options = parser.parse_args()
    if options.application:
        program.make_app(options.application, options.state).run()
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
