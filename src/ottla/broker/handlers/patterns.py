"""Regular expressions of strangers, matched in time linear in the text (times the size of the pattern).

Kafka uses RE2 for them; Python's `re` backtracks, and `(a+)+b` from one client would stop the loop for all. Python's parser
reads the pattern, and what it found is run as a set of states (Thompson 1968). What RE2 has not either is refused:
back references, lookaround, possessive and atomic groups. A pattern matches whole texts only.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final

#: States of the automaton: RE2 refuses a repetition of more than 1,000, and a pattern that grows beyond its memory.
_STATES_MAX: Final = 10_000
_UNLIMITED: Final = 1_000

_WORD: Final = re.compile(r"\w")
_CATEGORIES: Final[dict[str, Callable[[str], bool]]] = {
    "CATEGORY_DIGIT": lambda c: c in "0123456789",
    "CATEGORY_NOT_DIGIT": lambda c: c not in "0123456789",
    "CATEGORY_SPACE": lambda c: c in "\t\n\f\r ",
    "CATEGORY_NOT_SPACE": lambda c: c not in "\t\n\f\r ",
    "CATEGORY_WORD": lambda c: c.isascii() and _WORD.match(c) is not None,
    "CATEGORY_NOT_WORD": lambda c: not (c.isascii() and _WORD.match(c) is not None),
}


class PatternError(ValueError):
    """The pattern is not valid, or asks for what cannot be had in linear time."""


class _State:
    """`test` consumes a character on the way to `next`; without it the state is left at once, to all of `next`."""

    __slots__ = ("at", "next", "test")

    def __init__(self, test: Callable[[str], bool] | None = None, at: str = "") -> None:
        self.test = test
        self.at = at
        self.next: list[_State] = []


class Pattern:
    """A compiled pattern.

    Raises:
        PatternError: it cannot be compiled.
    """

    def __init__(self, text: str) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                parsed = re._parser.parse(text, re.ASCII)  # type: ignore[attr-defined]
        except (re.error, OverflowError, RecursionError) as error:
            raise PatternError(str(error)) from error
        self._flags: int = parsed.state.flags
        self._count = 0
        self._start = self._new()
        self._end = self._sequence(list(parsed), self._start, bool(self._flags & re.IGNORECASE))

    def matches(self, text: str) -> bool:
        """Return whether the whole text matches."""
        current = self._closure([self._start], text, 0)
        for index, character in enumerate(text):
            following = [
                after for state in current if state.test is not None and state.test(character) for after in state.next
            ]
            if not following:
                return False
            current = self._closure(following, text, index + 1)
        return self._end in current

    def _closure(self, states: list[_State], text: str, index: int) -> dict[_State, None]:
        found: dict[_State, None] = {}
        waiting = states[::-1]
        while waiting:
            state = waiting.pop()
            if state in found or (state.at and not _is_at(state.at, text, index)):
                continue
            found[state] = None
            if state.test is None:
                waiting += state.next
        return found

    def _new(self, test: Callable[[str], bool] | None = None, at: str = "") -> _State:
        self._count += 1
        if self._count > _STATES_MAX:
            raise PatternError("the pattern is too large")
        return _State(test, at)

    def _sequence(self, items: Sequence[Any], entry: _State, ignore_case: bool) -> _State:
        for item in items:
            entry = self._item(item, entry, ignore_case)
        return entry

    def _item(self, item: tuple[Any, Any], entry: _State, ignore_case: bool) -> _State:
        kind, argument = str(item[0]), item[1]
        if kind in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
            state = self._new(self._test(kind, argument, ignore_case))
            entry.next.append(state)
            after = self._new()
            state.next.append(after)
            return after
        if kind == "AT":
            if (state_at := str(argument)) not in _POSITIONS:
                raise PatternError(f"{state_at} is not supported")
            state = self._new(at=state_at)
            entry.next.append(state)
            return state
        if kind == "SUBPATTERN":
            _, added, removed, inner = argument
            ignore_case = (ignore_case or bool(added & re.IGNORECASE)) and not removed & re.IGNORECASE
            return self._sequence(list(inner), entry, ignore_case)
        if kind == "BRANCH":
            after = self._new()
            for branch in argument[1]:
                first = self._new()
                entry.next.append(first)
                self._sequence(list(branch), first, ignore_case).next.append(after)
            return after
        if kind in ("MAX_REPEAT", "MIN_REPEAT"):
            return self._repeat(argument, entry, ignore_case)
        raise PatternError(f"{kind} is not supported")

    def _repeat(self, argument: Any, entry: _State, ignore_case: bool) -> _State:
        least, most, inner = argument
        is_unlimited = str(most) == "MAXREPEAT"
        if least > _UNLIMITED or (not is_unlimited and most > _UNLIMITED):
            raise PatternError("a repetition of more than 1000")
        items = list(inner)
        for _ in range(least):
            entry = self._sequence(items, entry, ignore_case)
        if is_unlimited:
            loop, after = self._new(), self._new()
            entry.next.append(loop)
            loop.next.append(after)
            first = self._new()
            loop.next.append(first)
            self._sequence(items, first, ignore_case).next.append(loop)
            return after
        after = self._new()
        for _ in range(most - least):
            entry.next.append(after)
            entry = self._sequence(items, entry, ignore_case)
        entry.next.append(after)
        return after

    def _test(self, kind: str, argument: Any, ignore_case: bool) -> Callable[[str], bool]:
        if kind == "ANY":
            return (lambda _c: True) if self._flags & re.DOTALL else (lambda c: c != "\n")
        if kind == "IN":
            return _class_test(argument, ignore_case)
        wanted = chr(argument).lower() if ignore_case else chr(argument)
        is_negative = kind == "NOT_LITERAL"
        return lambda c: ((c.lower() if ignore_case else c) == wanted) is not is_negative


def _class_test(items: Sequence[tuple[Any, Any]], ignore_case: bool) -> Callable[[str], bool]:
    is_negative = False
    tests: list[Callable[[str], bool]] = []
    for kind, argument in items:
        match str(kind):
            case "NEGATE":
                is_negative = True
            case "LITERAL":
                tests.append(lambda c, wanted=argument: ord(c) == wanted)  # type: ignore[misc]
            case "RANGE":
                tests.append(lambda c, low=argument[0], high=argument[1]: low <= ord(c) <= high)  # type: ignore[misc]
            case "CATEGORY":
                tests.append(_CATEGORIES[str(argument)])
            case other:
                raise PatternError(f"{other} is not supported")

    def test(character: str) -> bool:
        cases = {character, character.lower(), character.upper()} if ignore_case else {character}
        return any(each(c) for c in cases if len(c) == 1 for each in tests) is not is_negative

    return test


_POSITIONS: Final = ("AT_BEGINNING", "AT_BEGINNING_STRING", "AT_END", "AT_END_STRING", "AT_BOUNDARY", "AT_NON_BOUNDARY")


def _is_at(position: str, text: str, index: int) -> bool:
    if position.startswith("AT_BEGINNING"):
        return index == 0
    if position.startswith("AT_END"):
        return index == len(text)
    is_word = _CATEGORIES["CATEGORY_WORD"]
    before = index > 0 and is_word(text[index - 1])
    behind = index < len(text) and is_word(text[index])
    return (before != behind) is (position == "AT_BOUNDARY")
