"""Every configuration key Kafka 4.4 has, by resource: its type, default, bounds, documentation and what we do with it.

`BROKER`, `DYNAMIC_ONLY`, `TOPIC`, `GROUP` and `CLIENT_METRICS` are the tables. The facts are Apache Kafka's;
docs/configuration.md is made from them by tools/generate_configuration_docs.py. `effective` works out which value wins,
`properties` and `environment` read the places where people write settings.
"""

from __future__ import annotations

from collections.abc import Mapping

from ottla.config import (
    broker_groups,
    broker_kraft,
    broker_log,
    broker_metrics,
    broker_network,
    broker_quotas,
    broker_remote,
    broker_security,
    broker_topics,
    broker_transactions,
    broker_zookeeper,
    client_metrics,
    group,
    legacy,
    topic,
)
from ottla.config.keys import ConfigError, ConfigKey, ConfigType, Status, Update, table

__all__ = [
    "BROKER",
    "CLIENT_METRICS",
    "DYNAMIC_ONLY",
    "EXTRA",
    "GROUP",
    "TOPIC",
    "ConfigError",
    "ConfigKey",
    "ConfigType",
    "Status",
    "Update",
    "broker_key",
    "nearest",
]

#: The broker's own keys, as in Kafka's table.
BROKER = table(
    broker_kraft.ROWS,
    broker_network.ROWS,
    broker_topics.ROWS,
    broker_log.ROWS,
    broker_groups.ROWS,
    broker_transactions.ROWS,
    broker_quotas.ROWS,
    broker_security.ROWS,
    broker_metrics.ROWS,
    broker_remote.ROWS,
)
#: Broker keys that can only be set on a running broker, never in its file.
DYNAMIC_ONLY = table(broker_quotas.DYNAMIC_ROWS)
#: Broker keys that Kafka 4 has in no table: ottla's extensions, the authorizer's, removed ones, ZooKeeper's.
EXTRA = table(legacy.EXTENSIONS, legacy.AUTHORIZER, legacy.REMOVED_KEYS, broker_zookeeper.ROWS)
TOPIC = table(topic.ROWS)
GROUP = table(group.ROWS)
CLIENT_METRICS = table(client_metrics.ROWS)

#: Prefix of settings for one listener; what follows the listener's name is a broker key.
LISTENER_PREFIX = "listener.name."
#: What one listener's keys and certificates are made of; these can be changed on a running broker, for a listener alone.
STORES = frozenset(
    {
        "ssl.key.password",
        "ssl.keystore.certificate.chain",
        "ssl.keystore.key",
        "ssl.keystore.location",
        "ssl.keystore.password",
        "ssl.keystore.type",
        "ssl.truststore.certificates",
        "ssl.truststore.location",
        "ssl.truststore.password",
        "ssl.truststore.type",
    }
)
#: Prefixes of other products' settings that turn up in the same files.
FOREIGN_PREFIXES = ("confluent.", "rlmm.config.", "rsm.config.")


def broker_key(name: str) -> ConfigKey | None:
    """Return the row of a broker key, whatever table it is in; a per-listener key has the row of its base key."""
    key = BROKER.get(name) or DYNAMIC_ONLY.get(name) or EXTRA.get(name)
    if key is None and name.startswith("config.providers."):
        return BROKER["config.providers"]
    if key is None and name.startswith(LISTENER_PREFIX):
        # listener.name.<listener>.<key> or listener.name.<listener>.<mechanism>.<key>
        parts = name[len(LISTENER_PREFIX) :].split(".", 2)
        for start in (1, 2):
            base = ".".join(name[len(LISTENER_PREFIX) :].split(".")[start:])
            key = key or BROKER.get(base) or DYNAMIC_ONLY.get(base)
        return key if len(parts) > 1 else None
    return key


def listener_of_store(name: str) -> str | None:
    """Return the listener, in lower case, whose store a setting is about: `listener.name.<listener>.<one of STORES>`."""
    listener, _, key = name.removeprefix(LISTENER_PREFIX).partition(".")
    return listener if name.startswith(LISTENER_PREFIX) and key in STORES else None


def nearest(name: str, keys: Mapping[str, ConfigKey]) -> str | None:
    """Return the key that is most likely meant by a name that does not exist."""
    from difflib import get_close_matches  # 3 ms, only when somebody has mistyped

    found = get_close_matches(name, [k for k, key in keys.items() if not key.internal], n=1, cutoff=0.6)
    return found[0] if found else None
