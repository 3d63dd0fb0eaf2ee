"""PLAIN and SCRAM: both roles against each other, the RFC's vectors, and everything that may be wrong."""

from __future__ import annotations

import base64
import random
import time
from collections.abc import Callable
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla.security.sasl import AuthenticationFailedError, SaslError
from ottla.security.sasl.plain import PlainClient, PlainServer, check_of
from ottla.security.sasl.scram import (
    ScramClient,
    ScramCredential,
    ScramServer,
    credential_from_salted,
    credential_from_text,
    credential_to_text,
    new_nonce,
    salted_password,
)

SECRET = b"of the cluster"
SHA256 = "SCRAM-SHA-256"


def credential(password: str, mechanism: str = SHA256, iterations: int = 4096) -> ScramCredential:
    salt = b"salt of sixteen."
    return credential_from_salted(mechanism, salted_password(mechanism, password, salt, iterations), salt, iterations)


KNOWN = {"alice": credential("wonder")}


def server(mechanism: str = SHA256, *, nonce: str = "server", users: dict[str, ScramCredential] = KNOWN) -> ScramServer:
    return ScramServer(mechanism, users.get, nonce=nonce, secret=SECRET)


def test_the_exchange_of_rfc_7677() -> None:
    """RFC 7677, section 3."""
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    known = credential_from_salted(SHA256, salted_password(SHA256, "pencil", salt, 4096), salt, 4096)
    side = ScramServer(SHA256, {"user": known}.get, nonce="%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0", secret=SECRET)
    client = ScramClient(SHA256, "user", "pencil", nonce="rOprNGfwEbeRWgbNEkqO")
    assert client.begin() == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    first = side.respond(client.begin())
    assert first == b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    proof = client.respond(first)
    assert proof == (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    final = side.respond(proof)
    assert final == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    assert client.respond(final) is None
    assert side.is_complete
    assert side.user == "user"
    assert client.is_complete


@pytest.mark.parametrize("mechanism", [SHA256, "SCRAM-SHA-512"])
def test_names_with_commas_and_equals_signs(mechanism: str) -> None:
    users = {"a,b=c": credential("pass,word=ü", mechanism)}
    side = server(mechanism, users=users)
    client = ScramClient(mechanism, "a,b=c", "pass,word=ü", nonce="client")
    proof = client.respond(side.respond(client.begin()))
    assert proof is not None
    assert client.respond(side.respond(proof)) is None
    assert side.user == "a,b=c"


def run(client: ScramClient, side: ScramServer) -> None:
    proof = client.respond(side.respond(client.begin()))
    assert proof is not None
    client.respond(side.respond(proof))


@pytest.mark.parametrize(
    ("user", "password"), [("alice", "wrong"), ("nobody", "wonder"), ("Alice", "wonder"), ("alice", "")]
)
def test_wrong_passwords_and_unknown_users_fail_at_the_same_step(user: str, password: str) -> None:
    side = server()
    client = ScramClient(SHA256, user, password, nonce="client")
    proof = client.respond(side.respond(client.begin()))
    assert proof is not None
    with pytest.raises(SaslError) as error:
        side.respond(proof)
    assert not isinstance(error.value, AuthenticationFailedError), "the client gets the general sentence"
    assert not side.is_complete
    with pytest.raises(SaslError):
        side.respond(proof)


def test_unknown_user_same_bytes_twice() -> None:
    """On every broker and after every restart the same salt for the same name, another one for another name."""

    def challenge(name: str, mechanism: str = SHA256) -> bytes:
        return server(mechanism).respond(f"n,,n={name},r=x".encode())

    assert challenge("nobody") == challenge("nobody")
    assert challenge("nobody") != challenge("somebody")
    known, unknown = challenge("alice").split(b","), challenge("nobody").split(b",")
    assert [part[:2] for part in known] == [part[:2] for part in unknown]
    assert unknown[2] == known[2] == b"i=4096"


def test_scram_nonce_suffix() -> None:
    """A final message whose nonce only ends, or only begins, like this exchange's is refused."""
    for nonce in ("server", "client", "xclientserver", "clientserverx", "clientServer"):
        side = server()
        client = ScramClient(SHA256, "alice", "wonder", nonce="client")
        proof = client.respond(side.respond(client.begin()))
        assert proof is not None
        with pytest.raises(SaslError, match="nonce"):
            side.respond(proof.replace(b"r=clientserver", f"r={nonce}".encode()))


def test_a_proof_cannot_be_used_again() -> None:
    client = ScramClient(SHA256, "alice", "wonder", nonce="client")
    first = server(nonce="one")
    proof = client.respond(first.respond(client.begin()))
    assert proof is not None
    first.respond(proof)
    second = server(nonce="two")
    second.respond(client.begin())
    with pytest.raises(SaslError):
        second.respond(proof)
    third = server(nonce="two")
    third.respond(client.begin())
    with pytest.raises(SaslError):
        third.respond(proof.replace(b"clientone", b"clienttwo"))


def test_another_identity_is_refused_with_a_sentence() -> None:
    with pytest.raises(AuthenticationFailedError, match="different from username"):
        server().respond(b"n,a=root,n=alice,r=x")
    assert server().respond(b"n,a=alice,n=alice,r=x")


@pytest.mark.parametrize(
    "first",
    [
        *(b"", b"n,,n=,r=x", b"y,,n=alice,r=x", b"p=tls-unique,,n=alice,r=x", b"n,,n=al=41,r=x", b"n,,n=alice,r="),
        *(b"n,,n=alice", b"\xff\xfe", b"n,,n=alice,r=x,", b"n" * 70_000, b"n,,n=ali\xc3\xa7e,r=x"),
    ],
)
def test_what_is_no_first_message_is_refused(first: bytes) -> None:
    with pytest.raises(SaslError):
        server().respond(first)


@pytest.mark.parametrize("iterations", [0, 4095, 16385, 10**9])
def test_credentials_that_ask_for_too_much_work_are_none(iterations: int) -> None:
    text = credential_to_text(credential("x")).replace("iterations=4096", f"iterations={iterations}")
    assert credential_from_text(text) is None


def test_credentials_survive_the_tree_and_hide_themselves() -> None:
    known = credential("x", "SCRAM-SHA-512", 8192)
    assert credential_from_text(credential_to_text(known)) == known
    assert "[hidden]" in repr(known)
    for text in ("", "salt=,stored_key=", "salt=!,stored_key=a,server_key=b,iterations=4096"):
        assert credential_from_text(text) is None


@pytest.mark.parametrize("change", [
    lambda m: m.replace(b"r=client", b"r=other"), lambda m: m.replace(b"r=clientserver", b"r=client"),
    lambda m: m.replace(b"i=4096", b"i=1"), lambda m: m.replace(b"i=4096", b"i=99999999"), lambda m: b"e=other-error",
])  # fmt: skip
def test_a_client_believes_no_server_that_shortens_the_work(change: Callable[[bytes], bytes]) -> None:
    client = ScramClient(SHA256, "alice", "wonder", nonce="client")
    with pytest.raises(SaslError):
        client.respond(change(server().respond(client.begin())))


def test_a_client_believes_no_server_without_the_credential() -> None:
    side = server()
    client = ScramClient(SHA256, "alice", "wonder", nonce="client")
    proof = client.respond(side.respond(client.begin()))
    assert proof is not None
    final = side.respond(proof)
    with pytest.raises(SaslError, match="does not know the password"):
        client.respond(b"v=" + base64.b64encode(b"0" * 32))
    with pytest.raises(SaslError, match="refuses"):
        client.respond(b"e=invalid-proof")
    assert client.respond(final) is None


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_no_bytes_of_a_stranger_raise_anything_else(first: bytes, second: bytes) -> None:
    side = server()
    for token in (b"n,," + first, second):
        try:
            side.respond(token)
        except SaslError:
            pass
    assert not side.is_complete


def test_nonces_are_as_random_as_their_source() -> None:
    assert new_nonce(random.Random(1).randbytes) == new_nonce(random.Random(1).randbytes)
    assert len(base64.b64decode(new_nonce(lambda size: b"x" * size))) == 24


def plain() -> PlainServer:
    return PlainServer(check_of({"alice": "wonder", "empty": ""}))


def test_plain_timing_two_populations() -> None:
    """Wrong passwords of a user with a long one, and of nobody: their times are of one population.

    The middle of many short measurements, taken in turns, so that a busy machine slows both; leaving the comparison out for
    unknown users, or hashing the user's password only then, moves one of them by more than half.
    """
    check = check_of({"alice": "w" * 2_000, "bob": "x"})
    ratios = []
    for _ in range(5):
        times: dict[str, list[int]] = {"alice": [], "nobody": []}
        for _ in range(400):
            for user, taken in times.items():
                began = time.thread_time_ns()
                for _ in range(10):
                    assert not check(user, "wrong")
                taken.append(time.thread_time_ns() - began)
        ratios.append(median(times["alice"]) / median(times["nobody"]))
        if 0.85 < ratios[-1] < 1.18:
            return
    raise AssertionError(f"alice's took {ratios} times as long as nobody's")


def test_plain_logs_in() -> None:
    client, side = PlainClient("alice", "wonder"), plain()
    assert client.respond(side.respond(client.begin())) is None
    assert (side.is_complete, side.user, client.is_complete) == (True, "alice", True)
    side = plain()
    side.respond(b"alice\0alice\0wonder")
    assert side.user == "alice"


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        (b"\0alice\0wrong", "Authentication failed: Invalid username or password"),
        (b"\0nobody\0wonder", "Authentication failed: Invalid username or password"),
        (b"\0empty\0", "Authentication failed: password not specified"),
        (b"\0\0wonder", "Authentication failed: username not specified"),
        (
            b"root\0alice\0wonder",
            "Authentication failed: Client requested an authorization id that is different from username",
        ),
        (b"", "Invalid SASL/PLAIN response: expected 3 tokens, got 1"),
        (b"alice\0wonder", "Invalid SASL/PLAIN response: expected 3 tokens, got 2"),
        (b"\0alice\0wonder\0", "Invalid SASL/PLAIN response: expected 3 tokens, got 4"),
        (b"\0al\xff\0wonder", None),
    ],
)
def test_plain_refuses(token: bytes, sentence: str | None) -> None:
    side = plain()
    with pytest.raises(SaslError) as error:
        side.respond(token)
    assert isinstance(error.value, AuthenticationFailedError) == (sentence is not None)
    if sentence is not None:
        assert str(error.value) == sentence
    assert not side.is_complete
