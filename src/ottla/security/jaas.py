"""JAAS lines, as they stand in `sasl.jaas.config`: `Module flag key="value" ...;`. Text in, options out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<word>[^\s=;"']+)|(?P<mark>[=;]))""", re.DOTALL
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_FLAGS = ("required", "requisite", "sufficient", "optional")


class JaasError(ValueError):
    """A line that cannot be read; the text says what is wrong and shows none of its values."""


@dataclass(frozen=True, slots=True)
class JaasEntry:
    """One login module and its options. What it shows of itself has no values: passwords are among them."""

    module: str
    flag: str
    options: Mapping[str, str]

    def __repr__(self) -> str:
        return f"JaasEntry({self.module}, {sorted(self.options)}, [hidden])"

    @property
    def module_name(self) -> str:
        """The class without its package: PlainLoginModule, ScramLoginModule, ..."""
        return self.module.rpartition(".")[2]


def parse_jaas(text: str) -> JaasEntry:
    """Return the one entry of a line.

    Raises:
        JaasError: it is none, or has several modules (Kafka takes one).
    """
    tokens = list(_tokens(text))
    position = 0

    def take() -> tuple[str, str]:
        nonlocal position
        if position >= len(tokens):
            raise JaasError("the JAAS line ends too early: it must end with a semicolon")
        position += 1
        return tokens[position - 1]

    kind, module = take()
    if kind != "word":
        raise JaasError("the JAAS line must begin with the class of a login module")
    kind, flag = take()
    if kind != "word" or flag.lower() not in _FLAGS:
        raise JaasError(f"the second word of the JAAS line must be one of {', '.join(_FLAGS)}")
    options: dict[str, str] = {}
    while True:
        kind, key = take()
        if kind == "mark" and key == ";":
            break
        if kind != "word":
            raise JaasError("the JAAS line must have options as key=value")
        mark, equals = take()
        if mark != "mark" or equals != "=":
            raise JaasError(f"the JAAS option {key} has no value")
        kind, value = take()
        if kind == "mark":
            raise JaasError(f"the JAAS option {key} has no value")
        options[key] = value
    if position < len(tokens):
        raise JaasError("the JAAS line must have one login module only")
    return JaasEntry(module, flag.lower(), options)


def _tokens(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            raise JaasError("the JAAS line has a quotation mark without its partner")
        position = match.end()
        if (string := match["string"]) is not None:
            body = re.sub(r"\\(.)", lambda escaped: _ESCAPES.get(escaped[1], escaped[1]), string[1:-1], flags=re.DOTALL)
            found.append(("string", body))
        elif (word := match["word"]) is not None:
            found.append(("word", word))
        else:
            found.append(("mark", match["mark"]))
    return found
