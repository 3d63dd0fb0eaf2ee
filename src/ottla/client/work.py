"""What a consumer has to do and wait for, said once for both faces.

A piece of work is a generator that yields what is to be waited for or called; each face drives it in its own way, with
threads or with `await`, and sends the outcome back.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeVar

from ottla.client._core.operation import Operation

T = TypeVar("T")


class Wait(NamedTuple):
    """Wait for an operation; sends back whether it is done within the limit."""

    operation: Operation
    limit_s: float | None


class Until(NamedTuple):
    """Wait until a condition holds, which is looked at with the lock held; sends back whether it came to that."""

    condition: Callable[[], bool]
    limit_s: float


class Call(NamedTuple):
    """Call a function of the caller's, in the caller's thread; what it returns is awaited in the asynchronous face."""

    function: Callable[..., object]
    arguments: tuple[Any, ...]


Work = Generator[Wait | Until | Call, Any, T]
