"""What each record of a loop costs a consumer: compiled if there is a fresh extension of `_handing_cy`, plain otherwise.

What each class is for is written in `_handing_plain`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import TYPE_CHECKING, TypeVar

from ottla.client._core import _handing_plain
from ottla.compiled import load_beside

__all__ = ("COMPILED", "STATUS", "Common", "Front", "Handed", "Position", "Reading", "extension", "next_method")

#: The compiled module, which has records, too; or None.
extension, STATUS = load_beside(__file__, __package__, "_handing_cy")
COMPILED = extension is not None

if TYPE_CHECKING:
    from ottla.client._core._handing_plain import Common, Front, Handed, Position, Reading
else:
    _made = _handing_plain if extension is None else extension
    Common = _made.Common
    Front = _made.Front
    Handed = _made.Handed
    Position = _made.Position
    Reading = _made.Reading

F = TypeVar("F", bound=Callable[..., object])


def next_method(method: F) -> F:
    """Decorate a consumer's `__next__`: where there is a compiled one, that comes first, and calls `_next_record` where
    `Front` has nothing. To look at, it is the method all the same."""
    return method if extension is None else update_wrapper(extension.next_record, method)  # type: ignore[return-value]
