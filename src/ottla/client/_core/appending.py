"""What `send` does to a batch for each record: compiled if there is a fresh extension of `_appending_cy`, plain otherwise.

What each class and function is for is written in `_appending_plain`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import update_wrapper
from typing import TYPE_CHECKING, TypeVar

from ottla.client._core import _appending_plain
from ottla.client._core._appending_plain import BY_CRC32, BY_FUNCTION, BY_MURMUR2, NEVER
from ottla.compiled import load_beside

__all__ = (
    "BY_CRC32",
    "BY_FUNCTION",
    "BY_MURMUR2",
    "COMPILED",
    "NEVER",
    "STATUS",
    "Choice",
    "Lane",
    "Records",
    "Room",
    "Sender",
    "Ticket",
    "make_lock",
    "murmur2",
    "read_timestamps",
    "send_method",
)

_extension, STATUS = load_beside(__file__, __package__, "_appending_cy")
COMPILED = _extension is not None

if TYPE_CHECKING:
    from ottla.client._core._appending_plain import (
        Choice,
        Lane,
        Records,
        Room,
        Sender,
        Ticket,
        murmur2,
        read_timestamps,
    )
else:
    _made = _appending_plain if _extension is None else _extension
    Choice = _made.Choice
    Lane = _made.Lane
    Records = _made.Records
    Room = _made.Room
    Sender = _made.Sender
    Ticket = _made.Ticket
    murmur2 = _made.murmur2
    read_timestamps = _made.read_timestamps

#: Makes the lock that compiled senders take; None: any lock will do.
make_lock: Callable[[], AbstractContextManager[object]] | None = None if _extension is None else _extension.Lock

F = TypeVar("F", bound=Callable[..., object])


def send_method(method: F) -> F:
    """Decorate a producer's `send`: where there is a compiled one, that comes first, and calls `_send` where `Sender` does
    not accept the record. To look at, it is the method all the same."""
    return method if _extension is None else update_wrapper(_extension.send, method)  # type: ignore[return-value]
