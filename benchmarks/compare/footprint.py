"""Cases: what a broker weighs, and how long it takes to be there. Each starts brokers of its own."""

from __future__ import annotations

import time

from benchmarks import idle_connections, restart, start
from benchmarks.compare.arena import KINDS, Arena, Figures, create, delete, resident_mib, written
from benchmarks.compare.traffic import PARTITIONS, REPLAY_RECORDS, drain, fill
from benchmarks.support.wire import Wire, end_offsets, first_ack

STEP = 1e9
QUIET_S = 2.0


def memory_after_traffic(arena: Arena, who: str, *, gigabytes: int) -> Figures:
    """Resident memory after so many GB in and the same out, in steps of a topic each; and after a quarter of it."""
    steps = arena.scaled(gigabytes, least=4)
    step = STEP if arena.scale >= 0.5 else STEP * max(arena.scale, 0.02)
    with arena.fresh(who) as broker:
        figures = {"rss_mib_before": resident_mib(broker)}
        highest = 0.0
        for number in range(1, steps + 1):
            name = f"step-{number}"
            create(broker, name, PARTITIONS)
            fill(broker.port, name, PARTITIONS, step)
            drain(broker.port, name, PARTITIONS, step * 0.9)
            delete(broker, [name])
            highest = max(highest, resident_mib(broker))
            if number == max(1, steps // 4):
                time.sleep(QUIET_S)
                figures["rss_mib_at_a_quarter"] = resident_mib(broker)
        time.sleep(QUIET_S)
        return {**figures, "rss_mib": resident_mib(broker), "rss_mib_highest": highest, "gb": steps * step / 1e9}


def memory_with_partitions(arena: Arena, who: str, *, partitions: int) -> Figures:
    """Resident memory with many partitions, in topics of a thousand."""
    wanted = arena.scaled(partitions, least=100)
    with arena.fresh(who) as broker:
        before = resident_mib(broker)
        began = time.perf_counter()
        for number, first in enumerate(range(0, wanted, 1000)):
            create(broker, f"many-{number}", min(1000, wanted - first))
        seconds = time.perf_counter() - began
        time.sleep(QUIET_S)
        return {"rss_mib": resident_mib(broker), "rss_mib_before": before, "create_s": seconds, "partitions": wanted}


def memory_with_connections(arena: Arena, who: str, *, connections: int) -> Figures:
    """Resident memory with many idle connections."""
    wanted = arena.scaled(connections, least=50)
    with arena.fresh(who) as broker:
        first_ack(broker.port, idle_connections.TOPIC, create=True)
        before = resident_mib(broker)
        idle = idle_connections.open_idle(broker.port, wanted)
        time.sleep(QUIET_S)
        after = resident_mib(broker)
        for wire in idle:
            wire.close()
        return {"rss_mib": after, "rss_mib_before": before, "kib_each": (after - before) * 1024 / wanted}


def start_and_restart(arena: Arena, who: str) -> Figures:
    """From making the process until a record is acknowledged; in a new directory, and once more in the same."""
    del arena
    return start.measure(KINDS[who], 0, idle_s=1.0)


def restart_with_dirty_log(arena: Arena, who: str, *, bytes_dirty: float) -> Figures:
    """Write, kill -9, start: until a record is acknowledged in that topic, and until its end is right."""
    volume = arena.scaled(bytes_dirty, least=20_000_000)
    with arena.fresh(who) as broker:
        create(broker, restart.PROBE, PARTITIONS)
        done = fill(broker.port, restart.PROBE, PARTITIONS, volume)
        records = written(broker, restart.PROBE, PARTITIONS)
        if records != (done.requests + 1) * REPLAY_RECORDS:
            raise RuntimeError(f"{records} records were written, {done.requests + 1} batches sent")
        broker.kill()
        began = broker.spawn()
        acknowledged = first_ack(broker.port, restart.PROBE, create=False, timeout_s=300) - began
        with Wire(broker.port) as wire:
            ends = sum(end_offsets(wire, restart.PROBE, list(range(PARTITIONS))).values())
        if ends != records + 1:
            raise RuntimeError(f"{records} records before the kill, {ends - 1} after it")
        return {"first_ack_s": acknowledged, "gb": done.bytes / 1e9}


def restart_with_partitions(arena: Arena, who: str, *, partitions: int) -> Figures:
    """Until all partitions answer with their ends: after a clean stop, and after kill -9."""
    wanted = arena.scaled(partitions, least=40)
    kind = KINDS[who]
    result = restart.measure(kind, wanted, 1)
    clean, killed = result["clean"][0], result["killed"][0]
    return {
        "clean_all_s": clean["all_s"],
        "clean_first_ack_s": clean["first_ack_s"],
        "killed_all_s": killed["all_s"],
        "killed_first_ack_s": killed["first_ack_s"],
        "clean_cpu_s": clean["cpu_s"],
        "rss_mib": clean["rss_mib"],
    }
