"""`ssl.principal.mapping.rules`: how the name in a certificate becomes the name of a user. Pure; patterns run on RE2.

`RULE:pattern/replacement/[LU]`, comma-separated, the first that matches the whole name counts; `DEFAULT` takes the name as
it is. Where no rule matches there is no login. Java's patterns can do more than RE2's (back references, look-around); such a
rule is refused at the start, since a certificate's owner could make it run for ever.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ottla.patterns import Pattern, PatternError, compile_pattern

_RULE = re.compile(
    r"\s*(?:(?P<default>DEFAULT)|RULE:(?P<pattern>(?:\\.|[^\\/])*)/(?P<replacement>(?:\\.|[^\\/])*)/(?P<case>[LU]?))\s*(?:,|$)"
)
_GROUP = re.compile(r"\\(.)|\$(\d)")


class MappingRuleError(ValueError):
    """A rule cannot be read, or RE2 cannot run it."""


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: Pattern | None
    replacement: str
    change_case: Callable[[str], str]

    def apply(self, name: str) -> str | None:
        if self.pattern is None:
            return name
        match = self.pattern.fullmatch(name)
        if not match:
            return None
        return self.change_case(expand(self.replacement, name, match.groups()))


class PrincipalMapping:
    """The rules of one listener."""

    def __init__(self, rules: str) -> None:
        """Read the rules.

        Raises:
            MappingRuleError: with the rule that is wrong.
        """
        text = rules.strip() or "DEFAULT"
        self._rules: list[_Rule] = []
        position = 0
        while position < len(text):
            match = _RULE.match(text, position)
            if match is None:
                raise MappingRuleError(
                    f"ssl.principal.mapping.rules: cannot read {text[position : position + 100]!r}; write DEFAULT or "
                    "RULE:pattern/replacement/[LU]"
                )
            position = match.end()
            change = {"": _same, "L": str.lower, "U": str.upper}[match["case"] or ""]
            if match["default"]:
                self._rules.append(_Rule(None, "", _same))
                continue
            try:
                pattern = compile_pattern(match["pattern"].strip())
            except PatternError as error:
                raise MappingRuleError(
                    f"ssl.principal.mapping.rules: {match['pattern'].strip()!r} cannot be run in linear time: {error}"
                ) from None
            self._rules.append(_Rule(pattern, match["replacement"].strip(), change))

    def user_of(self, name: str) -> str | None:
        """Return the user of a certificate's name; None if no rule is about it."""
        for rule in self._rules:
            found = rule.apply(name)
            if found is not None:
                return found
        return None


def expand(replacement: str, whole: str, groups: Sequence[str | None]) -> str:
    """Return a replacement as Java writes it, with what was matched in the places of $0, $1, ...; `\\` quotes."""

    def part(reference: re.Match[str]) -> str:
        if reference[1] is not None:
            return reference[1]
        number = int(reference[2])
        if number == 0:
            return whole
        return (groups[number - 1] or "") if number <= len(groups) else reference[0]

    return _GROUP.sub(part, replacement)


def _same(text: str) -> str:
    return text
