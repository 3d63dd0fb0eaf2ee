"""Which limit is about which client: all eight forms, one after the other."""

from __future__ import annotations

import pytest

from ottla.broker.quotas.table import Owner, QuotaTable, Sort, owner_of, resource_of, table_of
from ottla.cluster.image import DEFAULT_ENTITY, IPS, USERS, ConfigResource

#: In the order in which they count, and whose bucket it is.
FORMS = (
    (resource_of("u", "c"), Owner("u", "c")),
    (resource_of("u", DEFAULT_ENTITY), Owner("u", "c")),
    (resource_of("u", None), Owner("u", "")),
    (resource_of(DEFAULT_ENTITY, "c"), Owner("u", "c")),
    (resource_of(DEFAULT_ENTITY, DEFAULT_ENTITY), Owner("u", "c")),
    (resource_of(DEFAULT_ENTITY, None), Owner("u", "")),
    (resource_of(None, "c"), Owner("", "c")),
    (resource_of(None, DEFAULT_ENTITY), Owner("", "c")),
)


@pytest.mark.parametrize("first", range(8))
def test_the_most_specific_form_counts(first: int) -> None:
    left = FORMS[first:]
    table = table_of({resource: {Sort.FETCH: str(n + 1)} for n, (resource, _) in enumerate(left)})
    found = table.find(Sort.FETCH, "u", "c")
    assert found is not None
    assert (found.limit, found.owner, found.configured) == (1.0, left[0][1], owner_of(left[0][0]))
    assert table.find(Sort.PRODUCE, "u", "c") is None


def test_each_sort_has_its_own_form() -> None:
    table = table_of({resource_of("u", "c"): {Sort.FETCH: "1"}, resource_of(None, "c"): {Sort.PRODUCE: "2"}})
    fetch, produce = table.find(Sort.FETCH, "u", "c"), table.find(Sort.PRODUCE, "u", "c")
    assert fetch is not None
    assert produce is not None
    assert (fetch.limit, produce.limit) == (1.0, 2.0)


def test_a_client_without_an_id_has_the_default_one() -> None:
    table = table_of(
        {resource_of(None, DEFAULT_ENTITY): {Sort.FETCH: "5"}, resource_of("u", None): {Sort.PRODUCE: "6"}}
    )
    fetch = table.find(Sort.FETCH, "u", "")
    assert fetch is not None
    assert fetch.limit == 5
    produce = table.find(Sort.PRODUCE, "u", "")
    assert produce is not None
    assert produce.owner == Owner("u", "")


def test_what_is_no_number_limits_nothing_and_is_named() -> None:
    resource = ConfigResource(USERS, "u")
    table = table_of({resource: {Sort.FETCH: "many", "SCRAM-SHA-256": "salt=..."}})
    assert table.is_empty
    assert table.unreadable == ((resource, Sort.FETCH),)


def test_addresses_in_every_spelling() -> None:
    table = table_of(
        {
            ConfigResource(IPS, "0:0:0:0:0:0:0:1"): {"connection_creation_rate": "3"},
            ConfigResource(IPS, DEFAULT_ENTITY): {"connection_creation_rate": "7"},
        }
    )
    assert table.ip_limit("::1") == 3
    assert table.ip_limit("10.0.0.1") == 7
    assert QuotaTable().ip_limit("10.0.0.1") is None
