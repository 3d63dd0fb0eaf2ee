"""Regular expressions of strangers: RE2 syntax, matched in time linear in the text.

Python's `re` accepts other patterns and can be made to run for ages: `(a+)+b` from one client would stop the loop for
all. Kafka uses RE2 for topics and transactional ids, too (KIP-848, KIP-1152); for the clients that client metrics are
asked of it uses Java's expressions, which have lookaround and back references besides. RE2 is imported with the first
pattern.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class PatternError(ValueError):
    """RE2 does not accept the pattern."""


class Pattern(Protocol):
    """A compiled pattern."""

    def fullmatch(self, text: str) -> Any:
        """Return something true if the whole text matches."""
        ...

    def sub(self, replacement: Callable[[Any], str], text: str, count: int = 0) -> str:
        """Return the text with what matches replaced: by what `replacement` makes of the match, `count` times, 0: always."""
        ...


def compile_pattern(pattern: str) -> Pattern:
    """Return the compiled pattern.

    Raises:
        PatternError: with RE2's reason.
    """
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
        re2.purge()  # its cache would keep the 128 last patterns of strangers, at up to 8 MiB each
        return compiled  # type: ignore[no-any-return]
    except re2.error as error:
        reason = error.args[0] if error.args else "?"
        raise PatternError(reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)) from None
