"""TLS and logins of listeners, from settings to contexts that shake hands."""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.network.certificates import server_context

from ottla.broker.config import BrokerConfig, ConfigError
from ottla.broker.settings.oauth import OAuthSettings
from ottla.broker.wiring.entrance import _check_same_names, _kerberos, make_contexts
from ottla.broker.wiring.peer_channels import _kerberos_exchanges
from ottla.cluster.decisions.configs import validate_broker_config
from ottla.config import LISTENER_PREFIX
from ottla.security.authority import make_authority, make_certificate
from ottla.security.kerberos import Keys
from ottla.security.tls import ReloadableContext, client_context
from ottla.security.tls import server_context as context_of
from ottla.security.tls_settings import TlsSettings, TlsSettingsError
from ottla.security.tokens import ClaimRules

PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"


def config(*lines: str) -> BrokerConfig:
    return BrokerConfig.from_sources(properties="\n".join(lines))


def store(directory: Path) -> Path:
    """A PEM file with a key and its certificate."""
    directory.mkdir(exist_ok=True)
    server_context(directory)
    path = directory / "store.pem"
    path.write_text((directory / "key.pem").read_text() + (directory / "certificate.pem").read_text())
    path.chmod(0o600)
    return path


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLObject:
    """Let both shake hands in memory; return the client's side."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(to_client, to_server, server_hostname="localhost", session=session)
    there = server.wrap_bio(to_server, to_client, server_side=True)
    done: set[ssl.SSLObject] = set()
    for _ in range(10):
        for side in (here, there):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                pass
    assert len(done) == 2, "no handshake came about"
    try:
        here.read(1)  # what comes behind the handshake: tickets
    except ssl.SSLWantReadError:
        pass
    return here


def trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate))


def test_settings_of_one_listener_go_before_those_of_all(tmp_path: Path) -> None:
    path = store(tmp_path)
    found = config(
        "listeners=OUT://:1,IN://:2",
        "listener.security.protocol.map=OUT:SSL,IN:SSL",
        f"ssl.keystore.location={path}",
        "ssl.keystore.type=PEM",
        "ssl.client.auth=required",
        "ssl.truststore.type=PEM",
        f"ssl.truststore.location={tmp_path / 'certificate.pem'}",
        "ssl.enabled.protocols=TLSv1.2",
        "ssl.cipher.suites=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        "listener.name.in.ssl.client.auth=none",
        "listener.name.in.ssl.enabled.protocols=TLSv1.3",
        "listener.name.in.ssl.cipher.suites=",
        "listener.name.in.ssl.allow.dn.changes=true",
        "listener.name.in.ssl.allow.san.changes=true",
        "listener.name.in.ssl.principal.mapping.rules=RULE:^CN=(.*)$/$1/",
    )
    out, inside = found.tls["OUT"], found.tls["IN"]
    assert (out.settings.client_auth, inside.settings.client_auth) == ("required", "none")
    assert (out.allow_dn_changes, inside.allow_dn_changes, inside.allow_san_changes) == (False, True, True)
    assert (out.mapping.user_of("CN=x"), inside.mapping.user_of("CN=x")) == ("CN=x", "x")
    contexts = make_contexts(found)
    side = shake_hands(contexts["IN"](), trusting(tmp_path / "certificate.pem"))
    assert side.version() == "TLSv1.3"
    mutual = client_context(
        TlsSettings(
            keystore_type="PEM",
            keystore_location=str(path),
            truststore_type="PEM",
            truststore_location=str(tmp_path / "certificate.pem"),
        )
    )
    side = shake_hands(contexts["OUT"](), mutual)
    assert (side.version(), side.cipher()) == ("TLSv1.2", ("ECDHE-ECDSA-AES128-GCM-SHA256", "TLSv1.2", 128))
    with pytest.raises(ssl.SSLError):
        shake_hands(contexts["OUT"](), trusting(tmp_path / "certificate.pem"))


def test_with_sasl_a_certificate_is_asked_for_only_where_the_listener_says_so(tmp_path: Path) -> None:
    path = store(tmp_path)
    lines = [
        "listeners=SASL_SSL://:1",
        f"ssl.keystore.location={path}",
        "ssl.client.auth=required",
        "sasl.enabled.mechanisms=SCRAM-SHA-512",
    ]
    assert config(*lines).tls["SASL_SSL"].settings.client_auth == "none"
    lines.append("listener.name.sasl_ssl.ssl.client.auth=required")
    assert config(*lines).tls["SASL_SSL"].settings.client_auth == "required"


def test_inline_key_never_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key in the settings: no file is opened for writing, and no temporary one is made."""
    store(tmp_path)
    key, certificate = ((tmp_path / name).read_text() for name in ("key.pem", "certificate.pem"))
    found = config(
        "listeners=SSL://:1",
        "ssl.keystore.key=" + key.replace("\n", "\\n"),
        "ssl.keystore.certificate.chain=" + certificate.replace("\n", "\\n"),
        "ssl.truststore.certificates=" + certificate.replace("\n", "\\n"),
        "ssl.client.auth=requested",
    )
    assert key not in repr(found.tls)
    written: list[object] = []
    real = os.open

    def opened(*arguments: Any, **more: Any) -> int:
        written.append(arguments)
        return real(*arguments, **more)

    monkeypatch.setattr("os.open", opened)
    monkeypatch.setattr("tempfile.mkstemp", lambda *arguments, **more: pytest.fail("a temporary file"))
    context = make_contexts(found)["SSL"]()
    monkeypatch.undo()
    assert not written
    shake_hands(context, trusting(tmp_path / "certificate.pem"))


def test_a_key_with_a_password(tmp_path: Path) -> None:
    import subprocess

    store(tmp_path)
    locked = tmp_path / "locked.pem"
    subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-in", tmp_path / "key.pem", "-out", locked, "-passout", "pass:secret"],
        check=True,
        capture_output=True,
    )
    locked.write_text(locked.read_text() + (tmp_path / "certificate.pem").read_text())
    for key in ("ssl.key.password", "ssl.keystore.password"):
        found = config(
            "listeners=SSL://:1", "ssl.keystore.type=PEM", f"ssl.keystore.location={locked}", f"{key}=secret"
        )
        shake_hands(make_contexts(found)["SSL"](), trusting(tmp_path / "certificate.pem"))
    found = config(
        "listeners=SSL://:1", "ssl.keystore.type=PEM", f"ssl.keystore.location={locked}", "ssl.key.password=x"
    )
    with pytest.raises(ConfigError, match=r"ssl.key.password\) is wrong or missing"):
        make_contexts(found)


def p12(directory: Path, password: str) -> Path:
    """A PKCS#12 store with what is in `store.pem`, made by openssl."""
    import subprocess

    path = directory / "store.p12"
    subprocess.run(
        ["openssl", "pkcs12", "-export", "-in", directory / "store.pem", "-out", path, "-passout", f"pass:{password}"],
        check=True,
        capture_output=True,
    )
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("kind", ["PKCS12", "JKS"])
def test_a_pkcs12_store_is_read_and_never_written_as_a_file(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the type is Kafka's default, JKS: Java reads it there, too. Trust stores of either side likewise."""
    store(tmp_path)
    path = p12(tmp_path, "secret")
    lines = [f"ssl.keystore.type={kind}", f"ssl.keystore.location={path}", "ssl.keystore.password=secret"]
    found = config("listeners=SSL://:1", *lines)
    before = set(tmp_path.iterdir())
    monkeypatch.setattr("tempfile.mkstemp", lambda *arguments, **more: pytest.fail("a temporary file"))
    shake_hands(make_contexts(found)["SSL"](), trusting(tmp_path / "certificate.pem"))
    assert set(tmp_path.iterdir()) == before
    trust = tmp_path / "trust.p12"
    _make_trust_store(trust, tmp_path / "certificate.pem")
    client = client_context(
        TlsSettings(truststore_type=kind, truststore_location=str(trust), truststore_password="secret")
    )
    shake_hands(make_contexts(found)["SSL"](), client)
    trusting_clients = ["ssl.client.auth=required", f"ssl.truststore.location={trust}", f"ssl.truststore.type={kind}"]
    strict = config("listeners=SSL://:1", *lines, *trusting_clients, "ssl.truststore.password=secret")
    assert make_contexts(strict)["SSL"]().cert_store_stats()["x509"] == 1


def _make_trust_store(path: Path, certificate: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12

    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    path.write_bytes(
        pkcs12.serialize_java_truststore([pkcs12.PKCS12Certificate(found, b"ca")], BestAvailableEncryption(b"secret"))
    )


@pytest.mark.parametrize("password", ["", "wrong"])
def test_a_wrong_password_of_a_pkcs12_store_is_said_without_it(tmp_path: Path, password: str) -> None:
    store(tmp_path)
    path = p12(tmp_path, "secret")
    with pytest.raises(TlsSettingsError, match="the password is wrong or missing") as error:
        context_of(TlsSettings(keystore_type="PKCS12", keystore_location=str(path), keystore_password=password))
    assert "wrong " not in str(error.value).replace("is wrong or", "")
    _make_trust_store(tmp_path / "trust.p12", tmp_path / "certificate.pem")
    with pytest.raises(TlsSettingsError, match="the password is wrong or missing"):
        _ = client_context(
            TlsSettings(
                truststore_type="PKCS12", truststore_location=str(tmp_path / "trust.p12"), truststore_password=password
            )
        )


def test_a_pkcs12_store_without_the_extra_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    store(tmp_path)
    path = p12(tmp_path, "secret")
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(TlsSettingsError, match=r"pip install 'ottla\[security\]'"):
        context_of(TlsSettings(keystore_type="PKCS12", keystore_location=str(path), keystore_password="secret"))


WRONG: list[tuple[Callable[[Path], TlsSettings], str]] = [
    (lambda d: TlsSettings(), "TLS needs a key and a certificate"),
    (lambda d: TlsSettings(keystore_location=str(d / "none")), "cannot be read: No such file"),
    (lambda d: TlsSettings(keystore_location=str(d / "store.pem")), "ssl.keystore.type=JKS, and .* is no such store"),
    (
        lambda d: TlsSettings(keystore_location=_file(d, b"\xfe\xed\xfe\xed....")),
        "is a JKS store, which only Java reads; convert it: keytool",
    ),
    (
        lambda d: TlsSettings(keystore_location=_file(d, b"\x30\x82....")),
        "it is damaged, or encrypted in a way that is not known",
    ),
    (
        lambda d: TlsSettings(keystore_location=_file(d, b"\x30\x82...."), keystore_type="PEM"),
        "is no PEM file; if it is a PKCS#12 store, set ssl.keystore.type=PKCS12",
    ),
    (
        lambda d: TlsSettings(keystore_location=_file(d, b"hello"), keystore_type="PEM"),
        "has no key and certificate that fit",
    ),
    (lambda d: TlsSettings(keystore_key="x"), "needs ssl.keystore.certificate.chain"),
    (lambda d: _good(d, client_auth="required"), "whose certificates are to be trusted"),
    (lambda d: _good(d, enabled_protocols=("TLSv1.1",)), "can name TLSv1.2 and TLSv1.3, but it is TLSv1.1"),
    (lambda d: _good(d, cipher_suites=("TLS_AES_128_GCM_SHA256",)), "cannot choose among those of TLS 1.3"),
    (lambda d: _good(d, cipher_suites=("TLS_NULL",)), "suites that are not known: TLS_NULL"),
    (lambda d: _good(d, truststore_location=str(d / "store.pem")), "ssl.truststore.type=JKS"),
    (lambda d: _good(d, truststore_location=_file(d, b"x"), truststore_type="PEM"), "has no certificates"),
]


def _file(directory: Path, data: bytes) -> str:
    path = directory / "odd"
    path.write_bytes(data)
    return str(path)


def _good(directory: Path, **more: object) -> TlsSettings:
    return TlsSettings(keystore_type="PEM", keystore_location=str(directory / "store.pem"), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("settings", "sentence"), WRONG)
def test_what_makes_no_context_is_said_in_one_sentence(
    tmp_path: Path, settings: Callable[[Path], TlsSettings], sentence: str
) -> None:
    store(tmp_path)
    with pytest.raises(TlsSettingsError, match=sentence):
        context_of(settings(tmp_path))


def test_torn_certificate_reload(tmp_path: Path) -> None:
    """Half a file, a key that is not the certificate's, other names: the old certificate stays; the right pair is taken."""
    path = store(tmp_path)
    failures: list[str] = []
    tls = config("listeners=SSL://:1", "ssl.keystore.type=PEM", f"ssl.keystore.location={path}").tls["SSL"]
    context = ReloadableContext(tls.settings, check=partial(_check_same_names, tls), on_failure=failures.append)
    old = context()
    assert not context.look()
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    assert (context.look(), context() is old, len(failures)) == (False, True, 1)
    assert not context.look(), "said once"
    store(tmp_path / "other")
    path.write_text((tmp_path / "other" / "key.pem").read_text() + (tmp_path / "certificate.pem").read_text())
    assert (context.look(), context() is old) == (False, True)
    assert "the key is not the certificate's" in failures[-1]
    path.unlink()
    assert (context.look(), context() is old) == (False, True)
    path.write_text((tmp_path / "other" / "store.pem").read_text())
    assert context.look()
    assert context() is not old
    shake_hands(context(), trusting(tmp_path / "other" / "certificate.pem"))
    assert len(failures) == 2


def test_a_certificate_of_another_name_is_not_taken(tmp_path: Path) -> None:
    import subprocess

    path = store(tmp_path)
    tls = config("listeners=SSL://:1", "ssl.keystore.type=PEM", f"ssl.keystore.location={path}").tls["SSL"]
    for name, alternative, allowed in (("other", "DNS:localhost,IP:127.0.0.1", ""), ("localhost", "DNS:localhost", "")):
        directory = tmp_path / f"{name}-{len(alternative)}"
        directory.mkdir()
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
                *("-keyout", directory / "k", "-out", directory / "c", "-days", "2", "-subj", f"/CN={name}"),
                *("-addext", f"subjectAltName={alternative}"),
            ],
            check=True,
            capture_output=True,
        )
        failures: list[str] = []
        path.write_text((tmp_path / "key.pem").read_text() + (tmp_path / "certificate.pem").read_text())
        context = ReloadableContext(tls.settings, check=partial(_check_same_names, tls), on_failure=failures.append)
        path.write_text((directory / "k").read_text() + (directory / "c").read_text() + allowed)
        assert not context.look()
        assert "ssl.allow.dn.changes" in failures[0] if name == "other" else "ssl.allow.san.changes" in failures[0]


def test_a_client_takes_no_certificate_of_another_host_unless_it_says_so(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    authority = make_authority("tests", now=now, days=2)
    for host, checks, is_taken in (
        ("localhost", True, True),
        ("other.example", True, False),
        ("other.example", False, True),
    ):
        pair = make_certificate(authority, [host], now=now, days=2)
        settings = TlsSettings(
            keystore_type="PEM", keystore_key=pair.key.decode(), keystore_certificate_chain=pair.certificate.decode()
        )
        trusts = TlsSettings(truststore_type="PEM", truststore_certificates=authority.certificate.decode())
        client = client_context(trusts, checks_host=checks)
        if is_taken:
            shake_hands(context_of(settings), client)
        else:
            with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
                shake_hands(context_of(settings), client)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_an_old_version_of_tls_is_refused_on_both_sides(tmp_path: Path) -> None:
    path = store(tmp_path)
    server = context_of(TlsSettings(keystore_type="PEM", keystore_location=str(path)))
    assert server.minimum_version is client_context(TlsSettings()).minimum_version is ssl.TLSVersion.TLSv1_2
    old = trusting(tmp_path / "certificate.pem")
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
        shake_hands(server, old)
    new = trusting(tmp_path / "certificate.pem")
    new.maximum_version = ssl.TLSVersion.TLSv1_2
    assert shake_hands(server, new).version() == "TLSv1.2"


def test_ticket_after_trust_change(tmp_path: Path) -> None:
    """Where client certificates count no ticket is given out: a session cannot outlive the trust that it began with."""
    path = store(tmp_path)
    trust = {"truststore_type": "PEM", "truststore_location": str(tmp_path / "certificate.pem")}
    for versions in (("TLSv1.2",), ("TLSv1.3",)):
        server = context_of(_good(tmp_path, client_auth="required", enabled_protocols=versions, **trust))
        client = client_context(
            TlsSettings(keystore_type="PEM", keystore_location=str(path), enabled_protocols=versions, **trust)  # type: ignore[arg-type]
        )
        first = shake_hands(server, client)
        session = first.session
        changed = context_of(_good(tmp_path, client_auth="required", enabled_protocols=versions, **trust))
        again = shake_hands(changed, client, session if session is not None and session.id else None)
        assert not again.session_reused
        assert session is None or not session.has_ticket


LOGIN = "listeners=SASL_PLAINTEXT://:1"
OAUTH = "sasl.enabled.mechanisms=OAUTHBEARER"
KEYS = "sasl.oauthbearer.jwks.endpoint.url=https://id/keys"
JAAS = "listener.name.sasl_plaintext.plain.sasl.jaas.config="
KRB = "listener.name.sasl_plaintext.gssapi.sasl.jaas.config=com.sun.security.auth.module.Krb5LoginModule required "
KEYTAB = KRB + 'useKeyTab=true keyTab="/k" principal="kafka/h@R" serviceName=kafka;'


def test_logins_of_a_listener() -> None:
    found = config(
        LOGIN,
        "sasl.enabled.mechanisms=SCRAM-SHA-256,PLAIN",
        f'{JAAS}{PLAIN} required username="a" password="b" user_alice="w,o=n" user_bob=x;',
        "connections.max.reauth.ms=5000",
        "listener.name.sasl_plaintext.plain.connections.max.reauth.ms=7000",
        "sasl.server.max.receive.size=1000",
        "connection.failed.authentication.delay.ms=5",
    )
    logins = found.logins["SASL_PLAINTEXT"]
    assert logins.mechanisms == ("SCRAM-SHA-256", "PLAIN")
    assert logins.passwords == {"alice": "w,o=n", "bob": "x"}
    assert logins.reauthenticate_ms == {"SCRAM-SHA-256": 5000, "PLAIN": 7000}
    assert logins.token_bytes_max == 1000
    assert found.connection_failed_authentication_delay_ms == 5
    assert "w,o=n" not in repr(found.logins)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (
            [LOGIN, "sasl.enabled.mechanisms=DIGEST-MD5"],
            "names DIGEST-MD5; served are PLAIN, SCRAM-SHA-256, SCRAM-SHA-512",
        ),
        (
            [LOGIN],
            "needs the broker's keys: set listener.name.sasl_plaintext.gssapi.sasl.jaas.config to com.sun.security",
        ),
        ([LOGIN, KRB + "useTicketCache=true;"], "a broker needs useKeyTab=true"),
        ([LOGIN, KRB + "useKeyTab=true keyTab=k;"], "needs principal"),
        ([LOGIN, KRB + "useKeyTab=true;"], "needs keyTab"),
        ([LOGIN, KRB + "storeKey=true;"], "useKeyTab=true with keyTab and principal, or useTicketCache=true"),
        ([LOGIN, KEYTAB, "sasl.kerberos.service.name=x"], "another serviceName than sasl.kerberos.service.name"),
        (
            [LOGIN, KEYTAB, "sasl.kerberos.principal.to.local.rules=RULE:[1:$2]"],
            "$2 of 'RULE:[1:$2]' must be $0 to $1",
        ),
        ([LOGIN, KEYTAB, "sasl.kerberos.principal.to.local.rules=DEFAULT,x"], "cannot read 'x'"),
        ([LOGIN, KEYTAB, r"sasl.kerberos.principal.to.local.rules=RULE:[1:$1](\\1)"], "linear time"),
        ([LOGIN, "sasl.enabled.mechanisms=PLAIN"], "has PLAIN and no users"),
        ([LOGIN, OAUTH], "has OAUTHBEARER and no keys: set sasl.oauthbearer.jwks.endpoint.url"),
        ([LOGIN, OAUTH, "ottla.oauthbearer.unsecured=true"], "everybody could be whoever they like"),
        ([LOGIN, OAUTH, "sasl.oauthbearer.jwks.endpoint.url=ftp://x/"], "it must begin with https://"),
        ([LOGIN, OAUTH, "sasl.oauthbearer.jwks.endpoint.url=https://u:p@x/"], "must not have a user or password"),
        ([LOGIN, OAUTH, KEYS], "tokens of any audience: set sasl.oauthbearer.expected.audience, or"),
        (
            [LOGIN, OAUTH, KEYS, "sasl.oauthbearer.expected.audience=kafka"],
            "tokens of any issuer: set sasl.oauthbearer.expected.issuer, or",
        ),
        ([LOGIN, "sasl.enabled.mechanisms=PLAIN", JAAS + "nonsense"], "ends too early"),
        (
            [LOGIN, "sasl.enabled.mechanisms=PLAIN", f"{JAAS}a.b.ScramLoginModule required user_a=b;"],
            "must be a PlainLoginModule",
        ),
        (
            ["listeners=SASL_SSL://:1", "sasl.enabled.mechanisms=SCRAM-SHA-256"],
            "the listener SASL_SSL speaks TLS and has no key",
        ),
    ],
)
def test_logins_that_cannot_be(lines: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        config(*lines)
    assert sentence in str(error.value)


def test_a_listener_and_its_mechanism_have_settings_of_tokens_of_their_own() -> None:
    prefix = f"{LISTENER_PREFIX}sasl_plaintext.oauthbearer."
    found = config(
        LOGIN,
        OAUTH,
        KEYS,
        "sasl.oauthbearer.expected.audience=kafka,other",
        f"{prefix}sasl.oauthbearer.expected.issuer=https://id",
        f"{prefix}sasl.oauthbearer.clock.skew.seconds=5",
        f"{prefix}sasl.oauthbearer.sub.claim.name=azp",
        f"{prefix}sasl.oauthbearer.scope.claim.name=scp",
        f"{prefix}sasl.oauthbearer.jwks.endpoint.refresh.ms=1000",
        f"{prefix}sasl.oauthbearer.jwks.endpoint.retry.backoff.ms=10",
        f"{prefix}sasl.oauthbearer.jwks.endpoint.retry.backoff.max.ms=20",
    ).logins["SASL_PLAINTEXT"]
    assert found.oauth is not None
    assert found.oauth == OAuthSettings(
        url="https://id/keys",
        rules=ClaimRules(
            audiences=frozenset({"kafka", "other"}),
            issuer="https://id",
            skew_s=5,
            subject_claim="azp",
            scope_claim="scp",
        ),
        refresh_ms=1000,
        retry_ms=10,
        retry_max_ms=20,
    )
    unverified = [f"sasl.oauthbearer.allow.unverified.{name}=true" for name in ("audience", "issuer")]
    assert config(LOGIN, OAUTH, KEYS, *unverified).logins["SASL_PLAINTEXT"].oauth is not None


def test_passwords_are_refused_on_the_command_line() -> None:
    with pytest.raises(ConfigError) as error:
        BrokerConfig.from_sources(overrides=["ssl.key.password=canary"])
    assert "on the command line is refused" in str(error.value)
    assert "canary" not in str(error.value)


def test_a_jaas_line_without_listener_and_mechanism_is_nobodys() -> None:
    found = config(f"sasl.jaas.config={PLAIN} required user_a=b;")
    assert any("is read as listener.name.<listener>.<mechanism>" in note for note in found.notes)
    assert not found.logins


@pytest.mark.parametrize(
    "name",
    ["listener.name.ssl.ssl.client.auth", "sasl.enabled.mechanisms", "listener.name.x.plain.sasl.jaas.config"],
)
def test_what_needs_a_restart_is_refused_on_a_running_broker(name: str) -> None:
    refusal = validate_broker_config({name: "x"}, per_broker=True)
    assert refusal is not None
    assert "Cannot update these configs dynamically" in (refusal.message or "")


def test_kerberos_of_a_listener() -> None:
    found = config(
        LOGIN,
        KEYTAB,
        "sasl.kerberos.principal.to.local.rules=RULE:[2:$1],DEFAULT",
        "listener.name.sasl_plaintext.sasl.kerberos.service.name=kafka",
    ).logins["SASL_PLAINTEXT"]
    assert found.mechanisms == ("GSSAPI",)
    assert found.kerberos is not None
    assert found.kerberos.keys == Keys(principal="kafka/h@R", keytab="/k")
    assert found.kerberos.rules == ("RULE:[2:$1]", "DEFAULT")
    assert found.kerberos.service == "kafka"
    cluster = ("broker.id=1", "zookeeper.connect=zk:2181", "security.inter.broker.protocol=SASL_PLAINTEXT")
    among = config(LOGIN, KEYTAB, *cluster).peer_login
    assert (among.mechanism, among.kerberos is not None and among.kerberos.service) == ("GSSAPI", "kafka")


def test_kerberos_without_the_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gssapi", None)
    cluster = ("broker.id=1", "zookeeper.connect=zk:2181", "security.inter.broker.protocol=SASL_PLAINTEXT")
    found = config(LOGIN, KEYTAB, *cluster)
    for start in (
        lambda: _kerberos("SASL_PLAINTEXT", found.logins["SASL_PLAINTEXT"]),
        lambda: _kerberos_exchanges(found.peer_login),
    ):
        with pytest.raises(ConfigError, match=r"GSSAPI needs more packages: pip install 'ottla\[gssapi\]'"):
            start()


def test_in_a_cluster_brokers_need_a_login_of_their_own() -> None:
    lines = [LOGIN, "sasl.enabled.mechanisms=SCRAM-SHA-256"]
    assert config(*lines).logins
    assert config(*lines).peer_login.mechanism == ""
    with pytest.raises(ConfigError, match=r"set sasl\.mechanism\.inter\.broker\.protocol to one of PLAIN"):
        config(*lines, "zookeeper.connect=zk:2181")
