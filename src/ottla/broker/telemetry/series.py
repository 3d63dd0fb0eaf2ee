"""The newest values of what clients push, for /metrics.

Everything here was written by strangers, so everything is bounded: clients, series of one client and of all, labels, the
lengths of names and values; what does not fit is counted and left out. A client that pushes no more is forgotten when three
of its intervals have passed, and so is a series that is no longer among what it pushes. Increments (delta temporality) are
added up from the first push on; after a pause that was long enough to be forgotten the sum begins again, which Prometheus
takes for a restart.

Names: `org.apache.kafka.producer.connection.creation.rate` is shown as `kafka_client_producer_connection_creation_rate`
with the labels client_id, client_instance_id and the client's own. The prefix keeps clients out of the broker's names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ottla.broker.telemetry.otlp import Attributes, Payload
from ottla.broker.telemetry.subscriptions import ClientAttributes
from ottla.observability.exposition import Family, label_set

CLIENTS_MAX = 1_000
SERIES_PER_CLIENT_MAX = 1_000
SERIES_MAX = 50_000
LABELS_MAX = 16
TEXT_MAX = 200

PREFIX = "kafka_client_"
_KAFKA = "org.apache.kafka."
_OWN_LABELS = frozenset({"client_id", "client_instance_id"})
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_]")

Labels = tuple[tuple[str, str], ...]


class Series:
    """One number that is shown."""

    __slots__ = ("expires_ms", "is_counter", "labels", "name", "value")

    def __init__(self, name: str, labels: str, is_counter: bool) -> None:
        self.name = name
        self.labels = labels
        self.is_counter = is_counter
        self.value: float = 0
        self.expires_ms = 0


class ClientSeries:
    """What one client has pushed."""

    __slots__ = ("attributes", "expires_ms", "resource", "series")

    def __init__(self, attributes: ClientAttributes) -> None:
        self.attributes = attributes
        self.resource: Labels = ()
        self.series: dict[tuple[str, Attributes], Series] = {}
        self.expires_ms = 0


class PushedMetrics:
    """All of it.

    Attributes:
        pushes, bad_pushes: payloads taken, and payloads that could not be read.
        points_dropped: numbers left out because there was no room for them.
        passed_over: metrics of kinds that are not read (histograms).
    """

    def __init__(self) -> None:
        self.pushes = 0
        self.bad_pushes = 0
        self.points_dropped = 0
        self.passed_over = 0
        self._clients: dict[bytes, ClientSeries] = {}
        self._series_count = 0
        self._descriptions: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def update(
        self, instance_id: bytes, attributes: ClientAttributes, payload: Payload, now_ms: int, expires_ms: int
    ) -> None:
        """Take what a client pushed; a series is shown until `expires_ms` unless it is pushed again."""
        self.pushes += 1
        self.passed_over += payload.passed_over
        client = self._clients.get(instance_id)
        if client is None:
            if len(self._clients) >= CLIENTS_MAX:
                self.points_dropped += len(payload.points)
                return
            client = self._clients[instance_id] = ClientSeries(attributes)
        client.expires_ms = expires_ms
        client.resource = clean_labels(payload.resource)
        for point in payload.points:
            if point.value != point.value:  # not a number: the client has no value for it now
                continue
            key = (point.name, point.attributes)
            series = client.series.get(key)
            if series is None:
                if self._series_count >= SERIES_MAX or len(client.series) >= SERIES_PER_CLIENT_MAX:
                    self.points_dropped += 1
                    continue
                series = client.series[key] = self._make(client, *key, point.is_counter, point.description)
            series.value = series.value + point.value if point.is_delta else point.value
            series.expires_ms = expires_ms
        # A partition that a consumer no longer has, say: the client lives, this number does not.
        for key in [key for key, series in client.series.items() if series.expires_ms <= now_ms]:
            del client.series[key]
            self._series_count -= 1

    def _make(
        self, client: ClientSeries, name: str, attributes: Attributes, is_counter: bool, description: str
    ) -> Series:
        shown = metric_name(name)
        if len(self._descriptions) < SERIES_MAX:
            self._descriptions.setdefault(shown, description[:TEXT_MAX])
        self._series_count += 1
        own = (
            ("client_id", (client.attributes.client_id or "")[:TEXT_MAX]),
            ("client_instance_id", client.attributes.client_instance_id),
        )
        return Series(shown, label_set(*own, *clean_labels(attributes)), is_counter)

    def expire(self, now_ms: int) -> None:
        """Forget clients that push no more."""
        for instance_id in [i for i, client in self._clients.items() if client.expires_ms <= now_ms]:
            self._series_count -= len(self._clients.pop(instance_id).series)
        if not self._clients:
            self._descriptions.clear()

    def render(self) -> Iterator[bytes]:
        """What /metrics shows of clients, in steps."""
        info = Family(PREFIX + "info", "gauge", "Clients whose metrics are shown, and what they say about themselves.")
        families: dict[str, Family] = {info.name: info}
        shown: set[tuple[str, str]] = set()
        for client in list(self._clients.values()):
            known = client.attributes
            own: list[tuple[str, str]] = [
                ("client_id", (known.client_id or "")[:TEXT_MAX]),
                ("client_instance_id", known.client_instance_id),
                ("client_software_name", known.client_software_name or ""),
                ("client_software_version", known.client_software_version or ""),
                ("client_source_address", known.client_source_address),
            ]
            names = {name for name, _ in own}
            labels = label_set(*own, *(label for label in client.resource if label[0] not in names))
            info.add(1, labels)
            shown.add((info.name, labels))
            for series in client.series.values():
                # Two names may become one (a.b and a_b), and a client may say the same twice with other spellings.
                if (series.name, series.labels) in shown:
                    continue
                shown.add((series.name, series.labels))
                family = families.get(series.name)
                if family is None:
                    text = self._descriptions.get(series.name) or "Pushed by clients (KIP-714)."
                    family = Family(series.name, "counter" if series.is_counter else "gauge", text)
                    families[series.name] = family
                family.add(series.value, series.labels)
            yield b""
        for family in families.values():
            yield family.render()


def metric_name(name: str) -> str:
    """Return the name under which a client's metric is shown."""
    return PREFIX + _NOT_IN_NAMES.sub("_", name.removeprefix(_KAFKA)[:TEXT_MAX])


def clean_labels(attributes: Attributes) -> Labels:
    """Return attributes as labels: legal names, each once, none of ours, not too many and not too long."""
    labels: dict[str, str] = {}
    for name, value in attributes:
        clean = _NOT_IN_NAMES.sub("_", name[:TEXT_MAX])
        if clean and not clean[0].isdigit() and not clean.startswith("__") and clean not in _OWN_LABELS:
            labels.setdefault(clean, value[:TEXT_MAX])
    return tuple(sorted(labels.items())[:LABELS_MAX])
