"""Subscriptions by pattern (KIP-848), applied to whole topic names.

Pure functions; resolving many topics takes its time and is done beside the loop.
"""

from __future__ import annotations

from collections.abc import Iterable

from ottla.errors import InvalidRegularExpressionError
from ottla.patterns import Pattern, PatternError
from ottla.patterns import compile_pattern as compile_re2


def compile_pattern(pattern: str) -> Pattern:
    """Return the compiled pattern.

    Raises:
        InvalidRegularExpressionError: RE2 does not accept it.
    """
    try:
        return compile_re2(pattern)
    except PatternError as error:
        raise InvalidRegularExpressionError(
            f"SubscribedTopicRegex `{pattern}` is not a valid regular expression: {error}."
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
