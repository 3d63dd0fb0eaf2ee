"""What an append changes, compiled if there is a fresh extension of `_ends_cy`, plain otherwise.

`SegmentEnd` is the base of `Segment`, `ProducerEnd` of `ProducerEntry`, `LogEnd` of `LogAppender`. What each of them is for
is written in `_ends_plain`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ottla.compiled import load_beside
from ottla.storage import _ends_plain
from ottla.storage._ends_plain import UNKNOWN

__all__ = ("COMPILED", "STATUS", "UNKNOWN", "LogEnd", "ProducerEnd", "SegmentEnd")

_extension, STATUS = load_beside(__file__, __package__, "_ends_cy")
COMPILED = _extension is not None

if TYPE_CHECKING:
    from ottla.storage._ends_plain import LogEnd, ProducerEnd, SegmentEnd
else:
    _made = _ends_plain if _extension is None else _extension
    LogEnd = _made.LogEnd
    ProducerEnd = _made.ProducerEnd
    SegmentEnd = _made.SegmentEnd
