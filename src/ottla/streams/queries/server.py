"""The state of an application over HTTP, at `application.server`: any instance answers, from its own state or by one hop.

    GET /                                           a page: tasks, stores, how far they are
    GET /state                                      the same as JSON
    GET /stores/users/anna                          one key
    GET /stores/users?since=a&until=b&limit=100     keys from a to b, both included
    GET /stores/by-country/NL?since=...&until=...   windows of one key whose starts (ms) lie there

Numbers in answers are milliseconds since 1970. 404: no such key or store. 400: the store cannot be asked that. 503 with
Retry-After: the task is moving to another instance. Nothing is changed by a request. There is no login: whoever reaches
the port can read; on a loopback address, requests for other host names are refused, so that web pages cannot ask.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from ottla.streams.errors import QuestionError, StoreMovingError, StreamsError, UnknownStoreError
from ottla.streams.queries.answers import LIMIT, Answer, Question
from ottla.streams.queries.desk import Desk
from ottla.streams.queries.keys import as_json, read_key
from ottla.streams.queries.rows import KEY_VALUE_KINDS, Row
from ottla.streams.queries.wire import PATH, pack_answer, unpack_question
from ottla.streams.topology import StoreSpec
from ottla.web import WebRequest, WebResponse, WebServer

_LIMIT_MAX: Final = 100_000


class StateServer:
    """See the module. It has threads of its own.

    Args:
        host, port: to listen on; port 0 is any free one.
        describe: returns what there is to say of the instance itself, for the page.

    Attributes:
        endpoint: "host:port", with the port that it has.
    """

    def __init__(self, host: str, port: int, application_id: str, describe: Callable[[], Mapping[str, Any]]) -> None:
        self.application_id = application_id
        self.describe = describe
        self.desk: Desk | None = None
        try:
            self._server = WebServer(host, port, name="state")
        except OSError as error:
            raise StreamsError(
                f"application.server={host}:{port} cannot be listened on: {error}. Choose another port; the processes of one "
                "`ottla streams run` take this one and those behind it."
            ) from error
        self.endpoint: str = self._server.endpoint

    def start(self, desk: Desk) -> None:
        """Answer from now on."""
        self.desk = desk
        self._server.start(self._respond)

    def close(self) -> None:
        """Answer no more."""
        self._server.close()

    def _respond(self, request: WebRequest) -> WebResponse:
        try:
            status, body = _answer(self, request)
        except UnknownStoreError as error:
            status, body = 404, {"error": str(error)}
        except StoreMovingError as error:
            status, body = 503, {"error": str(error)}
        except QuestionError as error:
            status, body = 400, {"error": str(error)}
        except StreamsError as error:
            status, body = 500, {"error": str(error)}
        headers = {"Cache-Control": "no-store"}
        if status == 503:
            headers["Retry-After"] = str(round(StoreMovingError.retry_after_s))
        return WebResponse(status=status, body=body, headers=headers)


def _answer(server: StateServer, request: WebRequest) -> tuple[int, Any]:
    desk, query = server.desk, request.query
    assert desk is not None
    match request.path:
        case ("",):
            return 200, page(state_of(server))
        case ("state",):
            return 200, state_of(server)
        case ("stores", store):
            spec = desk.routes.spec(store)
            return 200, _entries(spec, desk.ask(_question(spec, None, query)))
        case ("stores", store, key):
            spec = desk.routes.spec(store)
            question = _question(spec, key, query)
            (answer,) = desk.ask(question)
            return _one(spec, key, answer)
        case (forwarded, application_id, task) if f"/{forwarded}/" == PATH and application_id == server.application_id:
            try:
                asked = unpack_question(_last(query, "question") or "")
                number = int(task.partition("_")[2])
            except ValueError as error:
                raise QuestionError(f"this is no question: {error}") from error
            (answer,) = desk.ask(
                Question(**{**_fields(asked), "partition": number}),
                forwarded=True,
            )
            return 200, pack_answer(answer)
    return 404, {"error": "there are /, /state, /stores/<store> and /stores/<store>/<key>"}


def _fields(question: Question) -> dict[str, Any]:
    return {name: getattr(question, name) for name in Question.__dataclass_fields__}


def _last(query: Mapping[str, Sequence[str]], name: str) -> str | None:
    found = query.get(name)
    return None if not found else found[-1]


def _whole(query: Mapping[str, Sequence[str]], name: str) -> int | None:
    text = _last(query, name)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise QuestionError(f"{name}={text!r} is not a whole number.") from None


def _question(spec: StoreSpec, key: str | None, query: Mapping[str, Sequence[str]]) -> Question:
    unknown = query.keys() - {"since", "until", "limit", "partition", "as_of"}
    if unknown:
        raise QuestionError(f"{', '.join(sorted(unknown))}: there are since, until, as_of, limit and partition.")
    limit, partition = _whole(query, "limit"), _whole(query, "partition")
    limit = LIMIT if limit is None else limit
    if not 1 <= limit <= _LIMIT_MAX:
        raise QuestionError(f"limit={limit} is not between 1 and {_LIMIT_MAX}.")

    def key_of(text: str | None) -> bytes | None:
        return None if text is None else key_bytes(spec, text)

    if key is None:
        if "as_of" in query:
            raise QuestionError("as_of is for one key.")
        since, until = key_of(_last(query, "since")), key_of(_last(query, "until"))
        return Question(store=spec.name, since=since, until=until, limit=limit, partition=partition)
    window_since, window_until = _whole(query, "since"), _whole(query, "until")
    return Question(
        store=spec.name,
        key=key_of(key),
        window_since=window_since,
        window_until=window_until,
        as_of=_whole(query, "as_of"),
        limit=limit,
        partition=partition,
    )


def key_bytes(spec: StoreSpec, text: str) -> bytes:
    """Return the bytes of a key that an address names."""
    assert spec.key_serde is not None
    try:
        data = spec.key_serde.serialize(spec.changelog or spec.name, read_key(spec.key_serde, text))
    except (ValueError, TypeError) as error:
        raise QuestionError(f"{text!r} is no key of {spec.name}: {error}") from error
    return data or b""


def _value(spec: StoreSpec, row: Row) -> dict[str, Any]:
    assert spec.value_serde is not None
    found: dict[str, Any] = {}
    if row.start is not None:
        found.update(start=row.start, end=row.end)
    found["value"] = as_json(spec.value_serde.deserialize(spec.changelog or spec.name, row.value))
    if row.timestamp >= 0:
        found["timestamp"] = row.timestamp
    return found


def standing_of(answer: Answer) -> dict[str, Any]:
    """Return what every answer says of its freshness."""
    standing = answer.standing
    return {
        "task": str(answer.task),
        "positions": dict(standing.positions),
        "lag": dict(standing.lag),
        "time": _when(standing.time_ms),
    }


def _when(time_ms: int | None) -> str:
    """Return a time as text; "" for none, and for what no calendar has."""
    if time_ms is None:
        return ""
    try:
        when = datetime.fromtimestamp(time_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return str(time_ms)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _one(spec: StoreSpec, key: str, answer: Answer) -> tuple[int, dict[str, Any]]:
    body: dict[str, Any] = {"store": spec.name, "key": key}
    if spec.kind in KEY_VALUE_KINDS:
        if not answer.rows:
            return 404, {**body, "error": "there is no such key", **standing_of(answer)}
        return 200, {**body, **_value(spec, answer.rows[0]), **standing_of(answer)}
    windows = [_value(spec, row) for row in answer.rows]
    return 200, {**body, "windows": windows, "complete": answer.complete, **standing_of(answer)}


def _entries(spec: StoreSpec, answers: Sequence[Answer]) -> dict[str, Any]:
    assert spec.key_serde is not None
    read = spec.key_serde.deserialize
    topic = spec.changelog or spec.name
    entries = [{"key": as_json(read(topic, row.key)), **_value(spec, row)} for answer in answers for row in answer.rows]
    return {
        "store": spec.name,
        "entries": entries,
        "complete": all(answer.complete for answer in answers),
        "tasks": [standing_of(answer) for answer in answers],
    }


def state_of(server: StateServer) -> dict[str, Any]:
    """Return what /state says."""
    desk = server.desk
    assert desk is not None
    return {
        "application": server.application_id,
        "endpoint": server.endpoint,
        **server.describe(),
        "answers": desk.board.is_owner(),
        "stores": {name: spec.kind.value for name, spec in desk.routes.stores().items()},
        "tasks": {
            str(task): None
            if standing is None
            else {
                "positions": dict(standing.positions),
                "lag": dict(standing.lag),
                "time_ms": standing.time_ms,
                "stream_time_ms": standing.stream_time if standing.stream_time >= 0 else None,
            }
            for task, standing in desk.board.tasks().items()
        },
        "owners": dict(desk.routes.owners),
    }


def page(state: Mapping[str, Any]) -> str:
    """Return the page at /."""

    def row(*cells: object) -> str:
        return "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells) + "</tr>"

    tasks = "".join(
        row(task, "starts", "", "", "", "")
        if each is None
        else "".join(
            row(
                *(task, where, offset, "?" if each["lag"].get(where) is None else each["lag"][where]),
                *(_when(each["stream_time_ms"]), _when(each["time_ms"])),
            )
            for where, offset in each["positions"].items()
        )
        for task, each in state["tasks"].items()
    )
    stores = "".join(row(name, kind) for name, kind in state["stores"].items())
    owners = "".join(row(task, where) for task, where in sorted(state["owners"].items()))
    name = html.escape(str(state["application"]))
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="5">
<title>{name}</title><style>body{{font:15px system-ui;margin:2em;color-scheme:light dark}}
td,th{{text-align:left;padding:.2em 1.2em .2em 0}}</style></head><body>
<h1>{name}</h1><p>{html.escape(str(state["endpoint"]))}{"" if state["answers"] else ": answers for no task right now"}</p>
<h2>Tasks here</h2><table><tr><th>task<th>partition<th>committed<th>lag<th>stream time<th>at</tr>{tasks}</table>
<h2>Stores</h2><table>{stores}</table><p>/stores/&lt;store&gt;/&lt;key&gt; and
/stores/&lt;store&gt;?since=&amp;until= answer as JSON.</p>
<h2>Tasks of all instances</h2><table>{owners}</table></body></html>
"""
