"""Subscriptions by pattern: RE2 syntax (KIP-848), applied to whole topic names.

RE2 is asked, since Python's `re` accepts other patterns and can be made to run for ages. It is imported with the first
pattern. Pure functions; resolving many topics takes its time and is done beside the loop.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ottla.errors import InvalidRegularExpressionError


def compile_pattern(pattern: str) -> Any:
    """Return the compiled pattern.

    Raises:
        InvalidRegularExpressionError: RE2 does not accept it.
    """
    import re2  # only patterns need it

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0] if error.args else "?"
        if isinstance(reason, bytes):
            reason = reason.decode("utf-8", "replace")
        raise InvalidRegularExpressionError(
            f"SubscribedTopicRegex `{pattern}` is not a valid regular expression: {reason}."
        ) from None


def resolve(patterns: Iterable[str], topic_names: Iterable[str]) -> dict[str, frozenset[str]]:
    """Return which of the topics each pattern matches. A pattern that RE2 no longer accepts matches none."""
    names = list(topic_names)
    found = {}
    for pattern in patterns:
        try:
            compiled = compile_pattern(pattern)
        except InvalidRegularExpressionError:
            found[pattern] = frozenset[str]()
            continue
        found[pattern] = frozenset(name for name in names if compiled.fullmatch(name) is not None)
    return found
