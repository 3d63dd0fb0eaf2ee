"""QuotaTable: which limit is about which client. Pure: what is configured in, limits out.

A limit is configured for a user, a client id, both together, or for all of a kind that have none of their own (the default).
Of the eight forms the first that fits counts, for each sort of quota on its own (KIP-55):

    user and client id, user and default client id, user,
    default user and client id, default user and default client id, default user,
    client id, default client id.

Where the form names a user, each user has a bucket of its own, also under a default; where it names a client id, each client
id. Names here are those of nodes in the tree (`sanitize`d): so a user called `<default>` is not the default of all.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from ottla.cluster.image import CLIENTS, DEFAULT_ENTITY, IPS, USERS, ConfigResource

ENTITY_KINDS: Final = frozenset({USERS, CLIENTS, IPS})
#: Between the node of a user and that of one of its client ids, as in Kafka's tree: /config/users/<user>/clients/<client id>.
OF_USER: Final = "/clients/"


class Sort(StrEnum):
    """What is limited, by the name of its configuration."""

    PRODUCE = "producer_byte_rate"
    FETCH = "consumer_byte_rate"
    REQUEST = "request_percentage"
    MUTATION = "controller_mutation_rate"


CONNECTION_RATE: Final = "connection_creation_rate"


class Owner(NamedTuple):
    """Whom something belongs to: the nodes of a user and of a client id, "" where there is none."""

    user: str
    client_id: str


class Found(NamedTuple):
    """The limit of a client.

    Attributes:
        limit: per second.
        owner: whose bucket counts: all clients with this owner share it.
        configured: by which entity.
    """

    limit: float
    owner: Owner
    configured: Owner


def resource_of(user: str | None, client_id: str | None) -> ConfigResource:
    """Return where the limits of a user and a client id are kept; the names are those of nodes, None where not named."""
    if user is None:
        assert client_id is not None
        return ConfigResource(CLIENTS, client_id)
    return ConfigResource(USERS, user if client_id is None else f"{user}{OF_USER}{client_id}")


def owner_of(resource: ConfigResource) -> Owner:
    """Return the entity whose limits are kept there; the reverse of `resource_of`."""
    if resource.kind == CLIENTS:
        return Owner("", resource.name)
    user, _, client_id = resource.name.partition(OF_USER)
    return Owner(user, client_id)


def java_ip(text: str) -> str:
    """Return an address in one spelling of it; what is none comes back as it is."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


@dataclass(frozen=True, slots=True)
class QuotaTable:
    """All limits.

    Attributes:
        limits: by sort and entity.
        ips: connections per second by address, `DEFAULT_ENTITY` for all without one of their own.
        unreadable: (resource, key) of what is no number: a foreign hand has written it, and it limits nothing.
    """

    limits: Mapping[Sort, Mapping[Owner, float]] = field(default_factory=dict)
    ips: Mapping[str, float] = field(default_factory=dict)
    unreadable: tuple[tuple[ConfigResource, str], ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether no client is limited in what it sends, reads or asks for."""
        return not self.limits

    def find(self, sort: Sort, user: str, client_id: str) -> Found | None:
        """Return the limit of a client; None: it has none."""
        limits = self.limits.get(sort)
        if limits is None:
            return None
        for configured, owner in _forms(user, client_id):
            limit = limits.get(configured)
            if limit is not None:
                return Found(limit, owner, configured)
        return None

    def ip_limit(self, ip: str) -> float | None:
        """Return how many connections an address may make a second; None: as many as it likes."""
        return self.ips.get(java_ip(ip), self.ips.get(DEFAULT_ENTITY))


def _forms(user: str, client_id: str) -> Iterator[tuple[Owner, Owner]]:
    """Yield which entities may limit a client, and whose bucket counts then."""
    both, of_user, of_client = Owner(user, client_id), Owner(user, ""), Owner("", client_id)
    for name in (user, DEFAULT_ENTITY):
        if client_id:
            yield Owner(name, client_id), both
        yield Owner(name, DEFAULT_ENTITY), both
        yield Owner(name, ""), of_user
    if client_id:
        yield of_client, of_client
    yield Owner("", DEFAULT_ENTITY), of_client


def table_of(configs: Mapping[ConfigResource, Mapping[str, str]]) -> QuotaTable:
    """Return the limits among the settings of a cluster."""
    limits: dict[Sort, dict[Owner, float]] = {}
    ips: dict[str, float] = {}
    unreadable: list[tuple[ConfigResource, str]] = []
    for resource, config in configs.items():
        if resource.kind not in ENTITY_KINDS:
            continue
        for key, text in config.items():
            if key != CONNECTION_RATE and key not in _SORTS:
                continue
            value = _number(text)
            if value is None:
                unreadable.append((resource, key))
            elif resource.kind == IPS:
                if key == CONNECTION_RATE:
                    ips[resource.name if resource.name == DEFAULT_ENTITY else java_ip(resource.name)] = value
            elif key in _SORTS:
                limits.setdefault(Sort(key), {})[owner_of(resource)] = value
    return QuotaTable(limits, ips, tuple(unreadable))


_SORTS: Final = frozenset(Sort)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value == value and value >= 0 else None
