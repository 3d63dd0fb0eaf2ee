"""GSSAPI's messages, with a context of Kerberos that needs no realm: who says what to whom, and what is not taken."""

from __future__ import annotations

import sys

import pytest

import ottla
from ottla.security.sasl import SaslError, WorkNeededError
from ottla.security.sasl.gssapi import GssapiClient, GssapiServer


class Ring:
    """A context of two or one messages; what is wrapped has a mark in front."""

    def __init__(self, *, answers: bool = True, is_server: bool = False, fails: bool = False) -> None:
        self._answers, self._is_server, self._fails = answers, is_server, fails
        self.is_complete = False
        self.peer = "alice@HERE"

    def step(self, token: bytes) -> bytes:
        if self._fails:
            raise SaslError("a ticket that is not taken")
        if self._is_server:
            assert token == b"ticket"
            self.is_complete = True
            return b"ticket of the server" if self._answers else b""
        if token:
            assert token == b"ticket of the server"
        self.is_complete = bool(token) or not self._answers
        return b"" if token else b"ticket"

    def wrap(self, message: bytes) -> bytes:
        return b"!" + message

    def unwrap(self, token: bytes) -> bytes:
        if token[:1] != b"!":
            raise SaslError("a message without the other side's signature")
        return token[1:]


def server(user: str | None = "alice", **how: bool) -> GssapiServer:
    return GssapiServer(lambda: Ring(is_server=True, **how), lambda principal: user)


def said(exchange: GssapiServer, token: bytes) -> bytes:
    """Take a step, with its work in a thread left out."""
    try:
        return exchange.respond(token)
    except WorkNeededError as needed:
        needed.work()
        return exchange.respond(token)


@pytest.mark.parametrize("answers", [True, False])
def test_both_roles_understand_each_other(answers: bool) -> None:
    there, here = server(answers=answers), GssapiClient(lambda: Ring(answers=answers), "alice@HERE")
    token: bytes | None = here.begin()
    steps = 0
    while not here.is_complete:
        assert token is not None
        answer = said(there, token)
        token = here.respond(answer)
        steps += 1
    assert (there.is_complete, there.user, there.claimed) == (True, "alice", "alice@HERE")
    assert steps == (3 if answers else 2)
    with pytest.raises(SaslError, match="is over"):
        there.respond(b"")


def test_the_first_message_is_work_for_a_thread_and_the_others_are_none() -> None:
    there = server()
    with pytest.raises(WorkNeededError) as needed:
        there.respond(b"ticket")
    needed.value.work()
    assert there.respond(b"ticket") == b"ticket of the server"
    assert there.respond(b"") == b"!\x01\0\0\0"


def test_a_failed_context_ends_the_exchange() -> None:
    there = server(fails=True)
    for _ in range(2):
        with pytest.raises(SaslError):
            said(there, b"ticket")
    assert not there.is_complete
    assert there.user == ""


@pytest.mark.parametrize(
    "choice",
    [
        b"!\x02\0\0\0alice",  # integrity
        b"!\x04\0\0\0alice",  # secrecy
        b"!\x00\0\0\0",
        b"!\x01",
        b"!\x01\0\0\0" + b"x" * 5000,
        b"?\x01\0\0\0alice",
        b"",
    ],
)
def test_only_authentication_can_be_chosen_and_has_to_be_signed(choice: bytes) -> None:
    there = server()
    said(there, b"ticket")
    said(there, b"")
    for attempt in (choice, b"!\x01\0\0\0"):  # nor does a second try help
        with pytest.raises(SaslError):
            there.respond(attempt)
    assert not there.is_complete
    assert there.user == ""


def test_a_choice_before_the_offer_is_none() -> None:
    there = server()
    said(there, b"ticket")
    with pytest.raises(SaslError, match="after its context"):
        there.respond(b"!\x01\0\0\0")
    assert not there.is_complete


def test_without_the_library_a_login_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gssapi", None)
    here = ottla.sasl.Kerberos("kafka", "alice", "/keys").exchange(bytes, "localhost")
    with pytest.raises(SaslError, match=r"GSSAPI needs more packages: pip install 'ottla\[gssapi\]'.*libkrb5-dev"):
        here.begin()


def test_no_rule_no_login() -> None:
    there = server(user=None)
    said(there, b"ticket")
    said(there, b"")
    with pytest.raises(SaslError, match=r"no rule of sasl.kerberos.principal.to.local.rules is about alice@HERE"):
        there.respond(b"!\x01\0\0\0")
    assert not there.is_complete


def test_whom_a_client_asks_to_act_as_is_not_looked_at() -> None:
    there = server()
    said(there, b"ticket")
    said(there, b"")
    there.respond(b"!\x01\0\0\0root@HERE")
    assert there.user == "alice"


@pytest.mark.parametrize("offer", [b"!\x02\0\0\0", b"!\x01", b"?\x01\0\0\0", b"!\x01\0\0\0x"])
def test_a_client_takes_no_offer_that_it_does_not_know(offer: bytes) -> None:
    here = GssapiClient(Ring)
    here.begin()
    here.respond(b"ticket of the server")
    with pytest.raises(SaslError):
        here.respond(offer)
    assert not here.is_complete
