"""What a broker imports with the first request for it, and not before."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ottla.broker.context import Route, ShortCut
from ottla.broker.wiring import handlers
from ottla.broker.wiring.families import Family, LateFamily
from ottla.protocol.api import ApiKey
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop, run_virtual

#: What a node without logins, without groups and with nobody looking at its pages can do without. Each with all below it.
NOT_AT_A_START = (
    "ottla.broker.coordinators.groups",
    "ottla.broker.coordinators.share",
    "ottla.broker.guards",
    "ottla.broker.handlers.cluster",
    "ottla.broker.handlers.configs",
    "ottla.broker.handlers.consumer_groups",
    "ottla.broker.handlers.groups",
    "ottla.broker.handlers.logins",
    "ottla.broker.handlers.share_fetch",
    "ottla.broker.handlers.streams_groups",
    "ottla.broker.handlers.transactions",
    "ottla.broker.http.pages",
    "ottla.broker.http.workers",
    "ottla.broker.login",
    "ottla.broker.share.manager",
    "ottla.client",
    "ottla.cluster.trees.zookeeper",
    "ottla.connect",
    "ottla.protocol.messages.consumer_group_heartbeat",
    "ottla.protocol.messages.join_group",
    "ottla.security.sasl.scram",
    "ottla.security.tls",
    "ottla.streams",
    "cryptography",
    "kazoo",
    "numpy",
    "pyarrow",
    "_ssl",
)


class _Counting:
    """A family of two APIs, one of them with a short cut."""

    def __init__(self) -> None:
        self.made = 0

    def make(self) -> Family:
        self.made += 1
        return self

    def routes(self) -> dict[ApiKey, Route]:
        return {
            ApiKey.HEARTBEAT: Route(
                lambda _, request: ("answer", request),
                short_cut=ShortCut(lambda frame, version, _: bytes(frame) * version),
            ),
            ApiKey.ELECT_LEADERS: Route(lambda _, request: ("elected", request), for_controller=True),
        }


def test_a_family_is_made_once_with_the_first_request_for_any_of_its_apis() -> None:
    family, context, session = _Counting(), Any, Any
    routes = LateFamily(
        family.make,
        ApiKey.HEARTBEAT,
        ApiKey.ELECT_LEADERS,
        short_cuts=(ApiKey.HEARTBEAT,),
        for_controller=(ApiKey.ELECT_LEADERS,),
    ).routes()
    assert family.made == 0
    assert routes[ApiKey.ELECT_LEADERS].handler(context, 7) == ("elected", 7)  # type: ignore[arg-type]
    short_cut = routes[ApiKey.HEARTBEAT].short_cut
    assert short_cut is not None
    assert short_cut.handle_frame(memoryview(b"ab"), 2, session) == b"abab"  # type: ignore[arg-type]
    assert routes[ApiKey.HEARTBEAT].handler(context, 8) == ("answer", 8)  # type: ignore[arg-type]
    assert family.made == 1


def test_a_family_that_could_not_be_imported_is_tried_again() -> None:
    attempts: list[int] = []

    def make() -> Family:
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError(24, "Too many open files")
        return _Counting()

    late = LateFamily(
        make,
        ApiKey.HEARTBEAT,
        ApiKey.ELECT_LEADERS,
        short_cuts=[ApiKey.HEARTBEAT],
        for_controller=[ApiKey.ELECT_LEADERS],
    )
    handle: Callable[[Any, Any], Any] = late.routes()[ApiKey.HEARTBEAT].handler
    with pytest.raises(OSError, match="Too many"):
        handle(None, 1)
    assert handle(None, 2) == ("answer", 2)


def test_what_stands_for_another_family_is_a_bug() -> None:
    late = LateFamily(_Counting().make, ApiKey.HEARTBEAT, ApiKey.ELECT_LEADERS)
    with pytest.raises(AssertionError, match="other routes"):
        late.make()


def test_every_family_of_a_broker_has_the_routes_that_are_told_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    families: list[LateFamily] = []

    class Noted(LateFamily):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            families.append(self)

    monkeypatch.setattr(handlers, "LateFamily", Noted)

    async def story(loop: VirtualLoop) -> None:
        node = SimulatedBroker(loop)
        await node.start()
        for family in families:
            assert family.make().keys() == family.routes().keys()
        await node.stop()

    run_virtual(1, story)
    assert len(families) > 15


def test_serve_is_ready_without_what_most_brokers_never_need(tmp_path: Path) -> None:
    """Modules as Python itself reports them; what has been imported by the time of the ready line, and for a stop."""
    with (tmp_path / "imports").open("w") as imports:
        process = subprocess.Popen(
            [
                sys.executable,
                "-X",
                "importtime",
                "-m",
                "ottla",
                "serve",
                "--port",
                "0",
                "--data-dir",
                str(tmp_path / "data"),
            ],
            stdout=subprocess.PIPE,
            stderr=imports,
            text=True,
        )
        try:
            assert process.stdout is not None
            assert " ready on " in process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
            process.communicate()
    imported = re.findall(r"^import time: [^|]+\|[^|]+\| *(\S+)$", (tmp_path / "imports").read_text(), re.MULTILINE)
    assert "ottla.broker.handlers.produce" in imported
    too_many = {name for name in imported for needless in NOT_AT_A_START if f"{name}.".startswith(f"{needless}.")}
    assert not too_many
