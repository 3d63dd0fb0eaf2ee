"""Where a client is told to find the broker, by the address that it used."""

from __future__ import annotations

import pytest
from tests.cluster.cluster_support import image_with

from ottla.broker.context import RequestContext, Session
from ottla.broker.handlers.addresses import Addresses
from ottla.protocol.api import ApiKey


def told(local_host: str, *, auto: bool = True, localhost_ports: frozenset[int] = frozenset({9092})) -> str | None:
    """Return the host that a client on port 9092 is told."""
    context = RequestContext(
        api_key=ApiKey.METADATA,
        version=0,
        correlation_id=1,
        client_id="c",
        session=Session(listener="PLAINTEXT", client_host="10.0.0.9", local_host=local_host, local_port=9092),
    )
    image = image_with({}, 1)
    address = Addresses(lambda: image, 1, auto=auto, localhost_ports=lambda: localhost_ports).of_broker(
        1, context.session
    )
    return None if address is None else address.host


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_over_loopback_it_is_localhost_where_that_leads_here_by_either_address(host: str) -> None:
    assert told(host) == "localhost"
    assert told(host, localhost_ports=frozenset()) == host
    assert told(host, localhost_ports=frozenset({9093})) == host


@pytest.mark.parametrize("host", ["10.0.0.1", "127.0.0.2", "fe80::1%eth0"])
def test_otherwise_it_is_the_address_that_the_client_used(host: str) -> None:
    assert told(host) == host


def test_what_is_advertised_is_told_to_all() -> None:
    assert told("127.0.0.1", auto=False) == "localhost"  # the image's endpoint
    assert told("10.0.0.1", auto=False) == "localhost"
