"""Answers questions: from this instance's committed state, or by one hop to the instance that has it.

An instance that is asked by another one never asks a third: `forwarded` questions are answered here or not at all. So two
instances that take each other for the owner, as in the middle of a rebalance, do not send a question in circles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

from ottla.streams.errors import QuestionError, StoreMovingError
from ottla.streams.queries.answers import Answer, Question
from ottla.streams.queries.board import Board
from ottla.streams.queries.routing import Routes
from ottla.streams.queries.rows import KEY_VALUE_KINDS, Row, Rows
from ottla.streams.topology import StoreKind, TaskId

#: Asks another instance: (endpoint, task, question). Raises StoreMovingError if it does not answer for the task.
Forward = Callable[[str, TaskId, Question], Answer]


class Desk:
    """See the module. For any thread.

    Args:
        forward: None: questions about others' tasks are not sent on.
    """

    def __init__(self, board: Board, routes: Routes, forward: Forward | None = None) -> None:
        self.board = board
        self.routes = routes
        self._forward = forward

    def ask(self, question: Question, *, forwarded: bool = False) -> list[Answer]:
        """Return the answer of each task that the question concerns: one for a key, all for a range.

        Raises:
            StoreMovingError: a task is nowhere right now.
            UnknownStoreError, QuestionError: it cannot be asked that.
        """
        return [self._ask(task, question, forwarded=forwarded) for task in self.routes.tasks_for(question)]

    def _ask(self, task: TaskId, question: Question, *, forwarded: bool) -> Answer:
        with self.board.look(task, question.store) as found:
            if found is not None:
                rows, standing = found
                taken = _rows(rows, question)
                complete = len(taken) <= question.limit
                return Answer(task=task, rows=taken[: question.limit], complete=complete, standing=standing)
        owner = self.routes.owner_of(task)
        if forwarded or self._forward is None or owner is None:
            raise StoreMovingError(f"Task {task}, which has these rows of {question.store}, is moving: ask again.")
        return self._forward(owner, task, question)


def _rows(rows: Rows, question: Question) -> Sequence[Row]:
    """Return what is asked for, one row more than the limit at most."""
    most = question.limit + 1
    if rows.spec.kind in KEY_VALUE_KINDS:
        if question.key is None:
            return list(islice(rows.range(question.since, question.until), most))
        if question.window_since is not None or question.window_until is not None:
            raise QuestionError(f"{question.store} has no windows: ask for a key, or for a range of keys.")
        if question.as_of is not None and rows.spec.kind is not StoreKind.VERSIONED:
            raise QuestionError(f"{question.store} has no versions: it cannot say what was valid at a time (as_of).")
        found = rows.get(question.key, question.as_of)
        return [] if found is None else [found]
    if question.as_of is not None:
        raise QuestionError(f"{question.store} holds windows: as_of is for stores with versions.")
    assert question.key is not None
    serde = rows.spec.key_serde
    assert serde is not None
    key = serde.deserialize(rows.spec.changelog or rows.spec.name, question.key)
    return list(islice(rows.fetch(key, question.key, question.window_since, question.window_until), most))
