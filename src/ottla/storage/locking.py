"""The lock of a log, and how a thread that must not wait takes it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def try_locked(lock: threading.RLock, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """Return the result of `function`, called with `lock` held; None, without a call, if another thread holds it."""
    if not lock.acquire(blocking=False):
        return None
    try:
        return function(*args, **kwargs)
    finally:
        lock.release()
