"""What commands print: a table for people, JSON and YAML for programs. Data goes to stdout, all else to stderr."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import click

P = ParamSpec("P")
R = TypeVar("R")

FORMATS = ("table", "json", "yaml")
#: A table that goes into a pipe is as wide as it likes.
_PIPE_WIDTH = 1_000


class Output:
    """How the answer of a command is printed."""

    def __init__(self, form: str) -> None:
        self.form = form

    @property
    def is_table(self) -> bool:
        """Whether a person reads it."""
        return self.form == "table"

    def show(self, value: Any, columns: Sequence[str] = (), rows: Iterable[Sequence[Any]] | None = None) -> None:
        """Print `value`; as a table its `rows`, or its own fields where it is a list of records."""
        if self.form == "json":
            click.echo(json.dumps(plain(value), indent=2, ensure_ascii=False))
        elif self.form == "yaml":
            click.echo("\n".join(yaml_lines(plain(value))))
        else:
            made = (
                [list(row) for row in rows] if rows is not None else [[row[c] for c in columns] for row in plain(value)]
            )
            print_table(columns, made)


def output_options(function: Callable[P, R]) -> Callable[..., R]:
    """Give a command `--output` and `--json`, and an `Output` as the argument `output`."""

    @click.option("--output", "form", type=click.Choice(FORMATS), default="table", help="Default: table.")
    @click.option("--json", "as_json", is_flag=True, help="Short for --output json.")
    @wraps(function)
    def run(*args: Any, form: str, as_json: bool, **rest: Any) -> R:
        return function(*args, output=Output("json" if as_json else form), **rest)  # type: ignore[arg-type]

    return run


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows below their headings; numbers stand to the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        values = [row[number] for row in rows]
        is_number = bool(values) and all(isinstance(value, int | float | None) for value in values)
        table.add_column(column.upper().replace("_", " "), justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell(value)) for value in row))
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False).print(table)


def cell(value: Any) -> str:
    """Return what stands in a table: "-" for nothing, lists comma-separated."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple | set | frozenset):
        return ",".join(map(str, value)) or "-"
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds")
    return str(value)


def plain(value: Any) -> Any:
    """Return what JSON can hold: records become mappings, keys text, times ISO 8601."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: plain(found) for name, found in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(key): plain(found) for key, found in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(found) for found in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value


def yaml_lines(value: Any, indent: str = "") -> list[str]:
    """Return the lines of YAML 1.2 for what `plain` returns: blocks, with JSON's own form for texts that need quotes."""
    if isinstance(value, dict) and value:
        lines = []
        for key, found in value.items():
            name = _yaml_scalar(key)
            if isinstance(found, dict | list) and found:
                lines.append(f"{indent}{name}:")
                lines += yaml_lines(found, indent + "  ")
            else:
                lines.append(f"{indent}{name}: {_yaml_scalar(found)}")
        return lines
    if isinstance(value, list) and value:
        lines = []
        for found in value:
            inner = yaml_lines(found, indent + "  ")
            lines.append(f"{indent}- {inner[0].lstrip()}")
            lines += inner[1:]
        return lines
    return [f"{indent}{_yaml_scalar(value)}"]


def _yaml_scalar(value: Any) -> str:
    if (
        isinstance(value, str)
        and value
        and value[0].isalpha()
        and value.replace("_", "a").replace("-", "a").replace(".", "a").isalnum()
        and value.isascii()
        and value.lower() not in ("true", "false", "null", "yes", "no", "on", "off", "y", "n")
    ):
        return value
    return json.dumps(value, ensure_ascii=False)


def note(text: str) -> None:
    """Tell a person something that is no data."""
    click.echo(text, err=True)
