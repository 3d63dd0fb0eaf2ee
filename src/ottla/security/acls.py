"""Access control lists: the rules, and what they say about one request. Apache Kafka's StandardAuthorizer, to the letter.

Pure: rules and names in, decisions out. A rule is about resources (of one name, of names that begin so, of all: `*`), a
principal (or all: `User:*`), a host in Java's spelling (or `*`), an operation (or ALL). A denial goes before every
permission; READ, WRITE, DELETE and ALTER imply DESCRIBE, ALTER_CONFIGS implies DESCRIBE_CONFIGS, in permissions only. A
resource without any rule is closed, unless `allow.everyone.if.no.acl.found` says otherwise.

Source: StandardAuthorizerData, and Authorizer.authorizeByResourceType.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from typing import NamedTuple


class ResourceType(IntEnum):
    UNKNOWN = 0
    ANY = 1
    TOPIC = 2
    GROUP = 3
    CLUSTER = 4
    TRANSACTIONAL_ID = 5
    DELEGATION_TOKEN = 6
    USER = 7


class PatternType(IntEnum):
    UNKNOWN = 0
    ANY = 1
    MATCH = 2
    LITERAL = 3
    PREFIXED = 4


class Operation(IntEnum):
    UNKNOWN = 0
    ANY = 1
    ALL = 2
    READ = 3
    WRITE = 4
    CREATE = 5
    DELETE = 6
    ALTER = 7
    DESCRIBE = 8
    CLUSTER_ACTION = 9
    DESCRIBE_CONFIGS = 10
    ALTER_CONFIGS = 11
    IDEMPOTENT_WRITE = 12
    CREATE_TOKENS = 13
    DESCRIBE_TOKENS = 14
    TWO_PHASE_COMMIT = 15


class Permission(IntEnum):
    UNKNOWN = 0
    ANY = 1
    DENY = 2
    ALLOW = 3


WILDCARD = "*"
EVERYBODY = "User:*"
CLUSTER_NAME = "kafka-cluster"

#: What an operation on a resource of a type can be, by KIP-430's numbers.
OPERATIONS: Mapping[ResourceType, tuple[Operation, ...]] = {
    ResourceType.TOPIC: (
        *(Operation.READ, Operation.WRITE, Operation.CREATE, Operation.DELETE, Operation.ALTER, Operation.DESCRIBE),
        *(Operation.DESCRIBE_CONFIGS, Operation.ALTER_CONFIGS),
    ),
    ResourceType.GROUP: (
        *(Operation.READ, Operation.DELETE, Operation.DESCRIBE, Operation.DESCRIBE_CONFIGS, Operation.ALTER_CONFIGS),
    ),
    ResourceType.CLUSTER: (
        *(Operation.CREATE, Operation.ALTER, Operation.DESCRIBE, Operation.CLUSTER_ACTION),
        *(Operation.DESCRIBE_CONFIGS, Operation.ALTER_CONFIGS, Operation.IDEMPOTENT_WRITE),
    ),
    ResourceType.TRANSACTIONAL_ID: (Operation.WRITE, Operation.DESCRIBE, Operation.TWO_PHASE_COMMIT),
    ResourceType.DELEGATION_TOKEN: (Operation.DESCRIBE,),
    ResourceType.USER: (Operation.CREATE_TOKENS, Operation.DESCRIBE_TOKENS),
}

_IMPLIED: Mapping[Operation, frozenset[Operation]] = {
    Operation.DESCRIBE: frozenset(
        {Operation.DESCRIBE, Operation.READ, Operation.WRITE, Operation.DELETE, Operation.ALTER}
    ),
    Operation.DESCRIBE_CONFIGS: frozenset({Operation.DESCRIBE_CONFIGS, Operation.ALTER_CONFIGS}),
}


class Pattern(NamedTuple):
    """The resources that rules are about."""

    resource_type: ResourceType
    pattern_type: PatternType
    name: str


class Rule(NamedTuple):
    """Who may, or may not, do what from where."""

    principal: str
    host: str
    operation: Operation
    permission: Permission


class Binding(NamedTuple):
    """A rule, and the resources that it is about."""

    pattern: Pattern
    rule: Rule


class BindingFilter(NamedTuple):
    """Which bindings are meant; None and ANY mean all of them."""

    resource_type: ResourceType
    name: str | None
    pattern_type: PatternType
    principal: str | None
    host: str | None
    operation: Operation
    permission: Permission

    def matches(self, binding: Binding) -> bool:
        """Return whether a binding is meant."""
        return self.matches_pattern(binding.pattern) and self.matches_rule(binding.rule)

    def matches_pattern(self, pattern: Pattern) -> bool:
        """Return whether rules about these resources may be meant. MATCH means: those that concern a resource of the name."""
        if self.resource_type not in (ResourceType.ANY, pattern.resource_type):
            return False
        if self.pattern_type not in (PatternType.ANY, PatternType.MATCH, pattern.pattern_type):
            return False
        if self.name is None:
            return True
        if self.pattern_type in (PatternType.ANY, pattern.pattern_type):
            return self.name == pattern.name
        if pattern.pattern_type is PatternType.LITERAL:
            return pattern.name in (self.name, WILDCARD)
        return self.name.startswith(pattern.name)

    def matches_rule(self, rule: Rule) -> bool:
        """Return whether a rule may be meant."""
        return (
            self.principal in (None, rule.principal)
            and self.host in (None, rule.host)
            and self.operation in (Operation.ANY, rule.operation)
            and self.permission in (Permission.ANY, rule.permission)
        )


class Decision(NamedTuple):
    """What the rules say; `because` is the binding that decided, None where there was none about it."""

    is_allowed: bool
    because: Binding | None


Rules = Mapping[Pattern, tuple[Rule, ...]]


class AccessRules:
    """All rules of a cluster, arranged for questions about single resources.

    A question costs as many look-ups as the name has prefixes that some rule names, not as there are rules.
    """

    def __init__(self, rules: Rules, *, allow_if_none: bool = False) -> None:
        self._rules = rules
        self._allow_if_none = allow_if_none
        self._literal: dict[ResourceType, dict[str, tuple[Rule, ...]]] = {}
        self._prefixed: dict[ResourceType, dict[str, tuple[Rule, ...]]] = {}
        self._prefix_sizes: dict[ResourceType, list[int]] = {}
        #: Whether some rule is about one host: then decisions depend on it.
        self.names_hosts = False
        for pattern, some in rules.items():
            if not some:
                continue
            table = self._literal if pattern.pattern_type is PatternType.LITERAL else self._prefixed
            table.setdefault(pattern.resource_type, {})[pattern.name] = some
            self.names_hosts = self.names_hosts or any(rule.host != WILDCARD for rule in some)
        for kind, names in self._prefixed.items():
            self._prefix_sizes[kind] = sorted({len(name) for name in names})

    def bindings(self) -> Iterator[Binding]:
        """All of them."""
        for pattern, some in self._rules.items():
            for rule in some:
                yield Binding(pattern, rule)

    def _about(self, kind: ResourceType, name: str) -> Iterator[tuple[Pattern, tuple[Rule, ...]]]:
        """The rules about a resource."""
        literal = self._literal.get(kind)
        if literal is not None:
            for one in (name, WILDCARD) if name != WILDCARD else (name,):
                some = literal.get(one)
                if some is not None:
                    yield Pattern(kind, PatternType.LITERAL, one), some
        prefixed = self._prefixed.get(kind)
        if prefixed is not None:
            for size in self._prefix_sizes[kind]:
                if size > len(name):
                    break
                some = prefixed.get(name[:size])
                if some is not None:
                    yield Pattern(kind, PatternType.PREFIXED, name[:size]), some

    def decide(self, principal: str, host: str, operation: Operation, kind: ResourceType, name: str) -> Decision:
        """Return whether a principal at a host may do something with a resource."""
        allowed: Binding | None = None
        is_about = False
        for pattern, some in self._about(kind, name):
            is_about = True
            for rule in some:
                if not _concerns(rule, principal, host, operation):
                    continue
                if rule.permission is Permission.DENY:
                    return Decision(False, Binding(pattern, rule))
                allowed = allowed or Binding(pattern, rule)
        if allowed is not None:
            return Decision(True, allowed)
        return Decision(self._allow_if_none and not is_about, None)

    def decide_some(self, principal: str, host: str, operation: Operation, kind: ResourceType) -> bool:
        """Return whether there is a name of this type with which the principal may do this (KAFKA-10854).

        A permission for names that begin so counts unless a denial is about all of them.
        """
        if self.decide(principal, host, operation, kind, "hardcode").is_allowed:
            return True
        denied: dict[PatternType, set[str]] = {PatternType.LITERAL: set(), PatternType.PREFIXED: set()}
        allowed: dict[PatternType, list[str]] = {PatternType.LITERAL: [], PatternType.PREFIXED: []}
        is_allowed_for_all = False
        for binding in self.bindings():
            pattern, rule = binding
            if (
                pattern.resource_type is not kind
                or rule.host not in (host, WILDCARD)
                or rule.principal not in (principal, EVERYBODY)
                or rule.operation not in (operation, Operation.ALL)
            ):
                continue
            is_wildcard = pattern.pattern_type is PatternType.LITERAL and pattern.name == WILDCARD
            if rule.permission is Permission.DENY:
                if is_wildcard:
                    return False
                denied[pattern.pattern_type].add(pattern.name)
            elif is_wildcard:
                is_allowed_for_all = True
            else:
                allowed[pattern.pattern_type].append(pattern.name)
        if is_allowed_for_all:
            return True
        prefixes = denied[PatternType.PREFIXED]
        return any(
            not (pattern_type is PatternType.LITERAL and name in denied[PatternType.LITERAL])
            and not any(name[:size] in prefixes for size in range(1, len(name) + 1))
            for pattern_type, names in allowed.items()
            for name in names
        )


def _concerns(rule: Rule, principal: str, host: str, operation: Operation) -> bool:
    if rule.principal not in (principal, EVERYBODY) or rule.host not in (host, WILDCARD):
        return False
    if rule.operation in (operation, Operation.ALL):
        return True
    return rule.permission is Permission.ALLOW and rule.operation in _IMPLIED.get(operation, ())


def why_invalid(binding: Binding) -> str | None:
    """Return what is wrong with a binding that is to be made, as Kafka says it; None if nothing is."""
    pattern, rule = binding
    if pattern.pattern_type not in (PatternType.LITERAL, PatternType.PREFIXED):
        return f"Invalid pattern type {pattern.pattern_type.name}"
    if pattern.resource_type in (ResourceType.UNKNOWN, ResourceType.ANY):
        return f"Invalid resource type {pattern.resource_type.name}"
    if rule.permission not in (Permission.DENY, Permission.ALLOW):
        return f"Invalid permission type {rule.permission.name}"
    if rule.operation in (Operation.UNKNOWN, Operation.ANY):
        return f"Invalid operation type {rule.operation.name}"
    if not pattern.name:
        return "Resource name should not be empty"
    kind, colon, name = rule.principal.partition(":")
    if not colon or not kind or not name:
        return (
            f"Could not parse principal from `{rule.principal}` (no colon is present separating the principal type from the "
            "principal name)"
        )
    return None


def merged(
    rules: Rules, created: Iterable[Binding], deleted: Iterable[Binding] = ()
) -> dict[Pattern, tuple[Rule, ...]]:
    """Return the rules with some more and some less."""
    found = dict(rules)
    for pattern, rule in created:
        some = found.get(pattern, ())
        if rule not in some:
            found[pattern] = (*some, rule)
    for pattern, rule in deleted:
        some = tuple(one for one in found.get(pattern, ()) if one != rule)
        if some:
            found[pattern] = some
        else:
            found.pop(pattern, None)
    return found
