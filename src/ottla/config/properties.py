"""Java's .properties format, as server.properties is written in. Pure: text in, keys and values out."""

from __future__ import annotations

from ottla.config.keys import ConfigError
from ottla.config.mistakes import Mistakes

_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_BLANK = " \t\f"


def parse_properties(text: str, name: str = "server.properties", *, mistakes: Mistakes | None = None) -> dict[str, str]:
    """Return the settings in a .properties text; of a key that occurs twice, the last.

    Args:
        mistakes: gathers what is wrong, so that the rest can be read; without it the mistakes are raised.

    Raises:
        ConfigError: a \\u escape is not followed by four hexadecimal digits; the message names file and line.
    """
    found = Mistakes() if mistakes is None else mistakes
    settings: dict[str, str] = {}
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        first = number + 1
        line = lines[number].lstrip(_BLANK)
        number += 1
        if not line or line[0] in "#!":
            continue
        while _is_continued(line) and number < len(lines):
            line = line[:-1] + lines[number].lstrip(_BLANK)
            number += 1
        key, value = _split(line)
        with found.caught():
            settings[_unescape(key, name, first)] = _unescape(value, name, first)
    if mistakes is None:
        found.raise_all()
    return settings


def _is_continued(line: str) -> bool:
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def _split(line: str) -> tuple[str, str]:
    """Split at the first unescaped `=`, `:` or blank; blanks around a separator do not count."""
    position = 0
    while position < len(line) and line[position] not in "=:" + _BLANK:
        position += 2 if line[position] == "\\" else 1
    key, rest = line[:position], line[position:].lstrip(_BLANK)
    if rest[:1] in ("=", ":"):
        rest = rest[1:].lstrip(_BLANK)
    return key, rest


def _unescape(text: str, name: str, line: int) -> str:
    if "\\" not in text:
        return text
    out: list[str] = []
    position = 0
    while position < len(text):
        char = text[position]
        position += 1
        if char != "\\":
            out.append(char)
            continue
        char = text[position : position + 1]
        position += 1
        if char == "u":
            digits = text[position : position + 4]
            try:
                out.append(chr(int(digits, 16)))
            except ValueError:
                raise ConfigError(f"{name} line {line}: \\u{digits} is no character") from None
            position += 4
        else:
            out.append(_ESCAPES.get(char, char))
    # Java writes characters beyond U+FFFF as two escapes.
    return "".join(out).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
