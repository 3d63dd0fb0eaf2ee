"""What is asked of a server on real sockets is asked over both kinds of transports."""

from __future__ import annotations

import pytest

from ottla.network import reactor

#: Modules whose servers accept plain connections.
OVER_BOTH = ("test_server", "test_outflow", "test_transports")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__.rpartition(".")[2] in OVER_BOTH:
        metafunc.fixturenames.append("transports")
        metafunc.parametrize("transports", ["reactor", "asyncio"], indirect=True)


@pytest.fixture
def transports(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the servers of a test use one kind of transport."""
    if request.param == "asyncio":
        monkeypatch.setattr("ottla.network.server.new_reactor", lambda _host, frames_max: None)
    elif reactor.STATUS != "compiled":
        pytest.skip(f"no reactor here: {reactor.STATUS}")
