"""Regular expressions as Java writes them, by Python's `re`: named groups and references in replacements are translated."""

from __future__ import annotations

import re

from ottla.connect.config_def import ConfigError, Validator, check

_REFERENCE = re.compile(r"\\(.)|\$\{([A-Za-z][A-Za-z0-9]*)\}|\$([0-9]+)|([$\\])", re.DOTALL)


def compile_pattern(text: str) -> re.Pattern[str]:
    """Return a compiled pattern.

    Raises:
        re.error: it is none.
    """
    return re.compile(re.sub(r"\(\?<(?=[A-Za-z])", "(?P<", text))


def _valid(name: str, value: str | None) -> None:
    try:
        compile_pattern(value or "")
    except re.error as error:
        raise ConfigError.of(name, value, f"Invalid regex: {error}") from None


VALID_REGEX: Validator = check(_valid, "valid regex")


def replace_first(found: re.Match[str], replacement: str) -> str:
    """Return the text that was searched with what was found replaced, as `Matcher.replaceFirst` does: $1, ${name}, \\$.

    Raises:
        ConfigError: the replacement refers to a group that there is not.
    """
    groups = found.re.groups

    def put(reference: re.Match[str]) -> str:
        char, name, digits, wrong = reference.groups()
        if char is not None:
            return str(char)
        try:
            if wrong is None and name is not None:
                return found[name] or ""
            if wrong is None:
                count = 1  # more digits belong to a reference while there is such a group
                while count < len(digits) and int(digits[: count + 1]) <= groups:
                    count += 1
                return (found[int(digits[:count])] or "") + str(digits[count:])
        except IndexError:
            pass
        raise ConfigError(f"The replacement {replacement!r} refers to no group of {found.re.pattern!r}")

    return found.string[: found.start()] + _REFERENCE.sub(put, replacement) + found.string[found.end() :]
