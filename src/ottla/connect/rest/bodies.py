"""Bodies of requests as Java's REST interface reads them: numbers and booleans become the texts that they were written as."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ottla.connect.runtime.herder import HerderError

Config = dict[str, str | None]


class _Written(str):
    """A number, as it was written."""


def _read(body: bytes, *, keeps_numbers: bool = False) -> Any:
    if not body.strip():
        raise HerderError(400, "The request needs a body in JSON")
    try:
        text = body.decode()
        if keeps_numbers:
            return json.loads(text)
        return json.loads(text, parse_int=_Written, parse_float=_Written, parse_constant=_Written)
    except ValueError as error:
        raise HerderError(400, f"The body is no JSON: {error}") from None


def read_config(body: bytes) -> Config:
    """Return an object of texts.

    Raises:
        HerderError: it is none (400).
    """
    return _config(_read(body), "The body")


def _config(found: Any, what: str) -> Config:
    if not isinstance(found, dict):
        raise HerderError(400, f"{what} is no object with texts")
    return {name: _text(name, value) for name, value in found.items()}


def _text(name: str, value: Any) -> str | None:
    match value:
        case None:
            return None
        case bool():
            return "true" if value else "false"
        case str():
            return str(value)
    raise HerderError(400, f"The value of {name} is neither a text nor a number")


def read_connector(body: bytes) -> tuple[str, Config, str | None]:
    """Return the name, the configuration and the state that a new connector is to have.

    Raises:
        HerderError: it is no such object (400).
    """
    found = _read(body)
    if not isinstance(found, dict):
        raise HerderError(400, 'The body is no object {"name": ..., "config": {...}}')
    strange = sorted(set(found) - {"name", "config", "initial_state"})
    if strange:
        raise HerderError(400, f"Unrecognized field {strange[0]!r}; there are name, config and initial_state")
    state = found.get("initial_state")
    if state is not None and (not isinstance(state, str) or state.upper() not in ("RUNNING", "PAUSED", "STOPPED")):
        raise HerderError(400, f"initial_state can be RUNNING, PAUSED or STOPPED, and not {state!r}")
    name = _text("name", found.get("name"))
    if found.get("config") is None:
        raise HerderError(400, "The request has no config")
    return (name or "").strip(), _config(found["config"], "config"), None if state is None else state.upper()


def read_offsets(body: bytes) -> list[tuple[Any, Any]]:
    """Return pairs of a partition and an offset, each an object or None.

    Raises:
        HerderError: they are none, or there are none (400).
    """
    found = _read(body, keeps_numbers=True)
    if not isinstance(found, dict):
        raise HerderError(400, 'The body is no object {"offsets": [...]}')
    rows = found.get("offsets")
    if not rows:
        raise HerderError(400, "Partitions / offsets need to be provided for an alter offsets request")
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise HerderError(400, 'offsets is no list of objects {"partition": {...}, "offset": {...}}')
    pairs = [(row.get("partition"), row.get("offset")) for row in rows]
    for pair in pairs:
        if not all(part is None or isinstance(part, dict) for part in pair):
            raise HerderError(400, "A partition and an offset are objects, or null")
    return pairs
