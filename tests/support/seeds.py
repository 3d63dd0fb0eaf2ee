"""What simulations by seed share: what counts as an event, and what a seed must have met to count itself.

A simulation is a module with `run_seed(seed) -> Counter[str]`, whose counters include `events` and `crashes`, and with
`COVERAGE`, the counters that may not stay zero over many seeds. One of a coordinator has at least a thousand events a seed;
one of a whole broker, whose events are deliveries of the network, may say in `EVENTS_MIN` that it has fewer.
`tests.soak.seeds` runs thousands of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Protocol

from ottla.broker.coordinators.runtime import CoordinatorRuntime

EVENTS_MIN = 1_000
#: In so many seeds everything that a simulation counts happens: one test runs them and insists on it.
COVERING = 80
#: How many seeds of each simulation the default run has; `make test-soak` has thousands.
SEEDS = 120
SEEDS_PER_TEST = 20


class Simulation(Protocol):
    """What a module offers."""

    COVERAGE: tuple[str, ...]

    def run_seed(self, seed: int, /) -> Counter[str]: ...


@contextmanager
def watching(
    runtime: CoordinatorRuntime[Any], counter: Counter[str], check: Callable[[], None] | None = None
) -> Iterator[None]:
    """Count what reaches a coordinator: operations (of clients, of markers), timers, ends of appends, lost partitions.

    What a test only reads is no event, nor is an answer. `check` is called after each event; its first complaint is raised
    at the end, since whoever caused the event (a timer, a client that takes errors in its stride) may not pass it on.
    """
    complaints: list[AssertionError] = []

    def counted(inner: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(inner)
        def outer(*arguments: Any, **options: Any) -> Any:
            counter["events"] += 1
            result = inner(*arguments, **options)
            if check is not None and not complaints:
                try:
                    check()
                except AssertionError as error:
                    complaints.append(error)
            return result

        return outer

    def watch(target: Any, names: tuple[str, ...]) -> None:
        for name in names:
            setattr(target, name, counted(getattr(target, name)))

    def count_in_flight(pipeline: Any) -> None:
        on_commit = pipeline._on_commit

        def committed(*arguments: Any) -> None:
            counter["several batches in flight"] += pipeline.uncommitted_count > 1
            on_commit(*arguments)

        pipeline._on_commit = committed

    def watch_pipelines() -> None:
        for held in runtime._held.values():
            if hasattr(held, "pipeline") and held.pipeline not in watched:
                watched.append(held.pipeline)
                watch(held.pipeline, ("_follow_high_watermark", "_on_append_failed", "_break"))
                count_in_flight(held.pipeline)

    watched: list[object] = []
    activate = runtime._activate

    def activated(*arguments: Any) -> None:
        activate(*arguments)
        watch_pipelines()

    runtime._activate = activated  # type: ignore[method-assign,assignment]
    watch_pipelines()
    watch(runtime, ("write", "run", "on_resign", "_on_timer"))
    try:
        yield
    finally:
        if complaints:
            raise complaints[0]


def run_checked(simulation: Simulation, seed: int) -> Counter[str]:
    """Run one seed and insist that enough happened; a failure names the seed."""
    try:
        counters = simulation.run_seed(seed)
        assert counters["events"] >= getattr(simulation, "EVENTS_MIN", EVENTS_MIN), f"only {counters['events']} events"
        assert counters["crashes"] >= 1, "no crash"
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise
    return counters


def run_seeds(simulation: Any, seeds: Iterable[int]) -> Counter[str]:
    """Run seeds and return what happened in them."""
    counters: Counter[str] = Counter()
    for seed in seeds:
        counters.update(run_checked(simulation, seed))
    return counters


def run_covering(simulation: Any, count: int = COVERING) -> None:
    """Run the first seeds, print what happened and insist that everything of `COVERAGE` did."""
    counters = run_seeds(simulation, range(count))
    print(f"\n{count} seeds: {summary(counters)}")
    assert missing(simulation, counters) == []


def further_seeds(first: int = COVERING, end: int = SEEDS) -> list[range]:
    """Return the seeds from `first` up to `end`, in parts of one test each: workers share them."""
    return [range(start, min(start + SEEDS_PER_TEST, end)) for start in range(first, end, SEEDS_PER_TEST)]


def summary(counters: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counters.items()) if count)


def missing(simulation: Simulation, counters: Counter[str]) -> Iterable[str]:
    """Return what never happened."""
    return [name for name in simulation.COVERAGE if not counters[name]]
