"""How one instance asks another: a question in an address, an answer of bytes in JSON. Between releases it only grows."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

from ottla.streams.errors import StoreMovingError
from ottla.streams.queries.answers import Answer, Question
from ottla.streams.queries.board import Standing
from ottla.streams.queries.rows import Row
from ottla.streams.topology import TaskId

#: Where a question of another instance goes: it is answered here, or not at all.
PATH: Final = "/forwarded/"
_TIMEOUT_S: Final = 5.0
_BYTES: Final = ("key", "since", "until")
_PLAIN: Final = ("store", "window_since", "window_until", "limit", "partition", "as_of")


def _b64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def _unb64(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text, validate=True)


def pack_question(question: Question) -> str:
    """Return a question as text."""
    found: dict[str, Any] = {name: getattr(question, name) for name in _PLAIN}
    found.update({name: _b64(getattr(question, name)) for name in _BYTES})
    return json.dumps({name: value for name, value in found.items() if value is not None}, separators=(",", ":"))


def unpack_question(text: str) -> Question:
    """Return the question that a text means.

    Raises:
        ValueError: it means none.
    """
    found = json.loads(text)
    if not isinstance(found, dict) or not isinstance(found.get("store"), str):
        raise ValueError("a question is an object in JSON that names a store")
    wrong = [name for name in _PLAIN[1:] if type(found.get(name, 0)) is not int]
    wrong += [name for name in _BYTES if type(found.get(name, "")) is not str]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: not what a question has there")
    given: dict[str, Any] = {name: found[name] for name in _PLAIN if name in found}
    given.update({name: _unb64(found[name]) for name in _BYTES if name in found})
    return Question(**given)


def pack_answer(answer: Answer) -> dict[str, Any]:
    """Return an answer as JSON has it."""
    return {
        "task": str(answer.task),
        "rows": [[_b64(row.key), row.start, row.end, _b64(row.value), row.timestamp] for row in answer.rows],
        "complete": answer.complete,
        "positions": dict(answer.standing.positions),
        "lag": dict(answer.standing.lag),
        "time_ms": answer.standing.time_ms,
    }


def unpack_answer(found: Mapping[str, Any]) -> Answer:
    """Return what `pack_answer` was given.

    Raises:
        ValueError, KeyError, TypeError: it is no answer.
    """
    sub, _, partition = str(found["task"]).partition("_")
    return Answer(
        task=TaskId(int(sub), int(partition)),
        rows=[
            Row(_unb64(key) or b"", start, end, _unb64(value) or b"", timestamp)
            for key, start, end, value, timestamp in found["rows"]
        ],
        complete=bool(found["complete"]),
        standing=Standing(positions=found["positions"], lag=found["lag"], time_ms=int(found["time_ms"])),
    )


def forwarder(application_id: str) -> Callable[[str, TaskId, Question], Answer]:
    """Return what asks another instance of an application, once.

    It raises StoreMovingError if that instance cannot be reached, says so itself, or is of another application.
    """

    def forward(endpoint: str, task: TaskId, question: Question) -> Answer:
        host, _, port = endpoint.rpartition(":")
        path = f"{PATH}{application_id}/{task}?question={quote(pack_question(question), safe='')}"
        moving = f"Task {task}, which has these rows of {question.store}, is moving"
        connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=_TIMEOUT_S)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                raise StoreMovingError(f"{moving}: {endpoint}, which had it, answers {response.status}.")
            return unpack_answer(json.loads(body))
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            raise StoreMovingError(f"{moving}: {endpoint}, which had it, does not answer ({error}).") from error
        finally:
            connection.close()

    return forward
