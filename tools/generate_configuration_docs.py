"""Write docs/configuration.md from the tables in ottla.config. `--check` only compares, for the tests.

python tools/generate_configuration_docs.py [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from ottla.config import BROKER, CLIENT_METRICS, DYNAMIC_ONLY, EXTRA, GROUP, TOPIC, ConfigKey, Status, Update
from ottla.config.effective import TOPIC_SYNONYMS

TARGET = Path(__file__).parents[1] / "docs" / "configuration.md"

HEAD = """\
# Configuration

<!-- Made by tools/generate_configuration_docs.py from the tables in src/ottla/config; edit those. -->

Names, types, defaults and units are Apache Kafka's (4.4). A stock `server.properties` starts. Settings come from, the later
the stronger:

1. a `server.properties` file: `ottla serve server.properties`;
2. environment variables: `KAFKA_LOG_RETENTION_MS` is `log.retention.ms` (`_` in a key is `__`, `-` is `___`, as in the
   apache/kafka image; Confluent's opposite rule is understood too), `OTTLA_...` likewise, and `CLUSTER_ID`;
3. `-X key=value`;
4. flags: `--port`, `--host`, `--data-dir`, `--advertise`.

A key that does not exist is an error that names the nearest right one, or the clients it belongs to. All mistakes are
named at once. Every key is one of three:

- **enforced**: the broker does what it says;
- **inert**: accepted, and changes nothing, for the reason given;
- **refused**: any value but the default stops the start, for the reason given.

"""


def render() -> str:
    """Return the whole page."""
    parts = [HEAD]
    enforced = {name: key for name, key in BROKER.items() if key.status is Status.ENFORCED}
    parts.append(
        _table("Broker: enforced", enforced, "`dynamic`: can be changed on a running broker with kafka-configs.")
    )
    parts.append(
        _table("Topics", TOPIC, "Set with kafka-configs or when a topic is made; the default is a broker key.")
    )
    parts.append(_table("Broker: refused", {n: k for n, k in (BROKER | EXTRA).items() if k.status is Status.REFUSED}))
    parts.append(_table("Broker: inert", {n: k for n, k in BROKER.items() if k.status is Status.INERT}))
    parts.append(
        _table(
            "Broker: set while it runs only",
            DYNAMIC_ONLY,
            "Kafka reads these where kafka-configs has set them, not in a file; in a file they are refused here.",
        )
    )
    parts.append(_table("Groups", GROUP, "Set with kafka-configs --entity-type groups; the default is `group.<key>`."))
    parts.append(_table("Client metrics", CLIENT_METRICS))
    zookeeper = {n: k for n, k in EXTRA.items() if "zookeeper." in n and k.status is Status.ENFORCED}
    parts.append(
        _table(
            "Broker: ZooKeeper",
            zookeeper,
            "As in Kafka 3.9; read only with `zookeeper.connect`: [cluster.md](cluster.md).",
        )
    )
    extensions = {n: k for n, k in EXTRA.items() if n.startswith("ottla.") and n not in zookeeper}
    parts.append(_table("Not in Kafka", extensions))
    removed = [n for n, k in EXTRA.items() if k.status is Status.INERT]
    parts.append("## Removed from Kafka, accepted\n\n" + ", ".join(f"`{name}`" for name in removed) + "\n")
    return "\n".join(parts)


def _table(title: str, keys: Mapping[str, ConfigKey], note: str = "") -> str:
    lines = [f"## {title}", ""]
    if note:
        lines += [note, ""]
    lines += ["| Key | Type | Default | Allowed | |", "|---|---|---|---|---|"]
    lines += [_row(keys[name]) for name in sorted(keys)]
    return "\n".join([*lines, ""])


def _row(key: ConfigKey) -> str:
    unit = f", {key.unit}" if key.unit else ""
    default = "null" if key.default is None else f"`{key.default}`" if key.default else ""
    text = key.doc
    if key.status is not Status.ENFORCED:
        text += f" **{key.status.value.capitalize()}**: {key.reason}"
    if key.name in TOPIC_SYNONYMS and TOPIC.get(key.name) is key:
        text += f" Default: `{TOPIC_SYNONYMS[key.name]}`."
    if key.update is not Update.READ_ONLY and key.status is Status.ENFORCED:
        text += f" _dynamic, {key.update.value}_"
    cells = [f"`{key.name}`", f"{key.type.name.lower()}{unit}", default, key.valid.text, text]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main(arguments: list[str]) -> int:
    page = render()
    if "--check" in arguments:
        current = TARGET.read_text() if TARGET.exists() else ""
        if current != page:
            print(f"{TARGET} is not what the tables say: run python tools/generate_configuration_docs.py")
            return 1
        return 0
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
