"""Levels of loggers by Java's names, as `/admin/loggers` shows and sets them."""

from __future__ import annotations

import logging
from typing import Final

#: Java's levels, and Python's.
LEVELS: Final = {
    "OFF": 100,
    "FATAL": logging.CRITICAL,
    "ERROR": logging.ERROR,
    "WARN": logging.WARNING,
    "INFO": logging.INFO,
    "DEBUG": logging.DEBUG,
    "TRACE": 5,
    "ALL": 1,
}


def set_level(name: str, level: str) -> None:
    """Set the level of a logger, by Java's name of the level."""
    logging.getLogger(None if name == "root" else name).setLevel(LEVELS[level])


def level_of(logger: logging.Logger) -> str:
    """Return Java's name of the level that counts for a logger."""
    number = logger.getEffectiveLevel()
    return next((name for name, value in LEVELS.items() if number >= value), "ALL")


def all_levels() -> dict[str, str]:
    """Return the levels of all loggers of this process by name, `root` among them."""
    found = {"root": level_of(logging.getLogger())}
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger):
            found[name] = level_of(logger)
    return dict(sorted(found.items()))
