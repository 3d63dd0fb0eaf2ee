"""Patterns of strangers: RE2's, and quick whatever the text is."""

from __future__ import annotations

import pytest

from ottla.patterns import PatternError, compile_pattern


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("a.*", "abc", True),
        ("b", "abc", False),
        ("[[:alpha:]]+", "abc", True),
        (r"\Qa.b\E", "a.b", True),
        (r"\Qa.b\E", "axb", False),
        ("(?i)ABC", "abc", True),
        (r"(a+)+b", "a" * 100_000, False),
    ],
)
def test_the_whole_text_is_matched(pattern: str, text: str, matches: bool) -> None:
    assert bool(compile_pattern(pattern).fullmatch(text)) == matches


@pytest.mark.parametrize("pattern", ["(", "(?=a)", r"(a)\1", "a{2000}", "((a{100}){100}){100}", "a++b**", "[", "*"])
def test_what_re2_does_not_know_is_refused_with_its_reason(pattern: str) -> None:
    with pytest.raises(PatternError, match=r"\w"):
        compile_pattern(pattern)
