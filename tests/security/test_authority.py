"""Certificates of an authority of one's own: OpenSSL takes them, for the names they are for and no others."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta

import pytest

from ottla.security.authority import AuthorityError, KeyPair, hosts_of, make_authority, make_certificate
from ottla.security.certificates import alternative_names_of, subject_of
from ottla.security.tls import client_context, server_context
from ottla.security.tls_settings import TlsSettings

NOW = datetime.now(UTC)


def handshake(server: KeyPair, authority: KeyPair, host: str) -> None:
    """Have both sides of a handshake done in memory.

    Raises:
        ssl.SSLError: the client does not trust the server.
    """
    listening = server_context(
        TlsSettings(keystore_key=server.key.decode(), keystore_certificate_chain=server.certificate.decode())
    )
    calling = client_context(TlsSettings(truststore_certificates=authority.certificate.decode()))
    a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [calling.wrap_bio(b, a, server_hostname=host), listening.wrap_bio(a, b, server_side=True)]
    done: set[int] = set()
    for _ in range(8):
        for number, side in enumerate(sides):
            try:
                side.do_handshake()
                done.add(number)
            except ssl.SSLWantReadError:
                pass
    assert done == {0, 1}


@pytest.mark.parametrize("host", ["kafka.example.com", "localhost", "127.0.0.1", "::1"])
def test_a_certificate_is_taken_for_its_names_only(host: str) -> None:
    authority = make_authority("tests", now=NOW, days=2)
    made = make_certificate(authority, ["kafka.example.com", "localhost", "127.0.0.1", "::1"], now=NOW, days=1)
    handshake(made, authority, host)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(made, authority, "other.example.com")


def test_a_certificate_of_another_authority_or_time_is_not_taken() -> None:
    authority, other = make_authority("tests", now=NOW, days=2), make_authority("tests", now=NOW, days=2)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(make_certificate(other, ["localhost"], now=NOW, days=1), authority, "localhost")
    old = make_certificate(authority, ["localhost"], now=NOW - timedelta(days=3), days=1)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(old, authority, "localhost")


def test_names_are_read_back() -> None:
    authority = make_authority("tests", now=NOW, days=2)
    made = make_certificate(authority, ["b", "::1", "10.0.0.1"], now=NOW, days=1)
    assert hosts_of(made.certificate) == ["b", "::1", "10.0.0.1"]
    der = ssl.PEM_cert_to_DER_cert(made.certificate.decode())
    assert subject_of(der) == "CN=b"
    assert len(alternative_names_of(der)) == 3


def test_an_authority_whose_key_is_not_its_certificates_signs_nothing() -> None:
    authority, other = make_authority("a", now=NOW, days=2), make_authority("b", now=NOW, days=2)
    mixed = KeyPair(key=authority.key, certificate=other.certificate)
    with pytest.raises(AuthorityError, match="not that of its certificate"):
        make_certificate(mixed, ["x"], now=NOW, days=1)
    with pytest.raises(AuthorityError, match="cannot be read"):
        make_certificate(KeyPair(key=b"no key", certificate=b""), ["x"], now=NOW, days=1)
    assert "PRIVATE" not in repr(authority)
