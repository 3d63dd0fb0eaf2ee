"""What a client is subscribed to: all client-metrics configurations that match it, put together (KIP-714).

Pure. The id of a subscription is the checksum of its contents and the client, as Apache Kafka computes it, so that the same
configuration gives a client the same id after a restart of the broker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ottla.config import CLIENT_METRICS
from ottla.config.client_metrics import ALL_METRICS, INTERVAL_MS_DEFAULT, parse_match
from ottla.patterns import Pattern
from ottla.protocol.records.checksum import crc32c
from ottla.types import uuid_to_text

#: Longer texts match nothing.
MATCHED_TEXT_MAX = 1_000


class ClientAttributes(NamedTuple):
    """What `match` can ask about a client, named as there; None is unknown and matches nothing."""

    client_instance_id: str
    client_id: str | None
    client_software_name: str | None
    client_software_version: str | None
    client_source_address: str
    client_source_port: str


class Subscription(NamedTuple):
    """One client-metrics configuration."""

    metrics: tuple[str, ...]
    interval_ms: int
    match: Mapping[str, Pattern]

    def matches(self, client: ClientAttributes) -> bool:
        for name, pattern in self.match.items():
            text: str | None = getattr(client, name)
            if text is None or len(text) > MATCHED_TEXT_MAX or not pattern.fullmatch(text):
                return False
        return True


def parse_subscription(overrides: Mapping[str, str]) -> Subscription:
    """Make a subscription of a configuration that has been checked."""
    values = {name: key.parse(overrides.get(name, key.default)) for name, key in CLIENT_METRICS.items()}
    metrics, interval_ms, match = values["metrics"], values["interval.ms"], values["match"]
    assert isinstance(metrics, list)
    assert isinstance(interval_ms, int)
    assert isinstance(match, list)
    return Subscription(tuple(metrics), interval_ms, parse_match(match))


@dataclass(frozen=True, slots=True)
class Selection:
    """What one client is asked for."""

    metrics: tuple[str, ...]
    push_interval_ms: int
    subscription_id: int


def select(subscriptions: Iterable[Subscription], instance_id: bytes, client: ClientAttributes) -> Selection:
    """Put together what matches the client; without a match it is asked for nothing, and to come again in a while."""
    metrics: set[str] = set()
    interval_ms = INTERVAL_MS_DEFAULT
    for subscription in subscriptions:
        if subscription.matches(client):
            metrics.update(subscription.metrics)
            interval_ms = min(interval_ms, subscription.interval_ms)
    chosen = (ALL_METRICS,) if ALL_METRICS in metrics else tuple(sorted(metrics))
    return Selection(chosen, interval_ms, subscription_id(chosen, interval_ms, instance_id))


def subscription_id(metrics: tuple[str, ...], interval_ms: int, instance_id: bytes) -> int:
    """Return CRC-32C of the list and the interval, xor the hash Java has for the uuid: an int32."""
    checksum = crc32c(f"[{', '.join(metrics)}]{interval_ms}".encode())
    words = [int.from_bytes(instance_id[start : start + 4], "big") for start in range(0, 16, 4)]
    value = checksum ^ words[0] ^ words[1] ^ words[2] ^ words[3]
    return value - (1 << 32) if value & 0x80000000 else value


def attributes_of(
    instance_id: bytes, client_id: str | None, software: tuple[str, str] | None, address: str, port: int
) -> ClientAttributes:
    """Collect what is known of the client behind a request."""
    name, version = software or (None, None)
    return ClientAttributes(uuid_to_text(instance_id), client_id, name, version, address, str(port))
