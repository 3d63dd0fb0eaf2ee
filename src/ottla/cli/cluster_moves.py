"""`ottla cluster add`, `drain`, `rebalance`, `unregister`: brokers come and go, and replicas with them.

Each shows its plan first and asks. What moves where is decided in `balance`, `moving` carries it out.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

import click

from ottla.cli.balance import Move, PlanError, plan_add, plan_drain, plan_rebalance, shares
from ottla.cli.cluster_view import ClusterView, look_at
from ottla.cli.completing import complete_topics
from ottla.cli.moving import carry_out, elect_preferred, throttled
from ottla.cli.output import Output, note, output_options
from ottla.cli.progress import Progress, human_bytes
from ottla.cli.running import Connection, confirm, connected
from ottla.client.keys import _size as size_bytes
from ottla.clock import SystemClock
from ottla.types import TopicPartition

P = ParamSpec("P")
R = TypeVar("R")

#: So many moves are shown in a table; --output json has all.
SHOWN_MAX: Final = 20
#: A drain looks again: topics may have been made meanwhile.
ROUNDS_MAX: Final = 5


class _Size(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Bytes, also as people write them: 10MB."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            found: int = size_bytes("--throttle", value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if found <= 0:
            self.fail("it has to be more than nothing", param, ctx)
        return found


def moving_options(function: Callable[P, R]) -> Callable[P, R]:
    """Give a command the options of all that move replicas."""

    @click.option("--dry-run", is_flag=True, help="Only show the plan.")
    @click.option("--yes", is_flag=True, help="Do not ask.")
    @click.option(
        "--throttle", type=_Size(), metavar="BYTES", help="Copy at most so many bytes a second per broker: 50MB, ..."
    )
    @click.option(
        "--at-once", type=click.IntRange(1), default=20, help="Partitions on their way at the same time. Default: 20."
    )
    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **kwargs)

    return run


@click.command()
@click.argument("topics", nargs=-1, metavar="[TOPIC...]", shell_complete=complete_topics)
@click.option(
    "-r", "--replication-factor", type=click.IntRange(1), help="Replicas the topics are to have. Default: as now."
)
@moving_options
@connected
@output_options
def rebalance(
    connection: Connection, output: Output, topics: Sequence[str], replication_factor: int | None, **options: Any
) -> int:
    """Give all brokers equal shares of partitions, bytes and leaders.

    \b
      ottla cluster rebalance --dry-run
      ottla cluster rebalance --throttle 50MB
      ottla cluster rebalance orders payments --replication-factor 3

    The plan is shown first. Replicas stay in as many racks as they are in. Only the TOPICs named are moved; with
    --replication-factor topics have to be named, or all but the brokers' own get it.
    """
    view = look_at(connection)
    for name in topics:
        if not any(tp.topic == name for tp in view.partitions):
            raise click.ClickException(f"there is no topic {name}")
    named: Collection[str] | None = topics or None
    if named is None and replication_factor is not None:
        named = {tp.topic for tp in view.partitions if not tp.topic.startswith("__")}
    moves = _planned(lambda: plan_rebalance(view.load(), replication_factor=replication_factor, topics=named))
    if not moves:
        note("nothing to do: the brokers' shares are equal, as far as single moves can make them")
    return _do(connection, output, view, moves, **options)


@click.command()
@click.argument("brokers", nargs=-1, required=True, type=int, metavar="BROKER...")
@moving_options
@connected
@output_options
def add(connection: Connection, output: Output, brokers: Sequence[int], **options: Any) -> int:
    """Give new brokers their share of partitions, bytes and leaders.

    \b
      ottla cluster add 4 --dry-run
      ottla cluster add 4 5 --throttle 50MB

    Start the brokers first: `ottla serve --zookeeper ... --broker-id 4`. Other brokers exchange nothing among themselves;
    `ottla cluster rebalance` does that.
    """
    view = look_at(connection)
    moves = _planned(lambda: plan_add(view.load(), brokers))
    if not moves:
        note(f"nothing to do: {_named(brokers)} has its share")
    return _do(connection, output, view, moves, **options)


@click.command()
@click.argument("brokers", nargs=-1, required=True, type=int, metavar="BROKER...")
@moving_options
@connected
@output_options
def drain(connection: Connection, output: Output, brokers: Sequence[int], **options: Any) -> int:
    """Move everything away from brokers that are to go, or have gone for good.

    \b
      ottla cluster drain 3 --dry-run
      ottla cluster drain 3
      ottla cluster unregister 3        after it was stopped

    The others have to be able to hold the replicas: with three brokers and topics of three replicas none can be drained.
    """
    code = 0
    for _ in range(ROUNDS_MAX):
        view = look_at(connection)
        moves = _planned(lambda view=view: plan_drain(view.load(), brokers))  # type: ignore[misc]
        if not moves:
            break
        code = _do(connection, output, view, moves, **options)
        if options["dry_run"] or code:
            return code
        options["yes"] = True
    held = shares(look_at(connection).load())
    left = {n: held[n].replicas for n in brokers if n in held and held[n].replicas}
    if left:
        raise click.ClickException(
            f"{_named(left)} still holds replicas: topics are made faster than they can be moved away; drain again"
        )
    names = " ".join(map(str, brokers))
    note(f"{_named(brokers)} holds nothing: stop it, then forget it with ottla cluster unregister {names}")
    return code


@click.command()
@click.argument("brokers", nargs=-1, required=True, type=int, metavar="BROKER...")
@connected
def unregister(connection: Connection, brokers: Sequence[int]) -> None:
    """Have the cluster forget brokers that were drained and stopped: their ids are free.

    A broker that died with its disk is unregistered, too, before a new one takes its id; it gets the records back from the
    other replicas. One that still runs is refused.
    """
    view = look_at(connection)
    for node_id in brokers:
        holds = sum(node_id in part.replicas for part in view.partitions.values())
        if node_id in view.brokers and view.brokers[node_id].answers:
            more = f"; it holds {holds} replicas: ottla cluster drain {node_id}" if holds else ""
            raise click.ClickException(f"broker {node_id} runs: stop it first{more}")
    with connection.admin() as admin:
        for node_id in brokers:
            admin.unregister_broker(node_id)
            holds = sum(node_id in part.replicas for part in view.partitions.values())
            told = (
                f"; {holds} partitions count it among their replicas: start another broker under this id, or drain it"
            )
            note(f"broker {node_id} is forgotten{told if holds else ''}")


def _planned(make: Callable[[], dict[TopicPartition, Move]]) -> dict[TopicPartition, Move]:
    try:
        return make()
    except PlanError as error:
        raise click.ClickException(str(error)) from None


def _named(brokers: Collection[int]) -> str:
    return f"broker {', '.join(map(str, sorted(brokers)))}"


def _do(
    connection: Connection,
    output: Output,
    view: ClusterView,
    moves: Mapping[TopicPartition, Move],
    *,
    dry_run: bool,
    yes: bool,
    throttle: int | None,
    at_once: int,
) -> int:
    """Show a plan, ask, carry it out; return the exit code."""
    if moves or not output.is_table:
        _show(output, view, moves)
    if dry_run or not moves:
        return 0
    total = sum(move.moved_bytes for move in moves.values())
    confirm(f"Move {len(moves)} partitions ({human_bytes(total)})?", yes=yes)
    progress = Progress(total, sys.stderr, SystemClock().monotonic_ms, "moved")
    with connection.admin() as admin:
        try:
            with throttled(admin, moves, view.load().racks, throttle):
                failed = carry_out(admin, moves, at_once=at_once, progress=progress, sleep=time.sleep)
        finally:
            progress.clear()
        unled = elect_preferred(admin, [tp for tp in moves if tp not in failed])
    for what, found in (("not moved", failed), ("moved, but not led by its first replica", unled)):
        for tp, why in sorted(found.items()):
            note(f"{tp} is {what}: {why}")
    note(f"{len(moves) - len(failed)} of {len(moves)} partitions are where they are to be")
    return 1 if failed else 0


def _show(output: Output, view: ClusterView, moves: Mapping[TopicPartition, Move]) -> None:
    load = view.load()
    before, after = shares(load), shares(load, moves)
    if not output.is_table:
        output.show(
            {
                "moves": [
                    {
                        "topic": tp.topic,
                        "partition": tp.partition,
                        "before": move.before,
                        "after": move.after,
                        "bytes": move.moved_bytes,
                    }
                    for tp, move in sorted(moves.items())
                ],
                "brokers": [{"id": n, "before": before.get(n), "after": share} for n, share in after.items()],
            }
        )
        return
    shown = sorted(moves.items(), key=lambda item: (-item[1].moved_bytes, item[0]))[:SHOWN_MAX]
    output.show(
        None,
        ("partition", "replicas", "become", "copied"),
        [[str(tp), move.before, move.after, human_bytes(move.moved_bytes)] for tp, move in shown],
    )
    if len(moves) > len(shown):
        click.echo(f"... and {len(moves) - len(shown)} more (--output json shows all)")
    click.echo()
    columns = ("broker", "replicas", "become", "size", "becomes", "first in", "becomes first in")
    table = []
    for node_id, share in after.items():
        was = before.get(node_id)
        assert was is not None, "moves go to brokers that answer"
        sizes = [human_bytes(was.size), human_bytes(share.size)]
        table.append([node_id, was.replicas, share.replicas, *sizes, was.leaders, share.leaders])
    output.show(None, columns, table)
    click.echo()
