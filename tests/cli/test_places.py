"""Places in a log as people write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

import ottla
from ottla.cli.places import Place, parse_place

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("start", Place(name="earliest")),
        ("Beginning", Place(name="earliest")),
        ("latest", Place(name="latest")),
        ("12", Place(offset=12)),
        ("-12", Place(offset=-12)),
        ("@-90m", Place(time=NOW - timedelta(minutes=90))),
        ("s@1500", Place(time=datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC))),
        ("@2026-02-28T10:00+00:00", Place(time=datetime(2026, 2, 28, 10, tzinfo=UTC))),
    ],
)
def test_places(text: str, place: Place) -> None:
    assert parse_place(text, NOW) == place


def test_a_time_without_a_zone_is_local() -> None:
    place = parse_place("@2026-02-28", NOW)
    assert place.time is not None
    assert place.time.tzinfo is not None
    assert place.time.replace(tzinfo=None) == datetime(2026, 2, 28)


@pytest.mark.parametrize("text", ["", "@", "@soon", "@-", "@-3 moons", "1.5", "--1", "e"])
def test_what_is_no_place_says_what_is(text: str) -> None:
    with pytest.raises(ottla.ConfigurationError):
        parse_place(text, NOW)
