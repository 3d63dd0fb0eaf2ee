"""Connectors by the name in `connector.class`. Runs in hosts only: the worker's own process imports no plugin."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType

from ottla.connect.config_def import ConfigError
from ottla.connect.connectors import Connector
from ottla.connect.decorators import declared

GROUP = "ottla.connectors"
_MIRROR = ("org.apache.kafka.connect.mirror.",)
_MQTT = ("io.confluent.connect.mqtt.",)
_JDBC = ("io.confluent.connect.jdbc.", "io.aiven.connect.jdbc.")
#: Our own, by our name; Java's classes of the same name in these packages stand for them.
LIBRARY: dict[str, tuple[str, tuple[str, ...]]] = {
    "DatagenSource": ("ottla.connect.library.datagen", ()),
    "DirectorySourceConnector": ("ottla.connect.library.directory", ()),
    "FileStreamSourceConnector": ("ottla.connect.library.file_stream", ("org.apache.kafka.connect.file.",)),
    "FileStreamSinkConnector": ("ottla.connect.library.file_stream", ("org.apache.kafka.connect.file.",)),
    "FilesSinkConnector": ("ottla.connect.library.files", ()),
    "HttpSinkConnector": ("ottla.connect.library.http", ()),
    "HttpSourceConnector": ("ottla.connect.library.http", ()),
    "JdbcSinkConnector": ("ottla.connect.library.jdbc", _JDBC),
    "JdbcSourceConnector": ("ottla.connect.library.jdbc", _JDBC),
    "MirrorCheckpointConnector": ("ottla.connect.library.mirror", _MIRROR),
    "MirrorHeartbeatConnector": ("ottla.connect.library.mirror", _MIRROR),
    "MirrorSourceConnector": ("ottla.connect.library.mirror", _MIRROR),
    "MqttSinkConnector": ("ottla.connect.library.mqtt", _MQTT),
    "MqttSourceConnector": ("ottla.connect.library.mqtt", _MQTT),
    "PostgresConnector": ("ottla.connect.library.change_data", ("io.debezium.connector.postgresql.",)),
}
#: What has to be installed for a connector of ours: the extra that brings the module.
_EXTRAS = {"sqlalchemy": "sql", "psycopg": "sql", "obstore": "files", "pyarrow": "files", "paho": "mqtt"}
_SHORT = {"FileStreamSource": "FileStreamSourceConnector", "FileStreamSink": "FileStreamSinkConnector"}
#: What people have that is not here, and what there is instead.
_SPOOL = "DirectorySourceConnector reads the files of a folder; it has keys of its own (format=csv, format=jsonl)"
_ELSEWHERE = {
    "com.github.jcustenborder.kafka.connect.spooldir.SpoolDirCsvSourceConnector": _SPOOL,
    "com.github.jcustenborder.kafka.connect.spooldir.SpoolDirSchemaLessJsonSourceConnector": _SPOOL,
    "io.confluent.kafka.connect.datagen.DatagenConnector": "DatagenSource makes orders; it has keys of its own",
    "io.aiven.kafka.connect.http.HttpSinkConnector": "HttpSinkConnector sends records to http.url; it has keys of its own",
    "io.confluent.connect.http.HttpSinkConnector": "HttpSinkConnector sends records to http.url; it has keys of its own",
    "com.github.castorm.kafka.connect.http.HttpSourceConnector": "HttpSourceConnector asks http.url; it has keys of its own",
    "io.confluent.connect.http.HttpSourceConnector": "HttpSourceConnector asks http.url; it has keys of its own",
    "io.confluent.connect.s3.S3SinkConnector": "FilesSinkConnector writes to S3 with store.url=s3://bucket/folder",
    "org.apache.kafka.connect.tools.MockSourceConnector": "DatagenSource makes records",
}


def connector_class(name: str, modules: Sequence[str]) -> type[Connector]:
    """Return a connector.

    Args:
        modules: the worker's `plugin.modules`: nothing else is imported because a configuration names it.

    Raises:
        ConfigError: there is none of that name, or two packages have one.
    """
    import_modules(modules)
    if name in declared:
        return declared[name]
    for short, (_, packages) in LIBRARY.items():
        if _SHORT.get(name, name) in (short, *(package + short for package in packages)):
            return library_class(short)
    place, colon, attribute = name.partition(":")
    if colon:
        if place not in modules:
            raise ConfigError(f"{name} cannot be used: {place} is none of the worker's plugin.modules")
        return _checked(getattr(import_module(place), attribute, None), name)
    found = entry_points(group=GROUP, name=name)
    origins = sorted({point.dist.name if point.dist is not None else point.value for point in found})
    if len(origins) > 1:
        raise ConfigError(f"Several packages have a connector {name}: {', '.join(origins)}")
    for point in found:
        return _checked(point.load(), name)
    known = ", ".join([*LIBRARY, *declared])
    raise ConfigError(
        f"Failed to find any class that implements Connector and which name matches {name}, available connectors are: {known}"
        + (f". {_ELSEWHERE[name]}" if name in _ELSEWHERE else "")
    )


def listed(worker: Mapping[str, str]) -> list[str]:
    """Return the modules that the worker's file lists."""
    return [name.strip() for name in worker.get("plugin.modules", "").split(",") if name.strip()]


def library_class(short: str) -> type[Connector]:
    """Return a connector that comes with ottla.

    Raises:
        ConfigError: it needs a package that is not installed.
    """
    return _checked(getattr(_library(LIBRARY[short][0], short), short), short)


def library_name(short: str) -> str:
    """Return what listings call a connector of ours: Kafka's own class where it is one of these."""
    packages = LIBRARY[short][1]
    return packages[0] + short if packages and packages[0].startswith("org.apache.kafka.") else short


def import_modules(modules: Sequence[str]) -> None:
    """Import the modules that the worker's file lists: connectors declare themselves.

    Raises:
        ConfigError: one is not there.
    """
    for module in modules:
        _imported(module)


def _library(module: str, connector: str) -> ModuleType:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        raise ConfigError(f"{connector} needs {error.name}: pip install 'ottla[{extra}]'") from error


def _imported(module: str) -> None:
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"plugin.modules names {module}, and there is no module {error.name}") from error


def _checked(found: object, name: str) -> type[Connector]:
    if not isinstance(found, type) or not issubclass(found, Connector):
        raise ConfigError(f"{name} is no connector")
    return found
