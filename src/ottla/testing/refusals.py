"""Answers that say one error code about everything a request asked for.

Made by the shape of the messages, so that it works for every API in every version: an `error_code` gets the code, an
array of the answer is filled from the array of the request that it answers, and names, ids and indexes are copied.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from ottla.errors import ErrorCode, error_for
from ottla.protocol.api import APIS, ApiKey
from ottla.protocol.messages.fetch import FetchRequest, FetchResponse
from ottla.protocol.schema import Message

#: Names of the same thing in requests and answers.
_ALIASES = {
    "partition_index": ("partition_index", "index", "partition", "partition_id"),
    "index": ("index", "partition_index", "partition"),
    "partition": ("partition", "partition_index", "index"),
    "partition_id": ("partition_id", "partition_index", "partition", "index"),
    "topic": ("topic", "name", "topic_name"),
    "name": ("name", "topic", "topic_name"),
    "topic_name": ("topic_name", "topic", "name"),
    "group_id": ("group_id", "group", "name"),
    "key": ("key", "name"),
}
_CODES = ("error_code", "partition_error_code")


class NoRoomForErrorError(ValueError):
    """The answer to this request has no place for an error code."""


def refuse(key: ApiKey, version: int, request: Message, code: int) -> Message:
    """Return the answer to a request that says `code` about all of it.

    Raises:
        NoRoomForErrorError: there is no place for it.
    """
    if isinstance(request, FetchRequest) and request.session_epoch > 0 and not _is_about_session(code):
        # A request of a fetch session names changes only. Refused, the client names all partitions in the next one.
        return FetchResponse(error_code=ErrorCode.FETCH_SESSION_ID_NOT_FOUND)
    response = APIS[key].response_class()()
    if not _fill(response, request, version, code):
        raise NoRoomForErrorError(f"the answer to {APIS[key].name} has no place for an error code")
    return response


def counts(request: Message, response: Message, code: int) -> bool:
    """Whether an answer of `refuse` told the code, and not only that all is to be asked again."""
    return not isinstance(response, FetchResponse) or response.error_code in (0, code)


def _is_about_session(code: int) -> bool:
    return code in (
        ErrorCode.FETCH_SESSION_ID_NOT_FOUND,
        ErrorCode.INVALID_FETCH_SESSION_EPOCH,
        ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR,
    )


def _fill(answer: Any, asked: Any, version: int, code: int) -> bool:
    """Put the code into an answer, or a part of one; return whether there was a place."""
    placed = False
    own: str | None = None
    module = sys.modules[type(answer).__module__]
    lines = [(name, kind) for name, kind, versions in _lines(answer) if _has(versions, version)]
    for name, kind in lines:
        if name in _CODES:
            own = name
        elif kind == "records":
            setattr(answer, name, b"")
        elif not kind.startswith("[]"):
            _copy(answer, asked, name)
    for name, kind in lines:
        element = getattr(module, kind.removeprefix("[]"), None)
        if not kind.startswith("[]") or not isinstance(element, type) or not _leads_to_code(element, version):
            continue
        rows = []
        for item in _items(asked, name):
            row = element()
            if isinstance(item, int | str):
                _set_first(row, item)
            placed |= _fill(row, item, version, code)
            rows.append(row)
        setattr(answer, name, rows)
    # Where the parts have codes of their own, the whole keeps none, unless the code is about the whole.
    if own is not None and (not placed or (isinstance(answer, FetchResponse) and _is_about_session(code))):
        setattr(answer, own, code)
        if any(name == "error_message" for name, _ in lines):
            answer.error_message = str(error_for(code))
        return True
    return placed


def _copy(answer: Any, asked: Any, name: str) -> None:
    for candidate in _ALIASES.get(name, (name,)):
        value = getattr(asked, candidate, None)
        if isinstance(value, int | str | bytes) and not isinstance(value, bool):
            default = getattr(answer, name)
            if type(default) is type(value) or default is None:
                setattr(answer, name, value)
                return


def _set_first(row: Any, item: int | str) -> None:
    """Put a bare number or name where it belongs: the first field of its type that is no code."""
    for name, _, _ in _lines(row):
        if name not in (*_CODES, "error_message") and type(getattr(row, name)) is type(item):
            setattr(row, name, item)
            return


def _items(asked: Any, name: str) -> list[Any]:
    """The array of a request that an array of the answer is about: of the same name, or else the first that has anything."""
    found = getattr(asked, name, None)
    if isinstance(found, list) and found:
        return found
    arrays = [getattr(asked, name) for name, kind, _ in _lines(asked) if kind.startswith("[]")]
    return next((array for array in arrays if isinstance(array, list) and array), [])


def _leads_to_code(element: type, version: int) -> bool:
    module = sys.modules[element.__module__]
    for name, kind, versions in _lines(element):
        if not _has(versions, version):
            continue
        if name in _CODES:
            return True
        inner = getattr(module, kind.removeprefix("[]"), None)
        if kind.startswith("[]") and isinstance(inner, type) and _leads_to_code(inner, version):
            return True
    return False


def _lines(part: Any) -> Iterator[tuple[str, str, str]]:
    """Yield (name, type, versions) of each field of a message, a part of one, or a class of them."""
    for line in getattr(part, "SCHEMA", ()):
        name, kind, versions = line.split()[:3]
        yield name, kind, versions


def _has(versions: str, version: int) -> bool:
    low, dash, high = versions.rstrip("+").partition("-")
    if versions.endswith("+"):
        return version >= int(low)
    return int(low) <= version <= int(high if dash else low)
