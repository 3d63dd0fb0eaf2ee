"""Runs: consecutive records of one partition that operators over columns take at once.

What comes of a run is what comes of its records one by one. An operator that takes runs has `take_run` beside its function
for one record. Where it cannot answer for a whole run (an expression raises, several operators follow), the records go on
one by one from there, in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import compress
from typing import TYPE_CHECKING, Any

from ottla.streams.context import InputRecord, Process

if TYPE_CHECKING:
    from ottla.streams.task import Task


class Run:
    """Records of one partition as rows.

    Attributes:
        records: as they were read.
        keys, times: of the rows.
    """

    __slots__ = ("_made", "_rows", "keys", "records", "times")

    def __init__(
        self,
        records: Sequence[InputRecord],
        keys: list[Any],
        times: list[int],
        rows: list[dict[str, Any]],
        made: dict[str, list[Any]] | None = None,
    ) -> None:
        self.records: Sequence[InputRecord] = records
        self.keys: list[Any] = keys
        self.times: list[int] = times
        self._rows = rows
        self._made = made or {}

    def __len__(self) -> int:
        return len(self.keys)

    def column(self, name: str) -> list[Any]:
        """Return the values of a field; None where a row does not have it."""
        found = self._made.get(name)
        return [row.get(name) for row in self._rows] if found is None else found

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows with what was computed."""
        if not self._made:
            return self._rows
        names = list(self._made)
        return [
            {**row, **dict(zip(names, values, strict=True))}
            for row, values in zip(self._rows, zip(*self._made.values(), strict=True), strict=True)
        ]

    def filtered(self, mask: Sequence[Any]) -> Run:
        """Return the rows for which the mask is true."""
        return Run(
            list(compress(self.records, mask)),
            list(compress(self.keys, mask)),
            list(compress(self.times, mask)),
            list(compress(self._rows, mask)),
            {name: list(compress(values, mask)) for name, values in self._made.items()},
        )

    def with_columns(self, made: dict[str, list[Any]]) -> Run:
        """Return the rows with more fields, or other values of fields."""
        return Run(self.records, self.keys, self.times, self._rows, {**self._made, **made})

    def with_keys(self, keys: list[Any]) -> Run:
        """Return the rows under other keys."""
        return Run(self.records, keys, self.times, self._rows, self._made)


TakeRun = Callable[[Run], None]


def taking_runs(process: Process, take_run: TakeRun) -> Process:
    """Return `process` as one that takes runs, too."""
    process.take_run = take_run  # type: ignore[attr-defined]
    return process


def run_taker(task: Task, process: Process) -> TakeRun:
    """Return what gives a run to `process`: whole if it takes runs, else row by row."""
    found: TakeRun | None = getattr(process, "take_run", None)
    return found if found is not None else by_rows(task, process)


def by_rows(task: Task, process: Process) -> TakeRun:
    """Return what gives the rows of a run to `process`, each under the context of its record."""

    def each(run: Run) -> None:
        for record, key, row, timestamp in zip(run.records, run.keys, run.rows(), run.times, strict=True):
            task.record, task.record_time = record, timestamp
            process(key, row, timestamp, record.headers)

    return each
