"""Places of fields: plain names (V1), or names joined by dots, in backticks where they hold dots (V2, KIP-821)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ottla.connect.config_def import ConfigError, ConfigKey, Importance, one_of_any_case
from ottla.connect.errors import DataError
from ottla.connect.schema import Field, Schema, Struct

SYNTAX = ConfigKey(
    name="field.syntax.version",
    default="V1",
    validator=one_of_any_case("V1", "V2"),
    importance=Importance.HIGH,
    documentation="V1: the name of a field of the record itself. V2: names joined by dots lead into structs and maps;"
    " a name with dots stands in backticks.",
)

#: A name up to a dot or the end. In backticks it ends at one that a dot or the end follows and no backslash precedes.
_STEP = re.compile(
    r"""`(?P<quoted>(?:[^`]|`(?=[^.])|(?<=\\)`(?=\.))*)(?<!\\)`(?=\.|\Z)
    |(?P<plain>(?:[^`.][^.]*)?)(?=\.|\Z)""",
    re.VERBOSE,
)


class FieldPath:
    """One place.

    Raises:
        ConfigError: a backtick is not closed.
    """

    def __init__(self, text: str, version: str) -> None:
        self.steps = [text] if version.upper() == "V1" else _split(text)

    def field(self, schema: Schema) -> Field | None:
        """Return the field at this place of a schema, or None."""
        for step in self.steps[:-1]:
            found = schema.field(step)
            if found is None:
                return None
            schema = found.schema
        return schema.field(self.steps[-1])

    def in_struct(self, value: Struct, *, with_default: bool) -> Any:
        """Return what is there, or None."""
        owner = self._owner(value, Struct, lambda struct, step: struct[step] if struct.schema.field(step) else None)
        last = self.steps[-1]
        if owner is None or owner.schema.field(last) is None:
            return None
        return owner.get(last, with_default=with_default)

    def in_map(self, value: dict[Any, Any]) -> Any:
        """Return what is there, or None."""
        owner = self._owner(value, dict, dict.get)
        return None if owner is None else owner.get(self.steps[-1])

    def _owner(self, value: Any, kind: type, look_up: Callable[[Any, str], Any]) -> Any:
        """Return the struct or map that has the last name of the path; None if the way ends before."""
        for step in self.steps[:-1]:
            value = look_up(value, step)
            if value is None:
                return None
            if not isinstance(value, kind):
                raise DataError(
                    f"a path leads through {step}, which holds no {kind.__name__} but a {type(value).__name__}"
                )
        return value


def _split(text: str) -> list[str]:
    """Return the names of a path."""
    steps = []
    at = 0
    while at < len(text):
        step = _STEP.match(text, at)
        if step is None:
            raise _open(text, at)
        quoted = step["quoted"]
        steps.append(step["plain"] if quoted is None else quoted.replace("\\`.", "`."))
        at = step.end() + 1
    return [*steps, ""] if text.endswith(".") else steps


def _open(text: str, position: int) -> ConfigError:
    return ConfigError(
        f"Incomplete backtick pair in path: [{text}], consider adding a backslash before backtick at position {position}"
        " to escape it"
    )
