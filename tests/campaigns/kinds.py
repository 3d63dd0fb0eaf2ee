"""All kinds of faults: each breaks something of an arena for a while and returns the numbers of what it broke.

What it leaves broken, `Arena.mend` mends; disks mend themselves, since their broker has to be down for it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from tests.campaigns.arena import Arena
from tests.campaigns.systems import ADDRESSES, BROKERS

ROLES = ("leader", "follower", "controller", "coordinator")
Kind = Callable[[Arena], list[int]]
OnOne = Callable[[Arena, int], None]

#: By name.
KINDS: dict[str, Kind] = {}
ZOOKEEPER = "ZooKeeper"


def kinds_of(system: str) -> list[str]:
    """Return the names of the faults of a system."""
    return [name for name in KINDS if system == "ottla" or ZOOKEEPER not in name]


def kind(name: str) -> Callable[[Kind], Kind]:
    def register(fault: Kind) -> Kind:
        KINDS[name] = fault
        return fault

    return register


def of_each_role(name: str) -> Callable[[OnOne], OnOne]:
    """Register a fault of one broker, for each role that it may have."""

    def register(fault: OnOne) -> OnOne:
        def of(role: str) -> Kind:
            def run(arena: Arena) -> list[int]:
                victim = arena.victim(role)
                fault(arena, victim)
                return [victim]

            return run

        for role in ROLES:
            KINDS[f"{name}, {role}"] = of(role)
        return fault

    return register


def of_any(name: str) -> Callable[[OnOne], OnOne]:
    """Register a fault of one broker, whichever it is."""

    def register(fault: OnOne) -> OnOne:
        def run(arena: Arena) -> list[int]:
            victim = arena.dice.choice(BROKERS)
            fault(arena, victim)
            return [victim]

        KINDS[name] = run
        return fault

    return register


def cut_off(arena: Arena, name: str, others: list[str], *, hears: bool = False, is_heard: bool = False) -> None:
    """Cut a machine off from others, in one direction or both."""
    for other in others:
        if not is_heard:
            arena.network.cut(name, other)
        if not hears:
            arena.network.cut(other, name)


# -- processes


@of_each_role("kill -9")
def _kill(arena: Arena, n: int) -> None:
    arena.system.brokers[n].kill()
    arena.hold()


@of_each_role("SIGSTOP")
def _pause(arena: Arena, n: int) -> None:
    arena.system.brokers[n].signal(signal.SIGSTOP)
    arena.hold()


@kind("kill -9 of two")
def _kill_two(arena: Arena) -> list[int]:
    victims = arena.dice.sample(BROKERS, 2)
    for n in victims:
        arena.system.brokers[n].kill()
    arena.hold()
    return victims


@kind("kill -9 of all")
def _kill_all(arena: Arena) -> list[int]:
    for n in BROKERS:
        arena.system.brokers[n].kill()
    arena.hold()
    return list(BROKERS)


@kind("rolling restart")
def _rolling_restart(arena: Arena) -> list[int]:
    for n in BROKERS:
        arena.system.brokers[n].terminate()
        arena.system.brokers[n].start()
        arena.until_whole()
    return list(BROKERS)


# -- network


@of_each_role("cut off both ways")
def _isolate(arena: Arena, n: int) -> None:
    """Clients still reach it."""
    cut_off(arena, f"b{n}", arena.others(n))
    arena.hold()


@of_each_role("cut off one way")
def _isolate_one_way(arena: Arena, n: int) -> None:
    hears = arena.dice.random() < 0.5
    cut_off(arena, f"b{n}", arena.others(n), hears=hears, is_heard=not hears)
    arena.hold()


@of_any("cut off, from clients as well")
def _cut_from_everything(arena: Arena, n: int) -> None:
    cut_off(arena, f"b{n}", [*arena.others(n), "clients"])
    arena.hold()


@of_any("link between two brokers cut")
def _cut_link(arena: Arena, n: int) -> None:
    other = arena.dice.choice([m for m in BROKERS if m != n])
    cut_off(arena, f"b{n}", [f"b{other}"], hears=arena.dice.random() < 0.5)
    arena.hold()


@of_any("flapping")
def _flap(arena: Arena, n: int) -> None:
    until = time.monotonic() + arena.dice.uniform(3, 8)
    while time.monotonic() < until:
        cut_off(arena, f"b{n}", arena.others(n))
        time.sleep(arena.dice.uniform(0.1, 1.5))
        arena.network.heal()
        time.sleep(arena.dice.uniform(0.1, 1.0))


@kind("20 % loss everywhere")
def _lose(arena: Arena) -> list[int]:
    for name in ADDRESSES:
        arena.network.lose(name, 20)
    time.sleep(arena.dice.uniform(4, 9))
    return list(BROKERS)


@kind("slow links")
def _slow_links(arena: Arena) -> list[int]:
    for n in BROKERS:
        arena.network.slow_down(f"b{n}", "400kbit")
    time.sleep(arena.dice.uniform(4, 9))
    return list(BROKERS)


# -- disks and clocks


@of_any("disk full")
def _fill_disk(arena: Arena, n: int) -> None:
    arena.disks[n].fill()
    arena.hold()
    arena.system.brokers[n].kill()
    arena.disks[n].make_room()


@of_any("disk fails")
def _fail_disk(arena: Arena, n: int) -> None:
    arena.disks[n].fail()
    arena.hold()
    arena.system.brokers[n].kill()
    arena.disks[n].restore_power()


@of_any("power cut of one")
def _cut_power_of_one(arena: Arena, n: int) -> None:
    _cut_power(arena, n)


def _cut_power(arena: Arena, *numbers: int) -> None:
    for n in numbers:  # a machine that has no power acknowledges nothing (`tests.crash.test_power_cut.stop` says more)
        arena.system.brokers[n].signal(signal.SIGSTOP)
    for n in numbers:
        arena.disks[n].cut_power()
    for n in numbers:
        arena.system.brokers[n].kill()
    arena.hold()
    for n in numbers:
        arena.disks[n].restore_power()


@kind("power cut of all")
def _cut_power_of_all(arena: Arena) -> list[int]:
    """Where records are not synced before they are acknowledged this may lose some: then only processes die."""
    if not arena.synced:
        return _kill_all(arena)
    _cut_power(arena, *BROKERS)
    return list(BROKERS)


@of_any("clock jumps")
def _jump(arena: Arena, n: int) -> None:
    arena.system.shift_clock(n, arena.dice.choice([7_200, -7_200, 600, -600]))
    arena.hold()


# -- ZooKeeper


def of_servers(name: str, count: int) -> Callable[[OnOne], OnOne]:
    """Register a fault of some servers of the ensemble."""

    def register(fault: OnOne) -> OnOne:
        def run(arena: Arena) -> list[int]:
            victims = arena.dice.sample(sorted(arena.system.servers), count)
            for n in victims:
                fault(arena, n)
            arena.hold()
            return victims

        KINDS[f"{ZOOKEEPER}: {name}"] = run
        return fault

    return register


@of_servers("kill -9", 1)
@of_servers("kill -9 of the majority", 2)
def _kill_server(arena: Arena, n: int) -> None:
    arena.system.servers[n].kill()


@of_servers("SIGSTOP", 1)
@of_servers("SIGSTOP of all", 3)
def _pause_server(arena: Arena, n: int) -> None:
    arena.system.servers[n].signal(signal.SIGSTOP)


@of_servers("a server cut off", 1)
def _cut_server(arena: Arena, n: int) -> None:
    cut_off(arena, f"z{n}", [*(f"z{m}" for m in arena.system.servers if m != n), *(f"b{m}" for m in BROKERS)])


@of_servers("a server cut off from the ensemble", 1)
def _cut_server_from_ensemble(arena: Arena, n: int) -> None:
    """It goes on answering brokers for a while."""
    cut_off(arena, f"z{n}", [f"z{m}" for m in arena.system.servers if m != n])


@of_any("a broker cut off from ZooKeeper")
def _cut_from_zookeeper(arena: Arena, n: int) -> None:
    cut_off(arena, f"b{n}", [f"z{m}" for m in arena.system.servers])
    arena.hold()
