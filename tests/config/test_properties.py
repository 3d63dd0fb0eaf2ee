from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla.config.keys import ConfigError
from ottla.config.properties import parse_properties


def test_a_file_as_people_write_it() -> None:
    text = """\
# a comment
! another
  log.dirs = /a,/b
num.partitions:3
socket.send.buffer.bytes 1024
empty=
alone
listeners=PLAINTEXT://:9092,\\
    CONTROLLER://:9093
colon\\:in\\=key = value = with \\u00fc and \\t tab
twice=1
twice=2
not a comment=# really
"""
    assert parse_properties(text) == {
        "log.dirs": "/a,/b",
        "num.partitions": "3",
        "socket.send.buffer.bytes": "1024",
        "empty": "",
        "alone": "",
        "listeners": "PLAINTEXT://:9092,CONTROLLER://:9093",
        "colon:in=key": "value = with ü and \t tab",
        "twice": "2",
        "not": "a comment=# really",
    }


def test_a_bad_escape_is_named_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"my.properties line 3: \\u12xy is no character"):
        parse_properties("\n\na=\\u12xy", "my.properties")


def test_a_comment_is_not_continued_and_a_backslash_at_the_end_is_harmless() -> None:
    assert parse_properties("b=2\\") == {"b": "2"}
    assert parse_properties("# comment \\\na=1") == {"a": "1"}


PLAIN = st.text(
    st.characters(codec="utf-8", exclude_characters="\\\r\n\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"), max_size=20
)


@given(st.dictionaries(st.from_regex(r"[a-z.]{1,20}", fullmatch=True), PLAIN.map(str.strip), max_size=5))
def test_plain_settings_are_read_back(settings: dict[str, str]) -> None:
    text = "\n".join(f"{name} = {value}" for name, value in settings.items())
    read = parse_properties(text)
    assert {name: value.strip() for name, value in read.items()} == settings


@given(st.text())
def test_any_text_is_read_or_refused_in_a_sentence(text: str) -> None:
    with suppress(ConfigError):
        parse_properties(text)
