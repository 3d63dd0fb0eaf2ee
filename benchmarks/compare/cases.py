"""The table of cases: one entry each, what it runs, for whom, how often, how long it takes and when its turn is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from benchmarks.compare import footprint, growth, latency, limit, service, traffic
from benchmarks.compare.arena import KAFKA, OTTLA, Figures

BOTH = (OTTLA, KAFKA)
STARRED, OTHERS, ONCE = 5, 2, 1


@dataclass(frozen=True, kw_only=True)
class Case:
    """One measurement that is made alike for every contestant.

    `run` takes the arena, the contestant's name and the parameters. `seconds` is what one pair takes on two cores at scale 1,
    for the plan only. Cases with `late` are long and come after everything else.
    """

    name: str
    run: Callable[..., Figures]
    parameters: Mapping[str, object] = field(default_factory=dict)
    contestants: tuple[str, ...] = BOTH
    pairs: int = OTHERS
    seconds: float = 15.0
    late: bool = False
    needs_compiler: bool = False


def _traffic() -> Iterator[Case]:
    for size in 1000, 100, 10_000:
        for batches in "default", "tuned":
            for acks in "all", "1":
                yield Case(
                    name=f"produce/{size}B/acks={acks}/{batches}",
                    run=traffic.produce_and_consume,
                    parameters={
                        "size": size,
                        "acks": acks,
                        "batches": batches,
                        "codec": "none",
                        "share": 1.0,
                        "read": acks == "all",
                    },
                    pairs=STARRED if size == 1000 or batches == "tuned" else OTHERS,
                    seconds=14 if acks == "all" else 9,
                )
    for codec in "lz4", "zstd":
        for size in 1000, 100, 10_000:
            for batches in "default", "tuned":
                for acks in "all", "1":
                    yield Case(
                        name=f"produce/{size}B/acks={acks}/{batches}/{codec}",
                        run=traffic.produce_and_consume,
                        parameters={
                            "size": size,
                            "acks": acks,
                            "batches": batches,
                            "codec": codec,
                            "share": 0.5,
                            "read": False,
                        },
                        seconds=7,
                    )
    yield Case(name="librdkafka-produce/1000B", run=traffic.librdkafka_produce, parameters={"size": 1000}, seconds=8)
    yield Case(
        name="crowd/8+8",
        run=traffic.crowd,
        parameters={"producers": 8, "consumers": 8, "partitions": 64, "size": 1000},
        pairs=STARRED,
        seconds=18,
    )


def _latency() -> Iterator[Case]:
    for client in "raw", "java":
        yield Case(
            name=f"one-record/{client}",
            run=latency.one_record_per_request,
            parameters={"client": client},
            pairs=STARRED,
            seconds=12,
        )
    for connections in 1, 16, 256:
        yield Case(
            name=f"service/{connections}",
            run=service.service_time,
            parameters={"connections": connections, "size": 100},
            pairs=STARRED,
            seconds=16,
            needs_compiler=True,
        )
    yield Case(
        name="end-to-end/1000-per-s",
        run=latency.end_to_end,
        parameters={"rate": 1000, "size": 100, "partitions": 1},
        pairs=STARRED,
        seconds=25,
    )
    yield Case(
        name="end-to-end/half",
        run=latency.end_to_end,
        parameters={"rate": 0, "size": 1000, "partitions": 4},
        seconds=40,
    )
    yield Case(
        name="flush/16-producers",
        run=latency.flush_every_message,
        parameters={"producers": 16, "size": 1000},
        contestants=(OTTLA, KAFKA, "kafka without fsync", "ottla without fsync"),
        pairs=STARRED,
        seconds=30,
    )
    for work in "compaction", "deletion":
        yield Case(name=f"beside/{work}", run=latency.beside_background_work, parameters={"work": work}, seconds=90)


def _footprint() -> Iterator[Case]:
    yield Case(name="start", run=footprint.start_and_restart, pairs=STARRED, seconds=17)
    yield Case(name="distance", run=limit.distance, contestants=(OTTLA, KAFKA, limit.LIMIT), pairs=STARRED, seconds=16,
               needs_compiler=True)  # fmt: skip
    yield Case(
        name="memory/connections",
        run=footprint.memory_with_connections,
        parameters={"connections": 5000},
        seconds=25,
    )
    yield Case(
        name="restart/dirty-log", run=footprint.restart_with_dirty_log, parameters={"bytes_dirty": 1e9}, seconds=30
    )
    yield Case(
        name="memory/partitions",
        run=footprint.memory_with_partitions,
        parameters={"partitions": 10_000},
        seconds=90,
    )
    yield Case(
        name="restart/partitions",
        run=footprint.restart_with_partitions,
        parameters={"partitions": 5000},
        seconds=150,
    )
    yield Case(
        name="memory/traffic",
        run=footprint.memory_after_traffic,
        parameters={"gigabytes": 20},
        seconds=220,
        late=True,
    )


def _growth() -> Iterator[Case]:
    for what, run, points, seconds in (
        ("partitions", growth.partitions, (10, 100, 1000, 10_000), 40),
        ("segments", growth.segments, (1, 10, 100, 1000), 30),
        ("connections", growth.connections, (10, 100, 1000, 5000), 30),
        ("groups", growth.groups, (10, 100, 1000, 10_000), 30),
        ("length", growth.length, (10, 100, 1000), 25),
    ):
        yield Case(
            name=f"growth/{what}",
            run=run,
            parameters={"points": points},
            contestants=(OTTLA,),
            pairs=ONCE,
            seconds=seconds,
            late=True,
        )


CASES: tuple[Case, ...] = (*_traffic(), *_latency(), *_footprint(), *_growth())
