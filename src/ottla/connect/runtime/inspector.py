"""The process that knows plugins for the worker, which imports none: what there is, what is wrong, which tasks to make.

One JSON object a line, in on standard input and out on the descriptor in the first argument, an answer for each question:

    {"do": "plugins"}                       -> [{"class", "type", "version"}, ...]
    {"do": "definition", "plugin"}          -> [rows]
    {"do": "validate", "config"}            -> {"infos": Java's ConfigInfos, "secrets": [keys], "type", "version"}
    {"do": "tasks", "config"}               -> {"tasks": [config, ...], "type", "version", "secrets": [keys]}
    {"do": "alter", "config", "offsets"}    -> whether the offsets count as they are
    {"do": "left", "config"}                -> what stays elsewhere after a deletion, or null

as {"answer": ...} or {"error": {"kind": "missing" | "wrong" | "failed", "message", "trace"}}. Its first line is the worker's
configuration. Values of files and the environment are looked up here, and not told: task configurations keep `${...}`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib import invalidate_caches
from importlib.metadata import entry_points
from typing import Any

from ottla.connect.config_def import ConfigError
from ottla.connect.connectors import Connector, SinkConnector
from ottla.connect.decorators import declared
from ottla.connect.errors import ConnectError
from ottla.connect.runtime import validation
from ottla.connect.runtime.environments import enter_environment
from ottla.connect.runtime.finding import (
    GROUP,
    LIBRARY,
    connector_class,
    import_modules,
    library_class,
    library_name,
    listed,
)
from ottla.connect.runtime.process import die_with_parent
from ottla.connect.runtime.resolving import Redactor, resolved
from ottla.connect.settings import settings_of


class UnknownPluginError(Exception):
    """There is no plugin of that name."""


class Inspector:
    """Answers one question at a time."""

    def __init__(self, worker: Mapping[str, str]) -> None:
        self._worker = worker
        self._modules = listed(worker)
        self._redact = Redactor(())
        self._has_entered = False

    def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Return what goes back for a question: no text of it has a secret."""
        invalidate_caches()  # a package may have been installed since
        self._redact = Redactor(())
        try:
            return {"answer": self._answer(question)}
        except UnknownPluginError as error:
            return {"error": {"kind": "missing", "message": str(error), "trace": ""}}
        except ConfigError as error:
            return {"error": {"kind": "wrong", "message": self._redact(str(error)), "trace": self._redact(str(error))}}
        except ConnectError as error:
            return self._failed(str(error))
        except Exception as error:
            return self._failed(f"{type(error).__name__}: {error}")

    def _failed(self, message: str) -> dict[str, Any]:
        trace = self._redact(traceback.format_exc())
        return {"error": {"kind": "failed", "message": self._redact(message), "trace": trace}}

    def _answer(self, question: Mapping[str, Any]) -> Any:
        match question["do"]:
            case "plugins":
                return validation.plugin_infos(self._connectors())
            case "definition":
                return self._definition(question["plugin"])
        raw: dict[str, str | None] = question["config"]
        if raw.get("connector.class") is None:
            raise ConfigError('Missing required configuration "connector.class" which has no default value.')
        if not self._has_entered:  # all questions to this process are about connectors of one environment
            enter_environment(self._worker, raw)
            self._has_entered = True
        config = resolved(self._worker, raw)
        elsewhere = [text for name, text in config.items() if text is not None and text != raw[name]]
        self._redact = Redactor(elsewhere)
        kind = self._kind(config)
        secrets = validation.secrets_of(kind, config)
        self._redact = Redactor([*elsewhere, *(config[name] or "" for name in secrets)])
        told = {
            "type": "sink" if issubclass(kind, SinkConnector) else "source",
            "version": validation.version_of(kind),
            "secrets": secrets,
        }
        if question["do"] == "look":
            return told
        if question["do"] == "validate":
            infos = validation.validate(kind, config, self._worker)
            for info in infos["configs"]:
                value = info["value"]
                if config.get(value["name"]) != raw.get(value["name"]):
                    value["value"] = raw[value["name"]]  # as it was written, not what stands elsewhere
                value["errors"] = [self._redact(error) for error in value["errors"]]
            return {"infos": infos, **told}
        texts = {name: text for name, text in config.items() if text is not None}
        common, values = settings_of(kind, texts)
        connector = kind(texts, values)
        if question["do"] == "alter":
            rows = [tuple(row) for row in question["offsets"]]
            return bool(connector.alter_offsets(rows))  # type: ignore[attr-defined]
        if question["do"] == "left":
            left = connector.left_behind()
            return None if left is None else self._redact(left)
        tasks = connector.task_configs(common["tasks.max"])[: common["tasks.max"]]
        kept = {name: text for name, text in raw.items() if text is not None and "${" in text}
        named = {"task.class": f"{kind.Task.__module__}:{kind.Task.__qualname__}"}
        return {"tasks": [task | {n: t for n, t in kept.items() if n in task} | named for task in tasks], **told}

    def _kind(self, config: Mapping[str, str | None]) -> type[Connector]:
        return connector_class((config.get("connector.class") or "").strip(), self._modules)

    def _definition(self, name: str) -> Any:
        try:
            kind: type[Connector] | None = connector_class(name, self._modules)
        except ConfigError:
            kind = None
        try:
            return validation.definition_infos(name, kind)
        except ConfigError:
            raise UnknownPluginError(f"Unknown plugin {name}.") from None

    def _connectors(self) -> list[tuple[str, type[Connector]]]:
        import_modules(self._modules)
        found: list[tuple[str, type[Connector]]] = []
        for short in LIBRARY:
            try:
                found.append((library_name(short), library_class(short)))
            except ConfigError:
                pass  # what it needs is not installed: naming it says so
        found += declared.items()
        for point in entry_points(group=GROUP):
            try:
                found.append((point.name, connector_class(point.name, self._modules)))
            except Exception as error:
                print(f"the connector {point.name} cannot be loaded: {error}", file=sys.stderr)
        return list(dict(found).items())


def main(arguments: Sequence[str]) -> int:
    die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with os.fdopen(int(arguments[0]), "w", encoding="utf-8") as out:
        sys.stdout = sys.stderr  # what plugins print is no answer
        inspector = Inspector(json.loads(sys.stdin.readline()))
        for line in sys.stdin:
            out.write(json.dumps(inspector.answer(json.loads(line))) + "\n")
            out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
