"""Break three brokers, their coordination service, network, disks and clocks under load, and see that nothing is lost.

    python -m tests.campaigns.faults --faults 300                      ottla on three ZooKeeper servers
    python -m tests.campaigns.faults --faults 30 --system kafka        Apache Kafka 4.3 (KRaft), the same faults
    python -m tests.campaigns.faults --table                           what has been found so far, as Markdown

Machines are network namespaces; needs root, Linux, Java, a C compiler, and what CONTRIBUTING.md says of the anchors. Goes on
where the state file ends, in rounds of about 40 faults on a cluster of their own. Every kind of fault comes before one comes
twice. After each fault everything is mended, all partitions must have their leader and all replicas in sync again, and every
partition must acknowledge a record. At the end of a round:

* every acknowledged record is there, at the offset that was acknowledged, once, and each producer's records are in order;
* what a consumer has read at any time is there, where it read it;
* VerifiableConsumer's group has consumed every acknowledged record of its topic;
* the replicas hold the same bytes below the high watermark (the cleaner is off);
* the history of transactions, their readers and two groups (`tests.campaigns.transactors`) has none of the anomalies that
  `tests.campaigns.history` calls NEVER.

In odd rounds records are synced before they are acknowledged (flush.messages=1), and the power of all brokers may be cut.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from confluent_kafka import KafkaException
from tests.campaigns import network as networks
from tests.campaigns.arena import WHOLE_TIMEOUT_S, Arena
from tests.campaigns.history import Done, Resume, anomalies, oddities
from tests.campaigns.kinds import KINDS, kinds_of
from tests.campaigns.load import complaints, everything
from tests.campaigns.systems import BROKERS, SYSTEMS, System
from tests.campaigns.transactors import Transactors
from tests.soak.seeds import commit

STATE = Path("build/campaigns/faults-{}.json")
FAULTS_PER_ROUND = 40


@dataclass
class Fault:
    """One fault and what followed."""

    kind: str
    victims: list[int]
    #: How long it lasted, and after that until all replicas were in sync and all partitions took records.
    held_s: float
    whole_s: float
    #: The longest time in which no record of a partition was acknowledged, over all partitions.
    silence_s: float
    #: How many processes of brokers ended by themselves and were started again.
    ended: int = 0


@dataclass
class Round:
    """One cluster's life and its verdict."""

    seed: int
    synced: bool
    commit: str
    faults: list[Fault] = field(default_factory=list)
    acknowledged: int = 0
    redelivered: int = 0
    consumers_started: int = 0
    wrong: dict[str, int] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    #: What transactions, readers and groups did, and what of it was odd.
    history: dict[str, int] = field(default_factory=dict)


def run_round(system: str, seed: int, kinds: list[str], report: Callable[[str], None]) -> Round:
    """Run some faults on a cluster of their own; return the verdict."""
    found = Round(seed, synced=seed % 2 == 1, commit=commit())
    arena = Arena(system, seed, synced=found.synced)
    try:
        arena.system.start()
        _persist(arena.load.create_topics)
        _persist(arena.transactors.create_topic)
        arena.load.start()
        arena.transactors.start()
        arena.until_whole()
        ledger = arena.load.ledger
        for name in kinds:
            began = time.monotonic()
            ledger.longest_silence.clear()
            victims = KINDS[name](arena)
            held = time.monotonic() - began
            arena.mend()
            try:
                whole = arena.until_whole()
            except TimeoutError as error:
                found.complaints.append(f"after {name} of {victims}: {error}: {arena._partitions()}")
                whole = WHOLE_TIMEOUT_S
            ended = sum(arena.ended.values())
            arena.ended.clear()
            fault = Fault(name, victims, round(held, 2), round(whole, 2), round(ledger.silence_s, 2), ended)
            found.faults.append(fault)
            report(f"{fault}")
            if found.complaints or ledger.complaints:
                break
        arena.load.stop()
        arena.transactors.stop()
        found.acknowledged = ledger.count
        found.redelivered, found.consumers_started = ledger.redelivered, ledger.consumers_started
        records = everything(arena.system.bootstrap, arena.load.places)
        found.wrong = dict(complaints(ledger, records))
        _judge(arena.transactors, found)
        for broker in arena.system.brokers.values():
            broker.terminate()
        if unequal := unequal_replicas(arena.system):
            found.wrong["unequal replicas"] = len(unequal)
            found.complaints.append(f"replicas differ: {unequal}")
        found.complaints += ledger.complaints + arena.transactors.complaints
        if (found.complaints or found.wrong) and os.environ.get("CAMPAIGN_KEEP"):
            keep_logs(arena)
    finally:
        arena.close()
    return found


def keep_logs(arena: Arena) -> None:
    """Copy the disks beside themselves before they are unmounted."""
    for n, disk in arena.disks.items():
        shutil.copytree(disk.path, arena.directory / f"kept{n}", dirs_exist_ok=True)


def _judge(transactors: Transactors, found: Round) -> None:
    """Look for what must never be in the history of transactions, readers and groups."""
    history = transactors.history
    logs = everything(transactors.bootstrap, transactors.places)
    found.wrong |= dict(+anomalies(history, logs))
    found.history = {
        **Counter(f"transactions: {one.outcome.value}" for one in history.transactions),
        "sends": sum(len(one.sends) for one in history.transactions),
        "transactions that read first": sum(bool(one.reads) for one in history.transactions),
        "records polled": sum(len(poll.rows) for poll in history.polls),
        "commits": sum(isinstance(event, Done) for event in history.group),
        "resumed by a group": sum(isinstance(event, Resume) for event in history.group),
        **{f"odd: {name}": count for name, count in oddities(history, logs).items()},
    }


def _persist(create: Callable[[], None]) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            create()
            return
        except KafkaException:  # the brokers are still starting
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def unequal_replicas(system: System) -> list[str]:
    """Return the partitions of topics whose replicas do not hold the same bytes below the high watermark.

    Brokers stop one after another, and a group's coordinator may write that a member is gone when two have stopped: what
    counts is what all three know to be committed. Apache Kafka's metadata log is no topic.
    """
    logs: dict[str, dict[int, bytes]] = {}
    committed: dict[str, int] = {}
    for n in BROKERS:
        marks = _high_watermarks(system.log_directory(n) / "replication-offset-checkpoint")
        for directory in system.log_directory(n).iterdir():
            is_topic = directory.is_dir() and directory.name != "__cluster_metadata-0"
            if is_topic and (segments := sorted(directory.glob("*.log"))):
                name, mark = directory.name, marks.get(directory.name, 0)
                logs.setdefault(name, {})[n] = b"".join(segment.read_bytes() for segment in segments)
                committed[name] = min(committed.get(name, mark), mark)
    return sorted(
        name
        for name, copies in logs.items()
        if len(copies) < len(BROKERS) or len({_below(copy, committed[name]) for copy in copies.values()}) > 1
    )


def _high_watermarks(checkpoint: Path) -> dict[str, int]:
    """Return a broker's high watermarks by partition, from the file it leaves when it stops."""
    rows = (line.split() for line in checkpoint.read_text().splitlines()[2:])
    return {f"{topic}-{partition}": int(offset) for topic, partition, offset in rows}


def _below(log: bytes, offset: int) -> bytes:
    """Return the batches that begin below an offset."""
    position = 0
    while position < len(log):
        base, length = struct.unpack_from(">qi", log, position)
        if base >= offset:
            break
        position += 12 + length
    return log[:position]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--system", choices=sorted(SYSTEMS), default="ottla")
    parser.add_argument("--faults", type=int, default=300, help="how many, those of the state file included")
    parser.add_argument("--state", type=Path, help=f"default {STATE}")
    parser.add_argument("--per-round", type=int, default=FAULTS_PER_ROUND, help="how many on one cluster")
    parser.add_argument("--rounds", type=int, default=1_000, help="at most so many rounds now")
    parser.add_argument("--only", help="only kinds of faults whose name has this in it; noted in no state file")
    parser.add_argument("--seed", type=int, help="with --only: of the round")
    parser.add_argument("--table", action="store_true", help="print the results, run nothing")
    parser.add_argument("--round", dest="plan", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.plan:
        return _run_here(json.loads(asked.plan))
    path = asked.state or Path(str(STATE).format(asked.system))
    rounds = [_round(row) for row in json.loads(path.read_text())] if path.exists() else []
    if asked.table:
        print(table(asked.system, rounds))
        return 0
    if reason := networks.missing():
        raise SystemExit(reason)
    if asked.only:
        kinds = [kind for kind in kinds_of(asked.system) if asked.only in kind]
        print(_run_elsewhere(asked.system, asked.seed or 0, kinds * max(1, asked.faults // max(1, len(kinds)))))
        return 0
    for _ in range(asked.rounds):
        done = sum(len(one.faults) for one in rounds)
        if done >= asked.faults:
            break
        count = min(asked.per_round, asked.faults - done)
        found = _run_elsewhere(asked.system, len(rounds), next_kinds(asked.system, done, count))
        rounds.append(found)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([asdict(one) for one in rounds], indent=1) + "\n")
        done += len(found.faults)
        print(
            f"round {len(rounds)}: {done} faults, {found.acknowledged} acknowledged, {found.wrong} {found.complaints}"
        )
    print(table(asked.system, rounds))
    return 1 if any(one.wrong or one.complaints for one in rounds) else 0


def next_kinds(system: str, done: int, count: int) -> list[str]:
    """Return the faults after the first `done`: all kinds in an order of chance, then all again in another."""
    kinds = kinds_of(system)
    found: list[str] = []
    for n in range(done // len(kinds), (done + count) // len(kinds) + 1):
        found += random.Random(n).sample(kinds, len(kinds))
    first = done % len(kinds)
    return found[first : first + count]


def _run_elsewhere(system: str, seed: int, kinds: list[str]) -> Round:
    """Run a round in a process of its own, whose threads and clients end with it."""
    plan = json.dumps({"system": system, "seed": seed, "kinds": kinds})
    command = [sys.executable, "-m", "tests.campaigns.faults", "--round", plan]
    with tempfile.NamedTemporaryFile("r", suffix=".json") as answer:
        subprocess.run(command, check=True, env={**os.environ, "CAMPAIGN_ANSWER": answer.name})
        return _round(json.loads(answer.read()))


def _run_here(plan: dict[str, object]) -> int:
    """Run the round that another process has planned, on the network of the clients."""
    found = run_round(
        str(plan["system"]),
        int(str(plan["seed"])),
        list(plan["kinds"]),  # type: ignore[call-overload]
        lambda line: print(line, flush=True),
    )
    Path(os.environ["CAMPAIGN_ANSWER"]).write_text(json.dumps(asdict(found)))
    return 0


def _round(row: dict[str, object]) -> Round:
    faults = [Fault(**fault) for fault in row.pop("faults")]  # type: ignore[attr-defined]
    return Round(**row, faults=faults)  # type: ignore[arg-type]


def table(system: str, rounds: list[Round]) -> str:
    """Return the results as Markdown."""
    faults = [fault for one in rounds for fault in one.faults]
    wrong: Counter[str] = Counter()
    for one in rounds:
        wrong.update(one.wrong)
    lines = [
        f"{system}: {len(faults)} faults in {len(rounds)} rounds, {sum(one.acknowledged for one in rounds):,} records "
        f"acknowledged; wrong: {dict(wrong) or 'nothing'}; commits {', '.join(dict.fromkeys(r.commit for r in rounds))}",
        "",
        "| fault | times | silence, median (s) | longest | whole again, median (s) | longest |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for kind in sorted({fault.kind for fault in faults}):
        own = [fault for fault in faults if fault.kind == kind]
        silence, whole = [fault.silence_s for fault in own], [fault.whole_s for fault in own]
        cells = [f"{statistics.median(row):.1f} | {max(row):.1f}" for row in (silence, whole)]
        lines.append(f"| {kind} | {len(own)} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
