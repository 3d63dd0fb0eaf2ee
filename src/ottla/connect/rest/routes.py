"""The routes of Connect's REST interface (Kafka 4.3.1): a request in, an answer out, by way of a worker.

Knows no socket. Different from Java: what is wrong with a body is 400, where Java's parser has it answer 500; what Java
answers with a NullPointerException (500) is 404 here.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol
from urllib.parse import quote

from ottla.connect.rest.bodies import read_config, read_connector, read_offsets
from ottla.connect.runtime.herder import Herder, HerderError
from ottla.connect.runtime.levels import LEVELS, all_levels, set_level
from ottla.observability.exposition import CONTENT_TYPE
from ottla.web import WebRequest, WebResponse

logger = logging.getLogger(__name__)

#: Which release of Kafka Connect this interface is that of: tools look at it to know what there is.
INTERFACE_VERSION: Final = "4.3.1"
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,10}")
_NO_TASKS: Final = "Kafka Connect in standalone mode does not support externally setting task configurations."
_NO_FENCE: Final = "Kafka Connect in standalone mode does not support exactly-once source connectors."


class Worker(Protocol):
    """What routes ask of a worker; see `StandaloneWorker`."""

    @property
    def settings(self) -> Mapping[str, Any]: ...
    def ask(self, question: Callable[[Herder], Any]) -> Any: ...
    def validate(self, config: Mapping[str, str | None]) -> dict[str, Any]: ...
    def put_connector(
        self, name: str, config: Mapping[str, str | None], target: Any = None, *, may_replace: bool
    ) -> tuple[bool, dict[str, Any]]: ...
    def patch_connector(self, name: str, patch: Mapping[str, str | None]) -> dict[str, Any]: ...
    def set_target(self, name: str, target: Any) -> None: ...
    def restart(self, name: str, *, with_tasks: bool = False, only_failed: bool = False) -> dict[str, Any]: ...
    def restart_task(self, name: str, number: int) -> None: ...
    def delete(self, name: str) -> None: ...
    def offsets(self, name: str) -> list[dict[str, Any]]: ...
    def alter_offsets(self, name: str, offsets: Sequence[tuple[Any, Any]] | None) -> str: ...
    def plugins(self) -> list[dict[str, Any]]: ...
    def plugin_definition(self, plugin: str) -> list[dict[str, Any]]: ...
    def metrics(self) -> bytes: ...
    def topics(self, name: str) -> list[str]: ...
    def reset_topics(self, name: str) -> None: ...
    def set_level(self, name: str, level: str) -> None: ...
    def share_level(self, name: str, level: str) -> None: ...


class Routes:
    """Answers requests.

    Args:
        commit: what `/` shows beside the version.
        cluster_id: the cluster's id, looked up when it is asked for.
        is_ready: whether the worker has started what it was started with.
    """

    def __init__(
        self, worker: Worker, *, commit: str, cluster_id: Callable[[], str], is_ready: Callable[[], bool]
    ) -> None:
        self._worker = worker
        self._commit = commit
        self._cluster_id = cluster_id
        self._is_ready = is_ready
        self._set_at: dict[str, int] = {}

    def answer(self, request: WebRequest) -> WebResponse:
        """Return what goes back."""
        method = "GET" if request.method == "HEAD" else request.method
        path = request.path[:-1] if request.path[-1] == "" and len(request.path) > 1 else request.path
        try:
            known = self._routes(request, path)
            if known is None:
                return _error(404, "HTTP 404 Not Found")
            if method == "OPTIONS":
                allowed = ",".join(["HEAD", *known, "OPTIONS"] if "GET" in known else [*known, "OPTIONS"])
                return WebResponse(
                    body=allowed.replace(",", ", "), content_type="text/plain", headers={"Allow": allowed}
                )
            if method not in known:
                return _error(405, "HTTP 405 Method Not Allowed")
            if path[0] != "metrics" and not _accepts_json(request.headers.get("Accept")):
                return _error(406, "HTTP 406 Not Acceptable")
            if request.body and not _is_json(request.headers.get("Content-Type")):
                return _error(415, "HTTP 415 Unsupported Media Type")
            return known[method]()
        except HerderError as error:
            return _error(error.status, str(error))

    def _routes(self, request: WebRequest, path: Sequence[str]) -> dict[str, Callable[[], WebResponse]] | None:
        """Return what may be done with an address; None: there is no such address."""
        worker, body, query = self._worker, request.body, request.query
        match tuple(path):
            case ("",):
                return {"GET": self._root}
            case ("health",):
                return {"GET": self._health}
            case ("metrics",):
                return {"GET": lambda: WebResponse(body=worker.metrics(), content_type=CONTENT_TYPE)}
            case ("connectors",):
                return {"GET": lambda: self._list(query), "POST": lambda: self._create(body)}
            case ("connectors", name):
                return {
                    "GET": lambda: WebResponse(body=worker.ask(lambda herder: herder.info(name))),
                    "DELETE": lambda: _done(204, lambda: worker.delete(name)),
                }
            case ("connectors", name, "config"):
                return {
                    "GET": lambda: WebResponse(body=worker.ask(lambda herder: herder.config(name))),
                    "PUT": lambda: self._put(name, body),
                    "PATCH": lambda: WebResponse(body=worker.patch_connector(name, read_config(body))),
                }
            case ("connectors", name, "status"):
                return {"GET": lambda: WebResponse(body=worker.ask(lambda herder: herder.status(name)))}
            case ("connectors", name, "topics"):
                return {"GET": lambda: self._topics(name)}
            case ("connectors", name, "topics", "reset"):
                return {"PUT": lambda: self._reset_topics(name)}
            case ("connectors", name, "pause"):
                return {"PUT": lambda: _done(202, lambda: worker.set_target(name, "PAUSED"))}
            case ("connectors", name, "resume"):
                return {"PUT": lambda: _done(202, lambda: worker.set_target(name, "RUNNING"))}
            case ("connectors", name, "stop"):
                return {"PUT": lambda: _done(204, lambda: worker.set_target(name, "STOPPED"))}
            case ("connectors", name, "restart"):
                return {"POST": lambda: self._restart(name, query)}
            case ("connectors", name, "tasks"):
                return {
                    "GET": lambda: WebResponse(body=worker.ask(lambda herder: herder.tasks(name))),
                    "POST": lambda: _error(500, _NO_TASKS),
                }
            case ("connectors", name, "fence"):
                return {"PUT": lambda: _error(500, _NO_FENCE)}
            case ("connectors", name, "tasks", number, "status") if _is_number(number):
                return {
                    "GET": lambda: WebResponse(body=worker.ask(lambda herder: herder.task_status(name, int(number))))
                }
            case ("connectors", name, "tasks", number, "restart") if _is_number(number):
                return {"POST": lambda: _done(204, lambda: worker.restart_task(name, int(number)))}
            case ("connectors", name, "offsets"):
                return {
                    "GET": lambda: WebResponse(body={"offsets": worker.offsets(name)}),
                    "PATCH": lambda: _message(worker.alter_offsets(name, read_offsets(body))),
                    "DELETE": lambda: _message(worker.alter_offsets(name, None)),
                }
            case ("connector-plugins",):
                return {"GET": lambda: self._plugins(query)}
            case ("connector-plugins", plugin, "config"):
                return {"GET": lambda: WebResponse(body=worker.plugin_definition(plugin))}
            case ("connector-plugins", plugin, "config", "validate"):
                return {"PUT": lambda: self._validate(plugin, body)}
            case ("admin", "loggers"):
                return {"GET": self._loggers}
            case ("admin", "loggers", logger_name):
                return {
                    "GET": lambda: self._logger(logger_name),
                    "PUT": lambda: self._set_level(logger_name, body, query),
                }
        return None

    def _root(self) -> WebResponse:
        cluster = self._cluster_id()
        return WebResponse(body={"version": INTERFACE_VERSION, "commit": self._commit, "kafka_cluster_id": cluster})

    def _health(self) -> WebResponse:
        if self._is_ready():
            text = "Worker has completed startup and is ready to handle requests."
            return WebResponse(body={"status": "healthy", "message": text})
        text = "Worker is still starting up."
        return WebResponse(status=503, body={"status": "starting", "message": text})

    def _list(self, query: Mapping[str, Sequence[str]]) -> WebResponse:
        if "expand" not in query:
            return WebResponse(body=self._worker.ask(lambda herder: herder.names()))
        wanted = [name for name in ("status", "info") if name in query["expand"]]

        def expanded(herder: Herder) -> dict[str, dict[str, Any]]:
            return {name: {what: getattr(herder, what)(name) for what in wanted} for name in herder.names()}

        return WebResponse(body=self._worker.ask(expanded))

    def _create(self, body: bytes) -> WebResponse:
        name, config, state = read_connector(body)
        _, info = self._worker.put_connector(name, _named(name, config), state, may_replace=False)
        return WebResponse(status=201, body=info, headers={"Location": _place(name)})

    def _put(self, name: str, body: bytes) -> WebResponse:
        is_new, info = self._worker.put_connector(name, _named(name, read_config(body)), may_replace=True)
        if is_new:
            return WebResponse(status=201, body=info, headers={"Location": _place(name)})
        return WebResponse(body=info)

    def _restart(self, name: str, query: Mapping[str, Sequence[str]]) -> WebResponse:
        with_tasks, only_failed = (_is_true(query, key) for key in ("includeTasks", "onlyFailed"))
        if not with_tasks and not only_failed:
            self._worker.ask(lambda herder: herder.known(name))
            self._worker.restart(name)
            return WebResponse(status=204)
        status = self._worker.restart(name, with_tasks=with_tasks, only_failed=only_failed)
        return WebResponse(status=202, body=status)

    def _topics(self, name: str) -> WebResponse:
        self._need("topic.tracking.enable", "Topic tracking is disabled.")
        return WebResponse(body={name: {"topics": self._worker.topics(name)}})

    def _reset_topics(self, name: str) -> WebResponse:
        self._need("topic.tracking.enable", "Topic tracking is disabled.")
        self._need("topic.tracking.allow.reset", "Topic tracking reset is disabled.")
        return _done(202, lambda: self._worker.reset_topics(name))

    def _need(self, key: str, otherwise: str) -> None:
        if not self._worker.settings[key]:
            raise HerderError(403, otherwise)

    def _plugins(self, query: Mapping[str, Sequence[str]]) -> WebResponse:
        found = self._worker.plugins()
        if query.get("connectorsOnly", ["true"])[-1].lower() != "false":
            found = [plugin for plugin in found if plugin["type"] in ("sink", "source")]
        return WebResponse(body=found)

    def _validate(self, plugin: str, body: bytes) -> WebResponse:
        config = read_config(body)
        kind = config.get("connector.class")
        if kind is not None and not _alias(kind).endswith(_alias(plugin)):
            raise HerderError(400, f"Included connector type {kind} does not match request type {plugin}")
        return WebResponse(body=self._worker.validate(config))

    # Loggers

    def _loggers(self) -> WebResponse:
        return WebResponse(
            body={
                name: {"level": level, "last_modified": self._set_at.get(name)} for name, level in all_levels().items()
            }
        )

    def _logger(self, name: str) -> WebResponse:
        level = all_levels().get(name)
        if level is None:
            raise HerderError(404, f"Logger {name} not found.")
        return WebResponse(body={"level": level, "last_modified": self._set_at.get(name)})

    def _set_level(self, name: str, body: bytes, query: Mapping[str, Sequence[str]]) -> WebResponse:
        level = read_config(body).get("level")
        if level is None:
            raise HerderError(400, "Desired 'level' parameter was not specified in request.")
        if level.upper() not in LEVELS:
            raise HerderError(404, f"invalid log level '{level}'.")
        is_shared = query.get("scope", ["worker"])[-1].lower() == "cluster"
        if is_shared:
            self._worker.share_level(name, level.upper())
        logging.getLogger(None if name == "root" else name)
        before = all_levels()
        for each in [name, *(other for other in before if other.startswith(f"{name}.") or name == "root")]:
            set_level(each, level.upper())
            self._worker.set_level(each, level.upper())
        changed = [each for each, found in all_levels().items() if before.get(each) != found or each == name]
        for each in changed:
            self._set_at[each] = time.time_ns() // 1_000_000
        if is_shared:
            return WebResponse(status=204)
        return WebResponse(body=sorted(changed))


def _error(status: int, message: str) -> WebResponse:
    return WebResponse(status=status, body={"error_code": status, "message": message})


def _message(text: str) -> WebResponse:
    return WebResponse(body={"message": text})


def _done(status: int, do: Callable[[], None]) -> WebResponse:
    do()
    return WebResponse(status=status)


def _named(name: str, config: dict[str, str | None]) -> dict[str, str | None]:
    """Put the name into a configuration.

    Raises:
        HerderError: there is another one (400).
    """
    given = config.get("name")
    if given is not None and given != name:
        raise HerderError(
            400, f"Connector name configuration ({given}) doesn't match connector name in the URL ({name})"
        )
    return config | {"name": name}


def _place(name: str) -> str:
    return f"/connectors/{quote(name, safe='')}"


def _is_number(text: str) -> bool:
    """Whether a text is an int of 32 bits, as Java reads one."""
    return _INTEGER.fullmatch(text) is not None and -1 << 31 <= int(text) < 1 << 31


def _is_true(query: Mapping[str, Sequence[str]], name: str) -> bool:
    return query.get(name, ["false"])[0].lower() == "true"


def _alias(name: str) -> str:
    return name.removesuffix("Connector") or name


def _is_json(content_type: str | None) -> bool:
    return content_type is None or content_type.partition(";")[0].strip().lower() == "application/json"


def _accepts_json(accept: str | None) -> bool:
    if accept is None:
        return True
    kinds = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    return any(kind in ("*/*", "application/*", "application/json", "") for kind in kinds)
