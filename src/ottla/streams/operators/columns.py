"""Operators over columns: for one row, and for a whole run of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ottla.streams.context import SKIPPED, Headers, NodeContext, Process
from ottla.streams.expressions import Aggregates, Expression
from ottla.streams.operators.tables import Make, View
from ottla.streams.operators.windowed import time_windowed
from ottla.streams.runs import Run, TakeRun, by_rows, run_taker, taking_runs
from ottla.streams.states import WindowState
from ottla.streams.windows import TimeWindows


def rows_only(context: NodeContext) -> Process:
    """Drop records without a value: they have no fields."""
    forward, drop, name = context.forward, context.task.drop, context.name

    def process(key: Any, row: Any, timestamp: int, headers: Headers) -> None:
        if row is None:
            drop(name)
        else:
            forward(key, row, timestamp, headers)

    return taking_runs(process, run_taker(context.task, forward))  # a run has rows only


def filtering(expression: Expression) -> Make:
    """Keep the rows for which an expression is true."""
    compute, compute_all = expression.for_row(), expression.for_columns()

    def one(row: Mapping[str, Any]) -> Any:
        return (row,) if compute(row) is True else ()

    def all_of(run: Run) -> Run:
        return run.filtered([found is True for found in compute_all(run.column, len(run))])

    return _stateless(one, all_of)


def with_columns(made: Mapping[str, Expression]) -> Make:
    """Add fields, or change them. All are computed of the row as it was."""
    rowwise = {name: each.for_row() for name, each in made.items()}
    whole = {name: each.for_columns() for name, each in made.items()}

    def one(row: Mapping[str, Any]) -> Any:
        return ({**row, **{name: compute(row) for name, compute in rowwise.items()}},)

    def all_of(run: Run) -> Run:
        return run.with_columns({name: compute(run.column, len(run)) for name, compute in whole.items()})

    return _stateless(one, all_of)


def selecting(made: Mapping[str, Expression]) -> Make:
    """Keep these fields only."""
    rowwise = {name: each.for_row() for name, each in made.items()}
    whole = {name: each.for_columns() for name, each in made.items()}

    def one(row: Mapping[str, Any]) -> Any:
        return ({name: compute(row) for name, compute in rowwise.items()},)

    def all_of(run: Run) -> Run:
        columns = {name: compute(run.column, len(run)) for name, compute in whole.items()}
        return Run(run.records, run.keys, run.times, [{} for _ in run.keys], columns)

    return _stateless(one, all_of)


def _stateless(one: Callable[[Mapping[str, Any]], Any], all_of: Callable[[Run], Run]) -> Make:
    """Make an operator of what it does with a row (none or one comes of it), and with a run."""

    def make(context: NodeContext) -> Process:
        forward, fail = context.forward, context.fail
        forward_run = run_taker(context.task, forward)

        def process(key: Any, row: Any, timestamp: int, headers: Headers) -> None:
            try:
                found = one(row)
            except Exception as error:
                found = fail(error, key, row, timestamp, headers, lambda: one(row))
                if found is SKIPPED:
                    return
            for new in found:
                forward(key, new, timestamp, headers)

        return _falling_back(context, process, all_of, forward_run)

    return make


def keying(expression: Expression) -> Make:
    """Put each row under the value of an expression."""
    compute, compute_all = expression.for_row(), expression.for_columns()

    def make(context: NodeContext) -> Process:
        forward, fail = context.forward, context.fail

        def process(key: Any, row: Any, timestamp: int, headers: Headers) -> None:
            try:
                made = compute(row)
            except Exception as error:
                made = fail(error, key, row, timestamp, headers, lambda: compute(row))
                if made is SKIPPED:
                    return
            forward(made, row, timestamp, headers)

        def all_of(run: Run) -> Run:
            return run.with_keys(compute_all(run.column, len(run)))

        return _falling_back(context, process, all_of, run_taker(context.task, forward))

    return make


def _falling_back(
    context: NodeContext, process: Process, all_of: Callable[[Run], Run], forward_run: TakeRun
) -> Process:
    """Take a whole run if nothing raises; else row by row, so that the handler gets the row that did."""
    each_row = by_rows(context.task, process)

    def take_run(run: Run) -> None:
        try:
            made = all_of(run)
        except Exception:
            each_row(run)
            return
        if len(made):
            forward_run(made)

    return taking_runs(process, take_run)


def windowed(view: View, windows: TimeWindows, aggregates: Aggregates) -> Make:
    """Aggregate over tumbling or hopping windows. With a cache a run changes each window once; else row by row, since
    every update goes out."""
    step = aggregates.stepper()
    make_rows = time_windowed(view, windows, aggregates.first, aggregates.aggregator(), on_close=False)
    columns = aggregates.columns()
    size, grace = windows.size_ms, windows.grace_ms

    def make(context: NodeContext) -> Process:
        process = make_rows(context)
        task, drop, name = context.task, context.task.drop, context.name
        assert view.store is not None
        state: WindowState = context.store(view.store)
        times = task.times_of(name, view.store)
        each_row = by_rows(task, process)
        if not state.is_cached:
            return process

        def plan(run: Run) -> tuple[dict[tuple[bytes, int], list[Any]], list[int], int]:
            """Return, for each window that changes, [places, timestamp, last row]; rows that are passed over, once for each
            window; and the stream time behind the run. Nothing is changed yet."""
            computed = [compute(run.column, len(run)) for compute in columns]
            changed: dict[tuple[bytes, int], list[Any]] = {}
            passed: list[int] = []
            stream_time = times.stream_time
            key_bytes: dict[Any, bytes] = {}
            for row, (key, timestamp, values) in enumerate(
                zip(run.keys, run.times, zip(*computed, strict=True), strict=True)
            ):
                if key is None:
                    passed.append(row)
                    continue
                if timestamp > stream_time:
                    stream_time = timestamp
                close = stream_time - grace
                stored = key_bytes.get(key) if type(key) is str else None
                if stored is None:
                    stored = state.key_bytes(key)
                    if type(key) is str:
                        key_bytes[key] = stored
                for start in windows.starts(timestamp):
                    if start + size <= close:
                        passed.append(row)
                        continue
                    slot = changed.get((stored, start))
                    if slot is None:
                        found = state.load(stored, start)
                        places, when = (aggregates.first(), -1) if found is None else found
                        slot = changed[stored, start] = [list(places), when, row]
                    step(slot[0], values)
                    if timestamp > slot[1]:
                        slot[1] = timestamp
                    slot[2] = row
            return changed, passed, stream_time

        def take_run(run: Run) -> None:
            try:
                changed, passed, stream_time = plan(run)
            except Exception:
                each_row(run)
                return
            times.advance(stream_time)
            for (stored, start), (places, when, row) in sorted(
                changed.items(), key=lambda item: (item[1][2], item[0][1])
            ):
                record = run.records[row]
                task.record, task.record_time = record, run.times[row]
                state.keep(stored, tuple(places), start, when, record.headers)
            for row in passed:
                task.record = run.records[row]
                drop(name)

        return taking_runs(process, take_run)

    return make
