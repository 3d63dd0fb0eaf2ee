"""JAAS lines."""

from __future__ import annotations

import pytest

from ottla.security.jaas import JaasError, parse_jaas

PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"


def test_options_are_read() -> None:
    entry = parse_jaas(
        f'{PLAIN} required\n  username="admin" password="a\\"b;c=d" user_admin="x y" user_bob=plain user_eve=\'q\';'
    )
    assert (entry.module, entry.module_name, entry.flag) == (PLAIN, "PlainLoginModule", "required")
    assert entry.options == {
        "username": "admin",
        "password": 'a"b;c=d',
        "user_admin": "x y",
        "user_bob": "plain",
        "user_eve": "q",
    }
    assert "x y" not in repr(entry)


@pytest.mark.parametrize(
    "line",
    [
        "",
        PLAIN,
        f"{PLAIN} required",
        f"{PLAIN} needed;",
        f"{PLAIN} required a;",
        f"{PLAIN} required a=;",
        f'{PLAIN} required "a;',
        f"{PLAIN} required; {PLAIN} required;",
        f'{PLAIN} required secret="x" =;',
    ],
)
def test_what_is_no_line_is_refused_without_its_values(line: str) -> None:
    with pytest.raises(JaasError) as error:
        parse_jaas(line)
    assert "x" not in str(error.value).replace("text", "").replace("example", "")
