"""Rules that make users of certificates' names."""

from __future__ import annotations

import pytest

from ottla.security.mapping import MappingRuleError, PrincipalMapping

NAME = "CN=Kafka-1,OU=Ops,O=Ottla,C=DE"


@pytest.mark.parametrize(
    ("rules", "user"),
    [
        ("DEFAULT", NAME),
        ("", NAME),
        ("RULE:^CN=(.*?),OU=Ops.*$/$1/", "Kafka-1"),
        ("RULE:^CN=(.*?),OU=Ops.*$/$1/L", "kafka-1"),
        ("RULE:^CN=(.*?),OU=(.*?),O=(.*?),C=(.*?)$/$1@$2/U", "KAFKA-1@OPS"),
        ("RULE:^CN=nobody.*$/x/, RULE:^CN=(.*?),.*$/$1/L, DEFAULT", "kafka-1"),
        ("RULE:^CN=nobody.*$/x/", None),
        ("RULE:CN=Kafka/x/", None),  # the whole name has to match
        ("RULE:^CN=(.*?),.*$/\\$1 $9/", "$1 $9"),
        ("RULE:^(CN=)(missing)?.*$/$1$2-/", "CN=-"),
    ],
)
def test_the_first_rule_that_matches_counts(rules: str, user: str | None) -> None:
    assert PrincipalMapping(rules).user_of(NAME) == user


@pytest.mark.parametrize(
    "rules", ["RULE:a/b", "RULE:a/b/X", "nonsense", "DEFAULT DEFAULT", r"RULE:(a)\1/b/", "RULE:(?=a)/b/"]
)
def test_what_is_no_rule_is_refused(rules: str) -> None:
    with pytest.raises(MappingRuleError):
        PrincipalMapping(rules)


def test_mapping_rule_redos() -> None:
    """A name made to make a back-tracking matcher run for ever: RE2 takes time linear in it."""
    assert PrincipalMapping("RULE:^(a+)+$/$1/").user_of("a" * 4000 + "!") is None
