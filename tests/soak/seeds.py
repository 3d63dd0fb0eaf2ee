"""Run thousands of seeds of a simulation; stop at the first that fails, go on another time.

    python -m tests.soak.seeds transactions --count 10000 --state build/transactions.json
    python -m tests.soak.seeds transactions --from 123 --count 1      # one seed again

A state file remembers the next seed and the counters; without one nothing is remembered. Ends with 1 if a seed failed (it is
printed, and is the first of the next run) and if a counter of the simulation's `COVERAGE` stayed zero. With --keep-going a
seed that failed is printed and noted in the state file, and the next one is run. A simulation that
is new gets a line in `SIMULATIONS`; what it must offer is said in `tests.support.seeds`.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import logging
import multiprocessing
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType

from tests.support.seeds import missing, run_checked, summary

SIMULATIONS = {
    "broker": "tests.simulation.test_simulation",
    "cluster": "tests.cluster.test_histories",
    "replication": "tests.replication.test_cluster_simulation",
    "broker-transactions": "tests.simulation.test_transactions",
    "client-producer": "tests.client.core.test_producer_simulation",
    "client-fetching": "tests.client.core.test_fetch_simulation",
    "client-groups": "tests.client.core.test_group_simulation",
    "client-transactions": "tests.client.core.test_producer_transactions_simulation",
    "client-shares": "tests.client.core.test_share_simulation",
    "classic-groups": "tests.broker.coordinators.test_group_simulation",
    "consumer-groups": "tests.broker.coordinators.test_consumer_simulation",
    "streams-groups": "tests.broker.coordinators.test_streams_simulation",
    "streams-members": "tests.streams.runtime.test_streams_group_simulation",
    "streams-assignor": "tests.streams.runtime.test_assignor_simulation",
    "transactions": "tests.broker.coordinators.test_transaction_simulation",
    "share": "tests.broker.share.test_share_simulation",
    "connect-groups": "tests.connect.test_group_simulation",
    "share-groups": "tests.broker.coordinators.test_share_group_simulation",
}

#: Seeds that one process runs before it reports.
CHUNK = 20


@dataclass
class State:
    """How far a run has come."""

    simulation: str
    first: int
    next: int
    cpu_seconds: float = 0.0
    counters: dict[str, int] = field(default_factory=dict)
    #: Of the repository, one after the other, at which seeds were run.
    commits: list[str] = field(default_factory=list)
    #: Seeds that failed and were left behind with --keep-going.
    failed: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class ChunkResult:
    """What one process says of its seeds; `done` is how many of them passed."""

    done: int
    counters: Counter[str]
    cpu_seconds: float
    failure: str | None


def run_chunk(module: str, seeds: range) -> ChunkResult:
    """Run some seeds up to the first that fails."""
    simulation = importlib.import_module(module)
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # failing logs are what the simulations are made of
    gc.collect()
    gc.freeze()  # modules need not be looked at again and again: a tenth to a fifth of the time
    try:
        return _run(simulation, seeds)
    finally:
        gc.unfreeze()
        logging.disable(before)


def _run(simulation: ModuleType, seeds: range) -> ChunkResult:
    counters: Counter[str] = Counter()
    begun = time.process_time()
    for index, seed in enumerate(seeds):
        try:
            counters.update(run_checked(simulation, seed))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            return ChunkResult(index, counters, time.process_time() - begun, traceback.format_exc())
    return ChunkResult(len(seeds), counters, time.process_time() - begun, None)


def results(module: str, seeds: range, processes: int) -> Iterator[ChunkResult]:
    """Yield the results of all chunks in the order of their seeds."""
    chunks = [seeds[index : index + CHUNK] for index in range(0, len(seeds), CHUNK)]
    if processes == 1:
        yield from map(partial(run_chunk, module), chunks)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(partial(run_chunk, module), chunks)


def load(path: Path | None, simulation: str, first: int) -> State:
    """Return the state of an earlier run, or a new one."""
    if path is not None and path.exists():
        state = State(**json.loads(path.read_text()))
        if state.simulation != simulation:
            raise SystemExit(f"{path} is the state of {state.simulation}")
        return state
    return State(simulation, first, first)


def save(state: State, path: Path | None) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(".new")
        scratch.write_text(json.dumps(asdict(state), indent=1) + "\n")
        scratch.replace(path)


def commit() -> str:
    """Return the checkout's commit, with a plus if files were changed."""
    done = subprocess.run(["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def run(
    simulation: str, *, first: int, count: int, path: Path | None, processes: int, keeps_going: bool = False
) -> bool:
    """Run seeds `first` to `first + count`, or what is left of them; return whether all passed and everything happened."""
    module = SIMULATIONS[simulation]
    state = load(path, simulation, first)
    if (now := commit()) not in state.commits[-1:]:
        state.commits.append(now)
    counters = Counter(state.counters)
    end = state.first + count
    while state.next < end:
        for result in results(module, range(state.next, end), processes):
            state.next += result.done
            state.cpu_seconds = round(state.cpu_seconds + result.cpu_seconds, 3)
            counters.update(result.counters)
            state.counters = dict(sorted(counters.items()))
            save(state, path)
            if result.failure is not None:
                done = state.next - state.first - len(state.failed)
                print(result.failure)
                print(f"{simulation}: seed {state.next} failed, after {done} that passed", flush=True)
                if not keeps_going:
                    return False
                state.failed.append(state.next)
                state.next += 1
                save(state, path)
                break
    done = state.next - state.first - len(state.failed)
    print(
        f"{simulation}: {done} seeds from {state.first} passed, {state.cpu_seconds:.0f} CPU s, {', '.join(state.commits)}"
    )
    print(f"  {summary(counters)}")
    if state.failed:
        print(f"  failed: {', '.join(map(str, state.failed))}")
    never = list(missing(importlib.import_module(module), counters))
    if never:
        print(f"  never happened: {', '.join(never)}")
    return not never and not state.failed


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.seeds", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("simulation", choices=sorted(SIMULATIONS))
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=10_000, help="how many, those of the state file included")
    parser.add_argument("--state", type=Path, help="file to go on from and to note progress in")
    parser.add_argument("--processes", type=int, choices=(1, 2), default=1)
    parser.add_argument("--keep-going", action="store_true", help="leave a seed that failed behind")
    asked = parser.parse_args(arguments)
    passed = run(
        asked.simulation,
        first=asked.first,
        count=asked.count,
        path=asked.state,
        processes=asked.processes,
        keeps_going=asked.keep_going,
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
