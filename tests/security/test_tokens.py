"""Which tokens are good: signatures, algorithms, keys, claims, and what forged ones look like."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.security.identities import (
    AUDIENCE,
    ISSUER,
    claims,
    ec_key,
    key_set,
    public_jwk,
    public_pem,
    raw,
    rsa_key,
    signed,
)

from ottla.security.sasl import AuthenticationFailedError, SaslError
from ottla.security.sasl.oauthbearer import (
    OAuthBearerClient,
    OAuthBearerServer,
    RefusedTokenError,
    TokenError,
    ValidToken,
)
from ottla.security.tokens import ClaimRules, KeySet, check_signed, check_unsecured, parse_key_set

NOW_S = 1_800_000_000
RULES = ClaimRules(audiences=frozenset({AUDIENCE, "other"}), issuer=ISSUER, skew_s=30)


def keys() -> KeySet:
    return parse_key_set(key_set(public_jwk(rsa_key(), "r"), public_jwk(ec_key(), "e")))


def check(token: str, rules: ClaimRules = RULES, now_s: float = NOW_S) -> ValidToken:
    return check_signed(token, keys(), rules, int(now_s * 1000))


@pytest.mark.parametrize(("algorithm", "key_id"), [("RS256", "r"), ("RS512", "r"), ("PS256", "r"), ("ES256", "e")])
def test_a_token_is_taken_by_each_kind_of_key(algorithm: str, key_id: str) -> None:
    token = signed(NOW_S, rsa_key() if key_id == "r" else ec_key(), algorithm, key_id)
    found = check(token)
    assert (found.user, found.expires_at_ms) == ("alice", (NOW_S + 300) * 1000)


def test_hs256_with_public_key() -> None:
    """The public key, which everybody has, is not taken for the secret of an HMAC; nor is `none` an algorithm."""
    for secret in (public_pem(rsa_key()), public_pem(rsa_key()).strip(), b""):
        head = {"alg": "HS256", "kid": "r"}
        body = raw(head, claims(NOW_S)).rpartition(".")[0]
        signature = hmac.digest(secret, body.encode(), hashlib.sha256)
        with pytest.raises(TokenError, match="'HS256', which is not an algorithm of its key"):
            check(raw(head, claims(NOW_S), signature))
    for name in ("none", "None", "NONE", None, ["RS256"], "RS256 "):
        with pytest.raises(TokenError, match="not an algorithm of its key"):
            check(raw({"alg": name, "kid": "r"}, claims(NOW_S)))


def test_jku_is_never_fetched() -> None:
    """What a token says about keys is not read: nothing is opened, and the token counts by the known key alone."""
    stranger = rsa_key(1)
    said: dict[str, Any] = {
        "jku": "http://127.0.0.1:1/keys",
        "x5u": "file:///etc/passwd",
        "jwk": public_jwk(stranger, "r"),
        "x5c": ["AAAA"],
    }
    with pytest.raises(TokenError, match="signature is not good"):
        check(signed(NOW_S, stranger, header=said))
    assert check(signed(NOW_S, header=said)).user == "alice"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"exp": NOW_S - 31}, "expired"),
        ({"exp": None}, "without a time as exp"),
        ({"exp": "soon"}, "without a time as exp"),
        ({"exp": True}, "without a time as exp"),
        ({"exp": 1e300}, "without a time as exp"),
        ({"iat": None}, "without a time as iat"),
        ({"iat": NOW_S + 31}, "in the future"),
        ({"nbf": NOW_S + 31}, "not valid yet"),
        ({"iss": "https://evil.example.com"}, "another issuer"),
        ({"iss": None}, "another issuer"),
        ({"aud": "files"}, "another audience"),
        ({"aud": ["files", 3]}, "another audience"),
        ({"aud": None}, "another audience"),
        ({"sub": None}, "without the claim sub"),
        ({"sub": ""}, "without the claim sub"),
        ({"sub": 7}, "without the claim sub"),
        ({"scope": 7}, "no text and no list of texts"),
    ],
)
def test_a_claim_that_is_not_good_is_told(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(TokenError, match=why):
        check(signed(NOW_S, **changes))


def test_clocks_may_differ_and_audiences_be_several() -> None:
    assert check(signed(NOW_S, exp=NOW_S - 29, iat=NOW_S - 100)).user == "alice"
    assert check(signed(NOW_S, iat=NOW_S + 29, nbf=NOW_S + 29)).user == "alice"
    assert check(signed(NOW_S, aud=["files", "other"], scope=["a", "b"])).user == "alice"
    named = ClaimRules(subject_claim="azp", scope_claim="scp")
    assert check(signed(NOW_S, azp="app", aud=None, iss=None), named).user == "app"


def test_a_token_of_another_key_is_not_taken() -> None:
    for token in (signed(NOW_S, rsa_key(1)), signed(NOW_S, ec_key(1), "ES256", "e")):
        with pytest.raises(TokenError, match="signature is not good"):
            check(token)
    for key_id in ("unknown", None):
        with pytest.raises(TokenError, match="not in the key set"):
            check(signed(NOW_S, key_id=key_id))
    with pytest.raises(TokenError, match="not an algorithm of its key"):
        check(signed(NOW_S, ec_key(), "ES256", "r"))
    with pytest.raises(TokenError, match="crit"):
        check(signed(NOW_S, header={"crit": ["x"], "x": 1}))


def test_a_changed_byte_of_a_token_is_noticed() -> None:
    token = signed(NOW_S)
    for position in range(0, len(token), 7):
        changed = token[:position] + ("A" if token[position] != "A" else "B") + token[position + 1 :]
        with pytest.raises(TokenError):
            check(changed)


@given(st.text(max_size=200))
def test_any_text_is_a_token_or_a_token_error(text: str) -> None:
    with pytest.raises(TokenError):
        check(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda each: st.lists(each, max_size=3)
    )
)
def test_any_header_is_a_token_error(value: object) -> None:
    with pytest.raises(TokenError):
        check(raw({"alg": value, "kid": value}, {"sub": "x"}))


def test_only_keys_that_can_check_signatures_are_kept() -> None:
    weak = {"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "w"}
    rows = [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "o", "alg": "HS256"},
        public_jwk(rsa_key(), "enc", use="enc"),
        public_jwk(rsa_key(), "hs", alg="HS256"),
        weak,
        "nonsense",
        {"kty": "EC", "crv": "P-256", "x": "!", "y": "!", "kid": "bad"},
        public_jwk(rsa_key(), "good", alg="RS256"),
    ]
    found = parse_key_set(json.dumps({"keys": rows}).encode())
    assert len(found) == 1
    assert found.knows("good")
    with pytest.raises(TokenError, match="not an algorithm"):
        check_signed(signed(NOW_S, algorithm="RS512", key_id="good"), found, RULES, NOW_S * 1000)
    for document in (b"", b"[]", b'{"keys": 3}', b'{"keys": []}', b"\xff", b"[" * 100_000):
        with pytest.raises(ValueError, match=r"no JSON Web Key Set|no key that can check"):
            parse_key_set(document)


def test_unsecured_tokens_are_those_alone_that_say_so() -> None:
    good = raw({"alg": "none"}, claims(NOW_S))
    assert check_unsecured(good, ClaimRules(), NOW_S * 1000).user == "alice"
    for token in (signed(NOW_S), good + "AA", raw({"alg": "HS256"}, claims(NOW_S))):
        with pytest.raises(TokenError, match="not unsecured"):
            check_unsecured(token, ClaimRules(), NOW_S * 1000)


# -- the exchange


def exchange(token: str) -> tuple[OAuthBearerClient, OAuthBearerServer]:
    return OAuthBearerClient(lambda: token), OAuthBearerServer(check)


def test_both_roles_come_to_an_end() -> None:
    client, server = exchange(signed(NOW_S))
    answer = server.respond(client.begin())
    assert answer == b""
    assert client.respond(answer) is None
    assert client.is_complete
    assert server.is_complete
    assert (server.user, server.expires_at_ms) == ("alice", (NOW_S + 300) * 1000)


def test_a_refused_token_is_told_in_json_and_ends_after_one_more_message() -> None:
    client, server = exchange(signed(NOW_S, exp=NOW_S - 100))
    told = server.respond(client.begin())
    assert told == b'{"status":"invalid_token"}'
    last = client.respond(told)
    assert last == b"\x01"
    with pytest.raises(RefusedTokenError, match="invalid_token") as error:
        server.respond(last)
    assert error.value.why == "a token that has expired"
    with pytest.raises(SaslError, match="over"):
        server.respond(client.begin())
    with pytest.raises(SaslError, match="does not take the token"):
        client.respond(b"")
    assert not server.is_complete


def test_an_authorization_id_must_be_the_tokens_user() -> None:
    token = signed(NOW_S)
    message = f"n,a=bob,\x01auth=Bearer {token}\x01\x01".encode()
    with pytest.raises(AuthenticationFailedError, match="authorization id"):
        OAuthBearerServer(check).respond(message)
    server = OAuthBearerServer(check)
    server.respond(f"n,a=alice,\x01auth=bearer {token}\x01x=y\x01\x01".encode())
    assert server.is_complete


@pytest.mark.parametrize(
    "message",
    [
        b"", b"\x01", b"n,,\x01\x01", b"n,,\x01auth=Basic x\x01\x01", b"y,,\x01auth=Bearer x\x01\x01",
        b"n,,\x01auth=Bearer x\x01auth=Bearer y\x01\x01", b"n,,\x01auth=Bearer x\x01", b"n,,auth=Bearer x\x01\x01",
        b"n,,\x01auth=Bearer \xff\x01\x01", b"n,,\x01auth=Bearer " + b"x" * 70_000 + b"\x01\x01",
    ],
)  # fmt: skip
def test_what_is_no_message_of_the_mechanism_ends_the_login(message: bytes) -> None:
    with pytest.raises(SaslError):
        OAuthBearerServer(check).respond(message)


def test_a_client_sends_no_odd_token_or_extension() -> None:
    with pytest.raises(SaslError, match="one word"):
        OAuthBearerClient(lambda: "a b").begin()
    with pytest.raises(SaslError, match="one word"):
        OAuthBearerClient(lambda: "a\x01auth=Bearer b").begin()
    for name, value in (("auth", "x"), ("a1", "x"), ("a", "\x01")):
        with pytest.raises(ValueError, match="no extension"):
            OAuthBearerClient(lambda: "x", {name: value})
    assert OAuthBearerClient(lambda: "x", {"region": "eu"}).begin() == b"n,,\x01auth=Bearer x\x01region=eu\x01\x01"
