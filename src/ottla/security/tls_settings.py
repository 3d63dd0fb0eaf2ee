"""What TLS is made of, as settings say it. Values only: `ssl` is imported where a context is made (`tls.py`)."""

from __future__ import annotations

from dataclasses import dataclass, field

#: What clients may agree on by ALPN: HTTP. Those of Kafka offer nothing.
ALPN_PROTOCOLS = ("http/1.1",)


class TlsSettingsError(ValueError):
    """The settings make no context: one sentence for the user, with no secret in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """One side's keys and certificates. Attributes have Kafka's names; `keystore_key` and passwords are secrets."""

    keystore_type: str = "JKS"
    keystore_location: str | None = None
    keystore_key: str | None = field(default=None, repr=False)
    keystore_certificate_chain: str | None = None
    keystore_password: str | None = field(default=None, repr=False)
    key_password: str | None = field(default=None, repr=False)
    truststore_type: str = "JKS"
    truststore_location: str | None = None
    truststore_password: str | None = field(default=None, repr=False)
    truststore_certificates: str | None = None
    enabled_protocols: tuple[str, ...] = ("TLSv1.2", "TLSv1.3")
    cipher_suites: tuple[str, ...] = ()
    client_auth: str = "none"

    @property
    def files(self) -> tuple[str, ...]:
        """The files that contexts are made of."""
        return tuple(path for path in (self.keystore_location, self.truststore_location) if path)
