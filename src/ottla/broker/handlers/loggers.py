"""Levels of this process's loggers, as BROKER_LOGGER resources (KIP-412): Kafka's words for Python's levels.

A change lasts until the process ends, as in Kafka.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from ottla.cluster.decisions.configs import Alteration, Operation
from ottla.cluster.decisions.refusal import Refusal
from ottla.errors import ErrorCode

ROOT = "root"
_LEVELS = {
    "DEBUG": logging.DEBUG,
    "ERROR": logging.ERROR,
    "FATAL": logging.CRITICAL,
    "INFO": logging.INFO,
    "TRACE": 5,
    "WARN": logging.WARNING,
}


class PythonLoggers:
    """The loggers named `ottla...`, and the root."""

    def levels(self) -> Mapping[str, str]:
        names = [n for n in logging.root.manager.loggerDict if n == "ottla" or n.startswith("ottla.")]
        return {name: _word(_logger(name).getEffectiveLevel()) for name in [ROOT, *sorted(names)]}

    def alter(self, alterations: Sequence[Alteration], *, validate_only: bool) -> Refusal | None:
        known = self.levels()
        for name, operation, value in alterations:
            refusal = _check(name, operation, value, known)
            if refusal is not None:
                return refusal
        if not validate_only:
            for name, operation, value in alterations:
                level = _LEVELS[value] if operation == Operation.SET and value is not None else logging.NOTSET
                _logger(name).setLevel(level)
        return None


def _check(name: str, operation: int, value: str | None, known: Mapping[str, str]) -> Refusal | None:
    if operation in (Operation.APPEND, Operation.SUBTRACT):
        word = Operation(operation).name
        return Refusal(ErrorCode.INVALID_REQUEST, f"{word} operation is not allowed for the BROKER_LOGGER resource")
    if operation not in (Operation.SET, Operation.DELETE):
        return Refusal(ErrorCode.INVALID_REQUEST, f"Unknown operation type {operation} for the BROKER_LOGGER resource")
    if name not in known:
        return Refusal(ErrorCode.INVALID_CONFIG, f"Logger {name} does not exist!")
    if operation == Operation.DELETE and name == ROOT:
        return Refusal(ErrorCode.INVALID_REQUEST, f"Removing the log level of the {ROOT} logger is not allowed")
    if operation == Operation.SET and value not in _LEVELS:
        return Refusal(
            ErrorCode.INVALID_CONFIG,
            f"Cannot set the log level of {name} to {value} as it is not a supported log level. "
            f"Valid log levels are {', '.join(sorted(_LEVELS))}",
        )
    return None


def _logger(name: str) -> logging.Logger:
    return logging.getLogger(None if name == ROOT else name)


def _word(level: int) -> str:
    return min(_LEVELS, key=lambda word: abs(_LEVELS[word] - level))
