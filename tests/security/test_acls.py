"""Access rules: what they decide, beside a slow oracle that reads every rule, and what they mean to filters."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ottla.cluster.nodes.acls import AclNode
from ottla.security.acls import (
    AccessRules,
    Binding,
    BindingFilter,
    Operation,
    Pattern,
    PatternType,
    Permission,
    ResourceType,
    Rule,
    merged,
    why_invalid,
)

TOPIC, GROUP = ResourceType.TOPIC, ResourceType.GROUP
ALLOW, DENY = Permission.ALLOW, Permission.DENY
LITERAL, PREFIXED = PatternType.LITERAL, PatternType.PREFIXED


def rules(*bindings: tuple[Pattern, Rule], allow_if_none: bool = False) -> AccessRules:
    return AccessRules(merged({}, [Binding(*binding) for binding in bindings]), allow_if_none=allow_if_none)


def topic(name: str, kind: PatternType = LITERAL) -> Pattern:
    return Pattern(TOPIC, kind, name)


def allow(operation: Operation, principal: str = "User:a", host: str = "*") -> Rule:
    return Rule(principal, host, operation, ALLOW)


def deny(operation: Operation, principal: str = "User:a", host: str = "*") -> Rule:
    return Rule(principal, host, operation, DENY)


def may(acl: AccessRules, operation: Operation, name: str = "t", principal: str = "User:a", host: str = "h") -> bool:
    return acl.decide(principal, host, operation, TOPIC, name).is_allowed


def test_without_a_rule_a_resource_is_closed_or_open_as_it_is_set() -> None:
    assert not may(rules(), Operation.READ)
    assert may(rules(allow_if_none=True), Operation.READ)
    other = (topic("t"), allow(Operation.READ, "User:b"))
    assert not may(rules(other, allow_if_none=True), Operation.READ), "a rule about it closes it to the rest"
    assert may(rules(other, allow_if_none=True), Operation.READ, "u")


def test_a_denial_goes_before_every_permission() -> None:
    for denied in (topic("t"), topic("*"), topic("", PREFIXED), topic("t", PREFIXED)):
        acl = rules((topic("t"), allow(Operation.ALL)), (denied, deny(Operation.READ)))
        if denied.name:
            assert not may(acl, Operation.READ)
        assert may(acl, Operation.WRITE)


def test_what_implies_description_and_what_does_not() -> None:
    for operation in (Operation.READ, Operation.WRITE, Operation.DELETE, Operation.ALTER):
        assert may(rules((topic("t"), allow(operation))), Operation.DESCRIBE)
        assert may(rules((topic("t"), allow(Operation.DESCRIBE)), (topic("t"), deny(operation))), Operation.DESCRIBE), (
            "a denial implies nothing"
        )
    for operation in (Operation.CREATE, Operation.DESCRIBE_CONFIGS, Operation.ALTER_CONFIGS, Operation.CLUSTER_ACTION):
        assert not may(rules((topic("t"), allow(operation))), Operation.DESCRIBE)
    assert may(rules((topic("t"), allow(Operation.ALTER_CONFIGS))), Operation.DESCRIBE_CONFIGS)
    assert not may(rules((topic("t"), allow(Operation.ALTER))), Operation.DESCRIBE_CONFIGS)


def test_hosts_principals_and_everybody() -> None:
    acl = rules(
        (topic("t"), allow(Operation.READ, "User:*", "10.0.0.1")),
        (topic("u"), allow(Operation.READ, "Group:a")),
    )
    assert may(acl, Operation.READ, principal="User:x", host="10.0.0.1")
    assert not may(acl, Operation.READ, principal="User:x", host="10.0.0.2")
    assert not may(acl, Operation.READ, "u")
    assert acl.names_hosts


def test_a_wildcard_is_a_literal_only() -> None:
    assert may(rules((topic("*"), allow(Operation.READ))), Operation.READ, "anything")
    assert not may(rules((topic("*", PREFIXED), allow(Operation.READ))), Operation.READ, "anything")
    assert may(rules((topic("*", PREFIXED), allow(Operation.READ))), Operation.READ, "*thing")


NAMES = st.sampled_from(["", "a", "ab", "abc", "b", "*", "ba"])
PATTERNS = st.builds(Pattern, st.sampled_from([TOPIC, GROUP]), st.sampled_from([LITERAL, PREFIXED]), NAMES.filter(bool))
RULES = st.builds(
    Rule,
    st.sampled_from(["User:a", "User:b", "User:*"]),
    st.sampled_from(["*", "h1", "h2"]),
    st.sampled_from(
        [
            Operation.ALL,
            Operation.READ,
            Operation.WRITE,
            Operation.DESCRIBE,
            Operation.ALTER_CONFIGS,
            Operation.DESCRIBE_CONFIGS,
        ]
    ),
    st.sampled_from([ALLOW, DENY]),
)
BINDINGS = st.lists(st.builds(Binding, PATTERNS, RULES), max_size=8)


def slow(
    bindings: list[Binding], principal: str, host: str, operation: Operation, kind: ResourceType, name: str
) -> str:
    """StandardAuthorizer's rules, written down as they read."""
    implied = {
        Operation.DESCRIBE: {Operation.READ, Operation.WRITE, Operation.DELETE, Operation.ALTER},
        Operation.DESCRIBE_CONFIGS: {Operation.ALTER_CONFIGS},
    }
    verdict = "none"
    for pattern, rule in bindings:
        if pattern.resource_type is not kind:
            continue
        if pattern.pattern_type is LITERAL and pattern.name not in (name, "*"):
            continue
        if pattern.pattern_type is PREFIXED and not name.startswith(pattern.name):
            continue
        if verdict == "none":
            verdict = "closed"
        if rule.principal not in (principal, "User:*") or rule.host not in (host, "*"):
            continue
        fits = rule.operation in (Operation.ALL, operation)
        if rule.permission is ALLOW:
            fits = fits or rule.operation in implied.get(operation, set())
        if not fits:
            continue
        if rule.permission is DENY:
            return "denied"
        verdict = "allowed"
    return verdict


@given(
    BINDINGS,
    st.sampled_from(["User:a", "User:b", "User:c"]),
    st.sampled_from(["h1", "h3"]),
    st.sampled_from([Operation.READ, Operation.DESCRIBE, Operation.DESCRIBE_CONFIGS, Operation.ALTER_CONFIGS]),
    NAMES.filter(bool),
    st.booleans(),
)
def test_decisions_are_those_of_an_oracle_that_reads_every_rule(
    bindings: list[Binding], principal: str, host: str, operation: Operation, name: str, allow_if_none: bool
) -> None:
    acl = AccessRules(merged({}, bindings), allow_if_none=allow_if_none)
    verdict = slow(bindings, principal, host, operation, TOPIC, name)
    decision = acl.decide(principal, host, operation, TOPIC, name)
    assert decision.is_allowed == (verdict == "allowed" or (verdict == "none" and allow_if_none))
    if verdict in ("allowed", "denied"):
        assert decision.because is not None
        assert decision.because in bindings


@given(BINDINGS, st.sampled_from(["User:a", "User:c"]), st.sampled_from(["h1", "h3"]))
def test_some_name_is_allowed_only_if_there_is_one(bindings: list[Binding], principal: str, host: str) -> None:
    """What `decide_some` grants is granted for some name; what no name is granted it does not grant (without prefixes)."""
    acl = AccessRules(merged({}, bindings))
    names = ["a", "ab", "abc", "b", "*", "ba", "abq", "hardcode", "bq", "aq", "*q", "baq", "abcq"]
    some = any(acl.decide(principal, host, Operation.WRITE, TOPIC, name).is_allowed for name in names)
    if acl.decide_some(principal, host, Operation.WRITE, TOPIC):
        assert some or any(b.rule.permission is DENY for b in bindings)
    elif not any(b.rule.permission is DENY for b in bindings):
        assert not some


def test_a_denial_dominates_what_begins_like_it() -> None:
    write = Operation.WRITE
    assert rules((topic("ab", PREFIXED), allow(write))).decide_some("User:a", "h", write, TOPIC)
    assert not rules((topic("ab", PREFIXED), allow(write)), (topic("a", PREFIXED), deny(write))).decide_some(
        "User:a", "h", write, TOPIC
    )
    assert rules((topic("ab", PREFIXED), allow(write)), (topic("abc", PREFIXED), deny(write))).decide_some(
        "User:a", "h", write, TOPIC
    )
    assert not rules((topic("t"), allow(write)), (topic("t"), deny(write))).decide_some("User:a", "h", write, TOPIC)
    assert not rules((topic("t"), allow(write)), (topic("*"), deny(write))).decide_some("User:a", "h", write, TOPIC)


def every(**more: object) -> BindingFilter:
    fields: dict[str, object] = {
        "resource_type": ResourceType.ANY,
        "name": None,
        "pattern_type": PatternType.ANY,
        "principal": None,
        "host": None,
        "operation": Operation.ANY,
        "permission": Permission.ANY,
        **more,
    }
    return BindingFilter(**fields)  # type: ignore[arg-type]


def test_filters_mean_what_they_mean_in_kafka() -> None:
    found = {
        "literal": topic("abc"),
        "prefix": topic("ab", PREFIXED),
        "all": topic("*"),
        "group": Pattern(GROUP, LITERAL, "abc"),
    }

    def matching(wanted: BindingFilter) -> set[str]:
        return {name for name, pattern in found.items() if wanted.matches_pattern(pattern)}

    assert matching(every()) == set(found)
    assert matching(every(resource_type=TOPIC, name="abc", pattern_type=PatternType.MATCH)) == {
        "literal",
        "prefix",
        "all",
    }
    assert matching(every(name="abc", pattern_type=LITERAL)) == {"literal", "group"}
    assert matching(every(name="abc")) == {"literal", "group"}
    assert matching(every(name="abc", pattern_type=PREFIXED)) == set()
    assert matching(every(resource_type=GROUP, name="abc", pattern_type=PatternType.MATCH)) == {"group"}


def test_rules_survive_the_tree() -> None:
    """Kafka's ZkAclStore: nodes, names of types and operations; names that are no path are encoded."""
    for operation in Operation:
        if operation > Operation.ANY:
            some = (Rule("User:a", "*", operation, DENY), Rule("User:CN=x,O=y", "10.0.0.1", operation, ALLOW))
            assert AclNode.decode("p", AclNode.encode(some)) == some
    assert AclNode.path(topic("*")) == "/kafka-acl/Topic/*"
    assert AclNode.path(Pattern(ResourceType.TRANSACTIONAL_ID, PREFIXED, "x")) == (
        "/kafka-acl-extended/prefixed/TransactionalId/x"
    )
    assert b'"operation":"IdempotentWrite"' in AclNode.encode((allow(Operation.IDEMPOTENT_WRITE),))
    for name in ("..", "a/b", "%2A", "ü", "a.b_c-d"):
        for kind in (LITERAL, PREFIXED):
            assert AclNode.pattern(AclNode.path(topic(name, kind))) == topic(name, kind)


def test_what_is_no_binding_is_refused() -> None:
    good = Binding(topic("t"), allow(Operation.READ))
    assert why_invalid(good) is None
    bad = [
        good._replace(pattern=topic("")),
        good._replace(pattern=topic("t", PatternType.MATCH)),
        good._replace(pattern=Pattern(ResourceType.ANY, LITERAL, "t")),
        good._replace(rule=Rule("User:a", "*", Operation.ANY, ALLOW)),
        good._replace(rule=Rule("User:a", "*", Operation.READ, Permission.ANY)),
        good._replace(rule=Rule("alice", "*", Operation.READ, ALLOW)),
    ]
    assert all(why_invalid(binding) for binding in bad)
