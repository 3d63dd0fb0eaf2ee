"""Settings from environment variables, by the rules of the container images people know.

`KAFKA_LOG_RETENTION_MS` is `log.retention.ms`. For names with `_` or `-` in them the two families of images disagree:
apache/kafka writes `__` for `_` and `___` for `-`, Confluent's the other way round. Keys are known, so both are read.
`OTTLA_` works like `KAFKA_` and is stronger; some `OTTLA_` names stand for flags of `ottla serve`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ottla.config import EXTRA, broker_key

#: Variables of the images, and of clients, that are no broker settings.
_NOT_SETTINGS = frozenset(
    {
        "KAFKA_ADVERTISED_HOST_NAME_COMMAND",
        "KAFKA_BOOTSTRAP_SERVERS",
        "KAFKA_CLUSTER_ID",
        "KAFKA_DEBUG",
        "KAFKA_GC_LOG_OPTS",
        "KAFKA_HEAP_OPTS",
        "KAFKA_HOME",
        "KAFKA_JMX_HOSTNAME",
        "KAFKA_JMX_OPTS",
        "KAFKA_JMX_PORT",
        "KAFKA_JVM_PERFORMANCE_OPTS",
        "KAFKA_LOG4J_CMD_OPTS",
        "KAFKA_LOG4J_LOGGERS",
        "KAFKA_LOG4J_OPTS",
        "KAFKA_LOG4J_ROOT_LOGLEVEL",
        "KAFKA_OPTS",
        "KAFKA_TOOLS_LOG4J_LOGLEVEL",
        "KAFKA_USER",
        "KAFKA_VERSION",
        # The clients' own.
        "OTTLA_CONFIG",
        "OTTLA_CONNECT_URL",
        "OTTLA_CONNECT_USER",
        "OTTLA_CONTEXT",
    }
)
#: OTTLA_ variables that stand for a flag: the name of the flag's field.
FLAGS = {
    "OTTLA_ADVERTISE": "advertise",
    "OTTLA_CLUSTER_ID": "cluster_id",
    "OTTLA_DATA_DIR": "data_dir",
    "OTTLA_HOST": "host",
    "OTTLA_PORT": "port",
}


class FromEnvironment(NamedTuple):
    """`settings` by key; `flags` by field name; `notes`: sentences about variables that look like settings but are none."""

    settings: dict[str, str]
    flags: dict[str, str]
    notes: tuple[str, ...]


def read_environment(environment: Mapping[str, str]) -> FromEnvironment:
    """Return the settings in these variables. Unknown ones are noted, not refused: others may own them."""
    settings: dict[str, str] = {}
    flags: dict[str, str] = {}
    notes: list[str] = []
    if environment.get("KAFKA_CLUSTER_ID") or environment.get("CLUSTER_ID"):
        flags["cluster_id"] = environment.get("CLUSTER_ID") or environment["KAFKA_CLUSTER_ID"]
    for prefix in ("KAFKA_", "OTTLA_"):
        for variable in sorted(environment):
            if not variable.startswith(prefix) or variable in _NOT_SETTINGS:
                continue
            if environment[variable].startswith(_SERVICE_LINKS):
                continue
            if variable in FLAGS:
                flags[FLAGS[variable]] = environment[variable]
                continue
            name = _setting(variable[len(prefix) :], ottla=prefix == "OTTLA_")
            if name is not None:
                settings[name] = environment[variable]
            elif variable == variable.upper() and not _is_service_variable(variable):
                from ottla.config.unknown_keys import what_is_meant

                name = _apache(variable[len(prefix) :])
                notes.append(f"The environment variable {variable} names no setting{what_is_meant(name)}")
    return FromEnvironment(settings, flags, tuple(notes))


def _setting(rest: str, *, ottla: bool) -> str | None:
    names = [_apache(rest), _confluent(rest)]
    if ottla:
        names.append("ottla." + _apache(rest))
    for name in names:
        if broker_key(name) is not None:
            return name
    # Kafka's own keys are case sensitive (zookeeper.clientCnxnSocket); variables are not.
    folded = names[0].lower()
    return next((name for name in EXTRA if name.lower() == folded), None)


def _apache(rest: str) -> str:
    return rest.lower().replace("___", "-").replace("__", "\0").replace("_", ".").replace("\0", "_")


def _confluent(rest: str) -> str:
    return rest.lower().replace("___", "\0").replace("__", "-").replace("_", ".").replace("\0", "_")


#: How values begin that Kubernetes makes for a service: KAFKA_PORT is tcp://10.0.0.1:9092 beside a service called kafka, and
#: OTTLA_PORT beside one called ottla.
_SERVICE_LINKS = ("tcp://", "udp://", "sctp://")


def _is_service_variable(variable: str) -> bool:
    """Tell whether Kubernetes made this variable for a service called kafka (KAFKA_PORT_9092_TCP_ADDR, ...)."""
    return variable.endswith(("_SERVICE_HOST", "_PORT")) or "_SERVICE_PORT" in variable or "_TCP" in variable
