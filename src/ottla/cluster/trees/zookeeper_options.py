"""How ZooKeeper is reached: Kafka 3.9's keys (zookeeper.*) as values that `trees.zookeeper` can use.

Java's keystores cannot be read here: certificates and keys are PEM files, as Kafka takes them with
`zookeeper.ssl.keystore.type=PEM`. What Kafka reads from a JAAS file (its section Client) stands in
`ottla.zookeeper.sasl.jaas.config`, in the same words. What kazoo and Python's ssl cannot do is refused with a sentence that
names the key. Pure: text in, values out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ottla.config import ConfigError

SESSION_TIMEOUT_MS: Final = 18_000
PORT: Final = 2181
JAAS_KEY: Final = "ottla.zookeeper.sasl.jaas.config"
NETTY: Final = "org.apache.zookeeper.ClientCnxnSocketNetty"

_PROTOCOLS: Final = ("TLSv1.2", "TLSv1.3")
_DIGEST_MODULES: Final = (
    "org.apache.zookeeper.server.auth.DigestLoginModule",
    "org.apache.kafka.common.security.plain.PlainLoginModule",
)
_KERBEROS_MODULE: Final = "com.sun.security.auth.module.Krb5LoginModule"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsOptions:
    """TLS to ZooKeeper. Files are PEM; `keystore` has the private key and its certificates.

    Attributes:
        truststore: None trusts what this machine trusts.
        protocols: the lowest and the highest that are used.
        cipher_suites: names of TLS 1.2, colon-separated as OpenSSL takes them; None for its defaults.
    """

    keystore: str | None = None
    keystore_password: str | None = field(default=None, repr=False)
    truststore: str | None = None
    protocols: tuple[str, str] = ("TLSv1.2", "TLSv1.3")
    cipher_suites: str | None = None
    check_hostname: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SaslOptions:
    """SASL to ZooKeeper: DIGEST-MD5 with a name and a password, or GSSAPI with this process' tickets."""

    mechanism: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    principal: str | None = None
    service: str = "zookeeper"


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooKeeperOptions:
    """One ensemble and how to reach it.

    Attributes:
        servers: "host:port" each.
        chroot: the node below which everything is kept, "" for the root.
        session_timeout_ms: what is asked for; the servers may grant another one.
        connection_timeout_ms: how long the first connection may take.
        set_acl: nodes can be changed only by this identity, and most be read by everybody.
    """

    servers: tuple[str, ...]
    chroot: str = ""
    session_timeout_ms: int = SESSION_TIMEOUT_MS
    connection_timeout_ms: int = SESSION_TIMEOUT_MS
    set_acl: bool = False
    tls: TlsOptions | None = None
    sasl: SaslOptions | None = None

    def __str__(self) -> str:
        return ",".join(self.servers) + self.chroot


def parse_connect(text: str) -> tuple[tuple[str, ...], str]:
    """Return the servers and the chroot of a connect string ("zk1:2181,zk2:2181/kafka").

    Raises:
        ConfigError: it is none.
    """
    hosts, slash, path = text.partition("/")
    chroot = (slash + path).rstrip("/")
    if "," in path:
        raise ConfigError(f"zookeeper.connect: the chroot of {text!r} is given once, after the last server")
    if any(name in ("", ".", "..") for name in chroot[1:].split("/")) and chroot:
        raise ConfigError(f"zookeeper.connect: {chroot!r} is no path of a node")
    servers = []
    for host in hosts.split(","):
        name = host.strip()
        match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[^\[\]:\s]+)(?::(\d+))?", name)
        if match is None or not 0 < int(match[2] or PORT) < 65536:
            raise ConfigError(f"zookeeper.connect: {name!r} is no host:port")
        servers.append(f"{match[1]}:{match[2] or PORT}")
    return tuple(servers), chroot


def zookeeper_options(settings: Mapping[str, str]) -> ZooKeeperOptions:
    """Return what Kafka's keys say; unknown keys are left to others. `zookeeper.connect` must be there.

    Raises:
        ConfigError: a value makes no sense, or asks for what cannot be done here.
    """
    servers, chroot = parse_connect(settings["zookeeper.connect"])
    session_timeout_ms = _milliseconds(settings, "zookeeper.session.timeout.ms", SESSION_TIMEOUT_MS)
    sasl = parse_jaas(settings[JAAS_KEY]) if settings.get(JAAS_KEY) else None
    tls = _tls(settings)
    set_acl = _flag(settings, "zookeeper.set.acl", False)
    if set_acl and sasl is None and (tls is None or tls.keystore is None):
        raise ConfigError(
            f"zookeeper.set.acl=true needs an identity: {JAAS_KEY}, or TLS with zookeeper.ssl.keystore.location"
        )
    return ZooKeeperOptions(
        servers=servers,
        chroot=chroot,
        session_timeout_ms=session_timeout_ms,
        connection_timeout_ms=_milliseconds(settings, "zookeeper.connection.timeout.ms", session_timeout_ms),
        set_acl=set_acl,
        tls=tls,
        sasl=sasl,
    )


def parse_jaas(text: str) -> SaslOptions:
    """Return what a JAAS entry says: `org.apache.zookeeper.server.auth.DigestLoginModule required username="a" ...;`.

    Raises:
        ConfigError: it is none, or one of a login module that is not known here. The text is not shown: it has a password.
    """
    match = re.fullmatch(
        r'\s*(?P<module>[\w.]+)\s+(?:required|requisite|sufficient|optional)\s*(?P<options>(?:[\w.]+\s*=\s*(?:"(?:[^"\\]|\\.)*"|[^\s";]+)\s*)*);?\s*',
        text,
    )
    if match is None:
        raise ConfigError(f'{JAAS_KEY} is no JAAS entry (module required name="value" ...;)')
    options = {
        name: re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
        for name, value in re.findall(r'([\w.]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s";]+)', match["options"])
    }
    module = match["module"]
    if module in _DIGEST_MODULES:
        if not options.get("username") or not options.get("password"):
            raise ConfigError(f"{JAAS_KEY}: {module} needs username and password")
        return SaslOptions(mechanism="DIGEST-MD5", username=options["username"], password=options["password"])
    if module == _KERBEROS_MODULE:
        if options.get("useKeyTab") == "true" or options.get("useTicketCache") != "true":
            raise ConfigError(
                f"{JAAS_KEY}: of Kerberos only useTicketCache=true is possible here; keep the tickets fresh with k5start"
            )
        return SaslOptions(
            mechanism="GSSAPI",
            principal=options.get("principal"),
            service=options.get("serviceName", "zookeeper"),
        )
    raise ConfigError(
        f"{JAAS_KEY}: the login module {module} is not known here; DigestLoginModule and Krb5LoginModule are"
    )


def _tls(settings: Mapping[str, str]) -> TlsOptions | None:
    socket = settings.get("zookeeper.clientCnxnSocket")
    if not _flag(settings, "zookeeper.ssl.client.enable", False):
        return None
    if socket != NETTY:
        # Kafka does not speak TLS without it either: then the configuration is not what its author believes.
        raise ConfigError(f"zookeeper.ssl.client.enable=true needs zookeeper.clientCnxnSocket={NETTY}, as in Kafka")
    for key in ("zookeeper.ssl.crl.enable", "zookeeper.ssl.ocsp.enable"):
        if _flag(settings, key, False):
            raise ConfigError(f"{key}=true is not possible here: certificates are not asked about at their issuer")
    for store in ("keystore", "truststore"):
        location, kind = f"zookeeper.ssl.{store}.location", settings.get(f"zookeeper.ssl.{store}.type")
        path = settings.get(location)
        if path and (kind or ("PEM" if path.lower().endswith(".pem") else "JKS")).upper() != "PEM":
            raise ConfigError(
                f"{location}: {path} is no PEM file; convert it (keytool -importkeystore ... -deststoretype PKCS12, then "
                f"openssl pkcs12 -in ... -out {store}.pem) and set zookeeper.ssl.{store}.type=PEM"
            )
    protocols = [p.strip() for p in settings.get("zookeeper.ssl.enabled.protocols", "").split(",") if p.strip()]
    protocols = protocols or [settings.get("zookeeper.ssl.protocol") or "TLSv1.2"]
    unknown = [protocol for protocol in protocols if protocol not in _PROTOCOLS]
    if unknown:
        raise ConfigError(f"zookeeper.ssl.enabled.protocols: {unknown[0]} is not possible here, {_PROTOCOLS} are")
    suites = settings.get("zookeeper.ssl.cipher.suites")
    return TlsOptions(
        keystore=settings.get("zookeeper.ssl.keystore.location") or None,
        keystore_password=settings.get("zookeeper.ssl.keystore.password"),
        truststore=settings.get("zookeeper.ssl.truststore.location") or None,
        protocols=(min(protocols), max(protocols)),
        cipher_suites=":".join(part.strip() for part in suites.split(",")) if suites else None,
        # Kafka's default; anything else, the empty word too, turns the check off.
        check_hostname=settings.get("zookeeper.ssl.endpoint.identification.algorithm", "HTTPS").upper() == "HTTPS",
    )


def _flag(settings: Mapping[str, str], key: str, default: bool) -> bool:
    text = settings.get(key)
    if text is None:
        return default
    if text.strip().lower() not in ("true", "false"):
        raise ConfigError(f"{key}: {text!r} is neither true nor false")
    return text.strip().lower() == "true"


def _milliseconds(settings: Mapping[str, str], key: str, default: int) -> int:
    text = settings.get(key)
    if text is None:
        return default
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value <= 0:
        raise ConfigError(f"{key}: {text!r} is no number of milliseconds")
    return value
