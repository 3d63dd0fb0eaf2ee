"""`sasl.kerberos.principal.to.local.rules`: how a principal of Kerberos becomes a user. Pure; patterns run on RE2.

A principal is `primary@REALM` or `primary/instance@REALM`. The rules stand in order, and the first that is about it counts:

    DEFAULT                                   the primary, of principals of the default realm
    RULE:[n:text](pattern)s/from/to/g/L       for n components: `text` with $0 (realm), $1, $2 is put together; if `pattern`
                                              matches all of it, `from` becomes `to`, in lower (L) or upper case (U)

The grammar is that of Kafka's KerberosShortNamer (KIP-292's `/U` included). Where no rule is about it there is no login.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ottla.patterns import Pattern, PatternError, compile_pattern
from ottla.security.mapping import MappingRuleError, expand

_RULE = re.compile(
    r"(?P<default>DEFAULT)|RULE:\[(?P<count>\d+):(?P<format>[^\]]*)\](?:\((?P<pattern>[^)]*)\))?"
    r"(?:s/(?P<from>[^/]*)/(?P<to>[^/]*)/(?P<all>g)?)?/?(?P<case>[LU]?)"
)
_PRINCIPAL = re.compile(r"(?P<primary>[^/@]*)(?:/(?P<instance>[^/@]*))?@(?P<realm>[^/@]*)")
_PARAMETER = re.compile(r"\$(\d*)")
_CASES: dict[str, Callable[[str], str]] = {"": str, "L": str.lower, "U": str.upper}
_NOT_SIMPLE = re.compile(r"[/@]")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """One `RULE:`; `count` is of components without the realm."""

    count: int
    format: str
    pattern: Pattern | None
    replaced: Pattern | None
    replacement: str
    replaces_all: bool
    change_case: Callable[[str], str]

    def apply(self, parts: Sequence[str]) -> str | None:
        if len(parts) - 1 != self.count:
            return None
        base = _PARAMETER.sub(lambda match: parts[int(match[1])], self.format)
        if self.pattern is not None and not self.pattern.fullmatch(base):
            return None
        if self.replaced is not None:
            base = self.replaced.sub(
                lambda match: expand(self.replacement, match[0], match.groups()),
                base,
                count=0 if self.replaces_all else 1,
            )
        return self.change_case(base)


class KerberosNames:
    """The rules of one listener.

    Args:
        rules: as the setting has them.
        default_realm: whose principals `DEFAULT` is about; "": no realm's.
    """

    def __init__(self, rules: Sequence[str], default_realm: str) -> None:
        """Read the rules.

        Raises:
            MappingRuleError: with the rule that is wrong.
        """
        self._default_realm = default_realm
        self._rules = [_read(rule.strip()) for rule in rules]

    def user_of(self, principal: str) -> str | None:
        """Return the user of a principal; None if no rule is about it, or it is none."""
        match = _PRINCIPAL.fullmatch(principal)
        if match is None:
            return None
        parts = [match["realm"], match["primary"], *([] if match["instance"] is None else [match["instance"]])]
        for rule in self._rules:
            if rule is None:
                found = parts[1] if self._default_realm == parts[0] else None
            else:
                found = rule.apply(parts)
            if found is not None:
                # A name that is still one of Kerberos ends it, whatever rules follow (Kafka).
                return None if _NOT_SIMPLE.search(found) else found
        return None


def _read(text: str) -> _Rule | None:
    """Return a rule; None: it is DEFAULT."""
    match = _RULE.fullmatch(text)
    if match is None:
        raise MappingRuleError(
            f"cannot read {text[:100]!r}; write DEFAULT or RULE:[n:format](pattern)s/from/to/g/L, and no commas in it"
        )
    if match["default"]:
        return None
    count = int(match["count"])
    for number in _PARAMETER.findall(match["format"]):
        if not number or int(number) > count:
            raise MappingRuleError(f"${number} of {text[:100]!r} must be $0 to ${count}")
    return _Rule(
        count=count,
        format=match["format"],
        pattern=_compile(match["pattern"]),
        replaced=_compile(match["from"]),
        replacement=match["to"] or "",
        replaces_all=match["all"] is not None,
        change_case=_CASES[match["case"]],
    )


def _compile(pattern: str | None) -> Pattern | None:
    if pattern is None:
        return None
    try:
        return compile_pattern(pattern)
    except PatternError as error:
        raise MappingRuleError(f"{pattern!r} cannot be run in linear time: {error}") from None
