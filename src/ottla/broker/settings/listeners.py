"""Listeners: what `listeners`, `advertised.listeners` and their relatives mean. Pure: text in, addresses out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from ottla.config import BROKER, ConfigError
from ottla.config.mistakes import Mistakes

#: `advertised.listeners=auto`: each connection is answered with the address it used. For a single node.
ADVERTISE_AUTO = "auto"

#: The host whose listener is bound to both loopback addresses, or not at all.
LOOPBACK = "localhost"

#: Keys that can be set for one listener: `listener.name.<name>.<key>`.
PER_LISTENER = frozenset(
    {
        "connections.max.reauth.ms",
        "max.connection.creation.rate",
        "max.connections",
        "sasl.enabled.mechanisms",
        "sasl.jaas.config",
        "sasl.kerberos.principal.to.local.rules",
        "sasl.kerberos.service.name",
        "sasl.oauthbearer.allow.unverified.audience",
        "sasl.oauthbearer.allow.unverified.issuer",
        "sasl.oauthbearer.clock.skew.seconds",
        "sasl.oauthbearer.expected.audience",
        "sasl.oauthbearer.expected.issuer",
        "sasl.oauthbearer.jwks.endpoint.refresh.ms",
        "sasl.oauthbearer.jwks.endpoint.retry.backoff.max.ms",
        "sasl.oauthbearer.jwks.endpoint.retry.backoff.ms",
        "sasl.oauthbearer.jwks.endpoint.url",
        "sasl.oauthbearer.scope.claim.name",
        "sasl.oauthbearer.sub.claim.name",
        "sasl.server.max.receive.size",
        "ssl.allow.dn.changes",
        "ssl.allow.san.changes",
        "ssl.cipher.suites",
        "ssl.client.auth",
        "ssl.enabled.protocols",
        "ssl.key.password",
        "ssl.keystore.certificate.chain",
        "ssl.keystore.key",
        "ssl.keystore.location",
        "ssl.keystore.password",
        "ssl.keystore.type",
        "ssl.principal.mapping.rules",
        "ssl.truststore.certificates",
        "ssl.truststore.location",
        "ssl.truststore.password",
        "ssl.truststore.type",
    }
)

SECURITY_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")


class Listener(NamedTuple):
    """One address. `host` is "" for all interfaces; port 0 is any free port (advertised: the port that was got)."""

    name: str
    host: str
    port: int
    security_protocol: str = "PLAINTEXT"


def is_any_address(host: str) -> bool:
    """Return whether a listener's host stands for all addresses of the machine."""
    return host in ("", "0.0.0.0", "::")


def resolve_listeners(text: Mapping[str, str]) -> tuple[Listener, ...]:
    """Return the listeners to open: those of `listeners` that are not for the KRaft controller.

    Raises:
        ConfigError: an address cannot be read, a name or port occurs twice, or the security protocol is not served.
    """
    protocols = _protocol_map(text)
    controllers = _names(text.get("controller.listener.names", ""))
    opened: list[Listener] = []
    mistakes = Mistakes()
    for name, host, port in _parse("listeners", text.get("listeners", BROKER["listeners"].default or "")):
        if name in controllers:
            continue
        protocol = protocols.get(name)
        if protocol is None:
            mistakes.add(f"listeners: no security protocol is defined for listener {name}; add it to "
                         "listener.security.protocol.map")  # fmt: skip
        else:
            opened.append(Listener(name, host, port, protocol))
    mistakes.raise_all()
    if not opened:
        raise ConfigError("listeners must contain at least one listener for clients")
    ports = [(listener.port, ":" in listener.host) for listener in opened if listener.port]
    if len(set(ports)) < len(ports):
        raise ConfigError(f"listeners: each listener must have a port of its own: {text['listeners']}")
    return tuple(opened)


def is_loopback(host: str) -> bool:
    """Return whether a listener on this host can be reached from this machine only."""
    return host == LOOPBACK or host == "::1" or host.startswith("127.")


def resolve_advertised(text: Mapping[str, str], listeners: tuple[Listener, ...]) -> tuple[Listener, ...] | None:
    """Return the addresses that clients get, or None for the address they used themselves.

    Raises:
        ConfigError: an address cannot be read, means no particular host, or has no listener.
    """
    value = (text.get("advertised.listeners") or ADVERTISE_AUTO).strip()
    if value in ("", ADVERTISE_AUTO):
        return None
    controllers = _names(text.get("controller.listener.names", ""))
    protocols = {listener.name: listener.security_protocol for listener in listeners}
    advertised: list[Listener] = []
    mistakes = Mistakes()
    for name, host, port in _parse("advertised.listeners", value):
        if name in controllers and name not in protocols:
            continue
        if name not in protocols:
            mistakes.add(f"advertised.listeners: {name} is not one of the listeners {', '.join(protocols)}")
        elif is_any_address(host):
            mistakes.add(
                f"advertised.listeners: clients cannot connect to {name}://{host}:{port}; name a host, or use auto"
            )
        else:
            advertised.append(Listener(name, host, port, protocols[name]))
    mistakes.raise_all()
    missing = [name for name in protocols if name not in {listener.name for listener in advertised}]
    if missing and len(advertised) == 0:
        raise ConfigError("advertised.listeners must name at least one of the listeners")
    return tuple(advertised)


def resolve_inter_broker(text: Mapping[str, str], listeners: tuple[Listener, ...]) -> str:
    """Return the listener that brokers use among themselves. Raises ConfigError if it does not exist."""
    names = [listener.name for listener in listeners]
    wanted = (text.get("inter.broker.listener.name") or "").strip().upper()
    protocol = (text.get("security.inter.broker.protocol") or "").strip().upper()
    if wanted and protocol:
        raise ConfigError("only one of inter.broker.listener.name and security.inter.broker.protocol can be set")
    if protocol and protocol not in names:
        raise ConfigError(
            f"security.inter.broker.protocol={protocol} needs a listener of that name; there are {', '.join(names)}"
        )
    if protocol:
        return protocol
    if wanted:
        if wanted not in names:
            raise ConfigError(
                f"inter.broker.listener.name must be one of the listeners {', '.join(names)}, not {wanted}"
            )
        return wanted
    return "PLAINTEXT" if "PLAINTEXT" in names else names[0]


def apply_flags(
    settings: Mapping[str, str], *, host: str | None, port: int | None, advertise: str | None
) -> dict[str, str]:
    """Return the settings that --host, --port and --advertise stand for. They speak about the first client listener."""
    changed: dict[str, str] = {}
    if port is not None and not 0 <= port <= 65535:
        raise ConfigError(f"--port must be 0 to 65535, but it is {port}")
    if host is None and port is None and advertise is None:
        return changed
    first, *others = resolve_listeners(settings)
    before = first
    if host is not None or port is not None:
        first = first._replace(
            host=first.host if host is None else host.strip("[]"), port=first.port if port is None else port
        )
        kept = [
            f"{name}://{_bracketed(h)}:{p}"
            for name, h, p in _parse("listeners", settings.get("listeners", ""))
            if name in _names(settings.get("controller.listener.names", ""))
        ]
        changed["listeners"] = ",".join([_text(first), *(_text(other) for other in others), *kept])
        # An address advertised under the old port would send clients to nowhere.
        advertised = _parse("advertised.listeners", _explicit(settings))
        if port is not None and (first.name, before.port) in {(name, p) for name, _, p in advertised}:
            changed["advertised.listeners"] = ",".join(
                f"{name}://{_bracketed(h)}:{first.port if name == first.name else p}" for name, h, p in advertised
            )
    if advertise == ADVERTISE_AUTO:
        changed["advertised.listeners"] = ADVERTISE_AUTO
    elif advertise is not None:
        _check_advertise(advertise)
        shown = advertise if _has_port(advertise) else f"{_bracketed(advertise)}:{first.port}"
        changed["advertised.listeners"] = f"{first.name}://{shown}"
    return changed


#: HOST, HOST:PORT, [V6] or [V6]:PORT; a bare IPv6 address is taken as a host.
_ADVERTISE = re.compile(
    r"(?:[A-Za-z0-9._-]+(?::(?P<port>\d+))?|\[[0-9A-Fa-f:.%]+\](?::(?P<port6>\d+))?|(?=[^:]*:[^:]*:)[0-9A-Fa-f:.]+)"
)


def _check_advertise(text: str) -> None:
    match = _ADVERTISE.fullmatch(text)
    if match is None:
        raise ConfigError(f"--advertise must be HOST or HOST:PORT, but it is {text!r}")
    port = match["port"] or match["port6"]
    if port is not None and not 1 <= int(port) <= 65535:
        raise ConfigError(f"--advertise: the port must be 1 to 65535, but it is {port}")


def _explicit(settings: Mapping[str, str]) -> str:
    value = (settings.get("advertised.listeners") or "").strip()
    return "" if value == ADVERTISE_AUTO else value


def parse_ip_overrides(text: str) -> dict[str, int]:
    """Return the connection limits of `max.connections.per.ip.overrides` ("host:count,...")."""
    limits: dict[str, int] = {}
    mistakes = Mistakes()
    for item in text.split(","):
        if not item.strip():
            continue
        host, colon, count = item.strip().rpartition(":")
        if colon and host and count.strip().isdecimal():
            limits[host.strip().strip("[]")] = int(count)
        else:
            mistakes.add(f"max.connections.per.ip.overrides: write {item.strip()} as host:count")
    mistakes.raise_all()
    return limits


def _parse(key: str, value: str) -> list[tuple[str, str, int]]:
    found: list[tuple[str, str, int]] = []
    mistakes = Mistakes()
    for item in value.split(","):
        if not item.strip():
            continue
        name, scheme, address = item.strip().partition("://")
        host, colon, port = address.rpartition(":")
        if not (scheme and name and colon) or not port.isdecimal() or int(port) > 65535:
            mistakes.add(f"{key}: cannot read {item.strip()!r}; write it as NAME://host:port")
        elif host.startswith("[") != host.endswith("]") or (":" in host and not host.startswith("[")):
            mistakes.add(f"{key}: cannot read {item.strip()!r}; an IPv6 address stands in brackets")
        else:
            found.append((name.upper(), host.strip("[]"), int(port)))
    mistakes.raise_all()
    names = [name for name, _, _ in found]
    if len(set(names)) < len(names):
        raise ConfigError(f"{key}: each listener must have a name of its own: {value}")
    return found


def _protocol_map(text: Mapping[str, str]) -> dict[str, str]:
    key = "listener.security.protocol.map"
    protocols: dict[str, str] = {}
    mistakes = Mistakes()
    for item in text.get(key, BROKER[key].default or "").split(","):
        if not item.strip():
            continue
        name, colon, protocol = item.strip().partition(":")
        if colon and protocol.strip().upper() in SECURITY_PROTOCOLS:
            protocols[name.strip().upper()] = protocol.strip().upper()
        else:
            mistakes.add(f"{key}: cannot read {item.strip()!r}; allowed are {', '.join(SECURITY_PROTOCOLS)}")
    mistakes.raise_all()
    return protocols


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip().upper() for name in text.split(",") if name.strip())


def _has_port(address: str) -> bool:
    host, colon, port = address.rpartition(":")
    return bool(colon) and port.isdecimal() and (host.endswith("]") or ":" not in host)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _text(listener: Listener) -> str:
    return f"{listener.name}://{_bracketed(listener.host)}:{listener.port}"
