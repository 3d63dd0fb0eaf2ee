"""Rules that make users of principals of Kerberos. That Kafka makes the same: tests/compatibility/authentication."""

from __future__ import annotations

import pytest

from ottla.security.kerberos_names import KerberosNames
from ottla.security.mapping import MappingRuleError


@pytest.mark.parametrize(
    ("rules", "principal", "user"),
    [
        ("DEFAULT", "alice@HERE", "alice"),
        ("DEFAULT", "app/host.example.com@HERE", "app"),
        ("DEFAULT", "alice@THERE", None),
        ("DEFAULT", "a/b/c@HERE", None),
        ("DEFAULT", "alice", None),
        ("RULE:[1:$1]", "alice@THERE", "alice"),
        ("RULE:[1:$1]", "app/host@HERE", None),  # two components
        ("RULE:[2:$1-$2]", "app/host@HERE", "app-host"),
        ("RULE:[2:$2.$1.$0]L", "App/Host@HERE", "host.app.here"),
        ("RULE:[1:$1@$0](.*@THERE)s/@.*//", "alice@THERE", "alice"),
        ("RULE:[1:$1@$0](.*@THERE)s/@.*//", "alice@HERE", None),
        ("RULE:[1:$1@$0](.*@THERE)", "alice@THERE", None),  # is still a principal
        ("RULE:[1:$1](ali)", "alice@HERE", None),  # all of it has to match
        ("RULE:[1:$1]s/a/b/", "anna@HERE", "bnna"),
        ("RULE:[1:$1]s/a/b/g", "anna@HERE", "bnnb"),
        ("RULE:[1:$1]s/(.)(.)/$2$1/", "anna@HERE", "nana"),
        ("RULE:[1:$1]s/a/b/g/U", "anna@HERE", "BNNB"),
        ("RULE:[1:$1]/L", "ANNA@HERE", "anna"),
        ("RULE:[2:$1](app)s/$/-service/", "app/host@HERE", "app-service"),
        ("RULE:[1:x$1](nobody)|DEFAULT", "anna@HERE", "anna"),
        ("RULE:[1:x]|DEFAULT", "anna@HERE", "x"),  # the first one counts
    ],
)
def test_the_first_rule_that_is_about_it_counts(rules: str, principal: str, user: str | None) -> None:
    assert KerberosNames(rules.split("|"), "HERE").user_of(principal) == user


def test_without_a_default_realm_nobody_has_the_default_name() -> None:
    assert KerberosNames(["DEFAULT"], "").user_of("alice@HERE") is None


@pytest.mark.parametrize(
    "rule",
    ["", "RULE:[1:$1", "RULE:[1:$2]", "RULE:[1:$]", "RULE:[x:$1]", "DEFAULTS", "RULE:[1:$1](a", r"RULE:[1:$1](\1)"],
)
def test_what_is_no_rule_is_refused(rule: str) -> None:
    with pytest.raises(MappingRuleError):
        KerberosNames([rule], "HERE")


def test_a_principal_cannot_make_a_rule_run_for_ever() -> None:
    assert KerberosNames(["RULE:[1:$1](a*a*a*a*a*a*a*a*a*b)"], "HERE").user_of("a" * 100_000 + "@HERE") is None
