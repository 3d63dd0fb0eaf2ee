"""What Kafka's keys say of ZooKeeper, and what is refused with a sentence."""

from __future__ import annotations

import pytest

from ottla.cluster.trees.zookeeper_options import (
    JAAS_KEY,
    NETTY,
    SaslOptions,
    TlsOptions,
    ZooKeeperOptions,
    parse_connect,
    parse_jaas,
    zookeeper_options,
)
from ottla.config import ConfigError

TLS = {"zookeeper.ssl.client.enable": "true", "zookeeper.clientCnxnSocket": NETTY}
DIGEST = 'org.apache.zookeeper.server.auth.DigestLoginModule required username="ottla" password="a \\"b\\" =;";'


@pytest.mark.parametrize(
    ("text", "servers", "chroot"),
    [
        ("zk1:2181,zk2:2182,zk3/kafka/a", ("zk1:2181", "zk2:2182", "zk3:2181"), "/kafka/a"),
        (" zk1 , zk2:1/", ("zk1:2181", "zk2:1"), ""),
        ("[::1]:2181,[fe80::1%eth0]/x", ("[::1]:2181", "[fe80::1%eth0]:2181"), "/x"),
    ],
)
def test_a_connect_string(text: str, servers: tuple[str, ...], chroot: str) -> None:
    assert parse_connect(text) == (servers, chroot)


@pytest.mark.parametrize(
    "text",
    ["", ",", "zk1:2181,", "zk1:port", "zk1:0", "zk1:65536", "::1:2181", "zk1/a,zk2/a", "zk1/a//b", "zk1/..", "a b:1"],
)
def test_what_is_no_connect_string(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^zookeeper\.connect: "):
        parse_connect(text)


def test_the_defaults_are_kafkas() -> None:
    options = zookeeper_options({"zookeeper.connect": "zk1"})
    assert options == ZooKeeperOptions(
        servers=("zk1:2181",), session_timeout_ms=18_000, connection_timeout_ms=18_000, set_acl=False
    )
    # The first connection may take as long as a session lives.
    options = zookeeper_options({"zookeeper.connect": "zk1", "zookeeper.session.timeout.ms": "6000"})
    assert (options.session_timeout_ms, options.connection_timeout_ms) == (6_000, 6_000)


def test_tls() -> None:
    settings = {
        **TLS,
        "zookeeper.connect": "zk1:2182",
        "zookeeper.ssl.keystore.location": "/k.pem",
        "zookeeper.ssl.keystore.password": "secret",
        "zookeeper.ssl.truststore.location": "/t.crt",
        "zookeeper.ssl.truststore.type": "PEM",
        "zookeeper.ssl.enabled.protocols": "TLSv1.3,TLSv1.2",
        "zookeeper.ssl.cipher.suites": "ECDHE-RSA-AES128-GCM-SHA256, ECDHE-RSA-AES256-GCM-SHA384",
        "zookeeper.ssl.endpoint.identification.algorithm": "",
        "zookeeper.set.acl": "true",
    }
    options = zookeeper_options(settings)
    assert options.tls == TlsOptions(
        keystore="/k.pem",
        keystore_password="secret",
        truststore="/t.crt",
        protocols=("TLSv1.2", "TLSv1.3"),
        cipher_suites="ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384",
        check_hostname=False,
    )
    assert options.set_acl
    assert "secret" not in repr(options)
    plain = zookeeper_options({"zookeeper.connect": "zk1", **TLS}).tls
    assert plain is not None
    assert (plain.protocols, plain.check_hostname) == (("TLSv1.2", "TLSv1.2"), True)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"zookeeper.ssl.client.enable": "true"}, "needs zookeeper.clientCnxnSocket=org.apache.zookeeper"),
        ({"zookeeper.ssl.client.enable": "yes"}, "'yes' is neither true nor false"),
        ({**TLS, "zookeeper.ssl.crl.enable": "true"}, "zookeeper.ssl.crl.enable=true is not possible here"),
        ({**TLS, "zookeeper.ssl.ocsp.enable": "true"}, "zookeeper.ssl.ocsp.enable=true is not possible here"),
        ({**TLS, "zookeeper.ssl.keystore.location": "/k.jks"}, "/k.jks is no PEM file; convert it"),
        (
            {**TLS, "zookeeper.ssl.keystore.location": "/k", "zookeeper.ssl.keystore.type": "JKS"},
            "/k is no PEM file; convert it",
        ),
        (
            {**TLS, "zookeeper.ssl.truststore.location": "/t.pem", "zookeeper.ssl.truststore.type": "PKCS12"},
            "/t.pem is no PEM file",
        ),
        ({**TLS, "zookeeper.ssl.protocol": "TLSv1.1"}, "TLSv1.1 is not possible here"),
        ({"zookeeper.session.timeout.ms": "0"}, "'0' is no number of milliseconds"),
        ({"zookeeper.connection.timeout.ms": "soon"}, "'soon' is no number of milliseconds"),
        ({"zookeeper.set.acl": "true"}, "zookeeper.set.acl=true needs an identity"),
        ({"zookeeper.set.acl": "true", **TLS}, "zookeeper.set.acl=true needs an identity"),
    ],
)
def test_what_cannot_be_done_is_refused(settings: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        zookeeper_options({"zookeeper.connect": "zk1", **settings})
    assert sentence in str(error.value)


def test_sasl() -> None:
    assert JAAS_KEY == "ottla.zookeeper.sasl.jaas.config"
    options = zookeeper_options({"zookeeper.connect": "zk1", JAAS_KEY: DIGEST, "zookeeper.set.acl": "true"})
    assert options.sasl == SaslOptions(mechanism="DIGEST-MD5", username="ottla", password='a "b" =;')
    assert 'a "b"' not in repr(options)
    kerberos = 'com.sun.security.auth.module.Krb5LoginModule required useTicketCache=true principal="b@REALM";'
    assert parse_jaas(kerberos) == SaslOptions(mechanism="GSSAPI", principal="b@REALM")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Client { };", "is no JAAS entry"),
        ('org.example.Module required password="hush";', "the login module org.example.Module is not known here"),
        ('org.apache.zookeeper.server.auth.DigestLoginModule required username="hush";', "needs username and password"),
        ("com.sun.security.auth.module.Krb5LoginModule required useKeyTab=true;", "only useTicketCache=true"),
    ],
)
def test_what_is_no_jaas_entry(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_jaas(text)
    assert sentence in str(error.value)
    assert "hush" not in str(error.value)
