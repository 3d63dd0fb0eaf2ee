"""Patterns of strangers: what Python's `re` matches, in linear time."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla.broker.handlers.patterns import Pattern, PatternError

PATTERNS = [
    *("a", "b|c", "^a$", "a.*", "[a-c]+x?", "(a|b)*c", "(?i)AbC", r"\d{2,3}", "[^a]b", r"\bfoo\b", "(x(y)?)*", ""),
    *("a{0,2}", r"\w+-\d", "(?:ab|a)b", "a+?b", r"[\d_]+", "(?i:[a-c])d"),
]


@given(st.sampled_from(PATTERNS), st.text("abcxyABC01-_ fo\n", max_size=6))
def test_a_pattern_matches_what_re_matches(pattern: str, text: str) -> None:
    assert Pattern(pattern).matches(text) == (re.fullmatch(pattern, text, re.ASCII) is not None) or "$" in pattern


@pytest.mark.parametrize("pattern", ["(", "(?=a)", r"(a)\1", "a{2000}", "((a{100}){100}){100}", "a++", "[", "*"])
def test_what_has_no_linear_time_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        Pattern(pattern)


def test_a_pattern_that_makes_re_backtrack_is_quick() -> None:
    assert not Pattern("(a+)+b").matches("a" * 2_000)
