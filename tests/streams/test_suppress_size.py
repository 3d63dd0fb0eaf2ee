"""A suppress buffer lies in the task's store: memory does not grow with what waits. Run alone, it prints what it took."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ottla.streams import App, tumbling
from ottla.streams.context import InputRecord
from ottla.streams.state.overlay import TaskState
from ottla.streams.state.sqlite import SqliteHome
from ottla.streams.task import Task

COUNT = 1_000_000
BATCH = 10_000


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Count `COUNT` keys in one window, suppressed until it closes, then close it."""
    app = App("a")
    counts = app.stream("in", key=str, value=str).group_by_key().windowed_by(tumbling("1d")).count(store="counts")
    counts.suppress("until_window_closes", store="held").to_stream().to("out")
    (sub,) = app.topology().sub_topologies
    with tempfile.TemporaryDirectory() as folder:
        home = SqliteHome(Path(folder))
        for spec in sub.stores:
            home.open_table(spec.name, spec.kind.value)
        state = TaskState({spec.name: home for spec in sub.stores})
        task = Task(
            sub,
            0,
            state.stores,
            application_id="a",
            clock=lambda: 0,
            partition_count=lambda topic: 1,
            handlers=app.handlers,
        )
        before = peak_bytes()
        for number in range(COUNT):
            task.process(InputRecord("in", 0, number, 1_000, b"key %d" % number, b"x"))
            if number % BATCH == BATCH - 1:
                task.flush()
                state.commit({})
        held = task.state("held").count
        grown = peak_bytes() - before
        state.close()
    print(held, grown)


@pytest.mark.soak
def test_suppress_million_keys_bounded_rss() -> None:
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True, timeout=1200)
    held, grown = map(int, done.stdout.split())

    assert held == COUNT
    assert grown < 150 << 20


if __name__ == "__main__":
    main()
