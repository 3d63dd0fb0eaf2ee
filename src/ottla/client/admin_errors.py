"""What an admin call raises when it was about several things and some of them failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from ottla.errors import KafkaError

#: The text names at most so many.
_NAMED_MAX = 5


class AdminErrors(ExceptionGroup[KafkaError], KafkaError):  # type: ignore[override]
    """Several things were asked for, and not all were done. What was done stays done.

    Attributes:
        errors: why, by what failed (a topic's name, a partition, a group id, ...).
        results: what the call would have returned, for those that were done.
    """

    errors: Mapping[Any, KafkaError]
    results: Mapping[Any, Any]

    def __new__(cls, errors: Mapping[Any, KafkaError], results: Mapping[Any, Any]) -> Self:
        made = super().__new__(cls, _summary(errors, len(results)), list(errors.values()))
        made.errors = dict(errors)
        made.results = dict(results)
        return made

    def __init__(self, errors: Mapping[Any, KafkaError], results: Mapping[Any, Any]) -> None:
        # `message` is the group's own.
        self.record_errors: tuple[()] = ()
        first = next(iter(errors.values()))
        self.hint: str = first.hint

    def derive(self, excs: Any) -> AdminErrors:  # type: ignore[override]
        kept = {item: error for item, error in self.errors.items() if error in excs}
        return AdminErrors(kept, self.results)


def _summary(errors: Mapping[Any, KafkaError], done: int) -> str:
    named = "; ".join(f"{item}: {error}" for item, error in list(errors.items())[:_NAMED_MAX])
    more = f"; and {len(errors) - _NAMED_MAX} more" if len(errors) > _NAMED_MAX else ""
    return f"{len(errors)} of {len(errors) + done} failed: {named}{more}"
